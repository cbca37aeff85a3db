"""Child processes that die with this one, each in a session of its own, its output in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GUARD = Path(__file__).with_name("_guard.py")

_LARGE_LOG_BYTES = 16 * 1024 * 1024

_Job = tuple["Future[Child]", "Sequence[str]", Path, "Mapping[str, str] | None", tuple[int, ...]]


class Child:
    """A running child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._asked_to_end = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> bool:
        """True where it ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Asks it to end (SIGTERM), once: many a program takes a second one for impatience."""
        if self.exit_code() is None and not self._asked_to_end:
            self._asked_to_end = True
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and whatever it started at once (SIGKILL), and waits until it is gone."""
        if self.exit_code() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def stop(self, grace_s: float) -> None:
        """SIGTERM, the grace, then SIGKILL."""
        self.terminate()
        self.wait(grace_s)
        self.kill()


def spawn(
    argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None, pass_fds: tuple[int, ...] = ()
) -> Child:
    """Starts a command, its standard output and error appended to the log file.

    The command's first word is a path. It gets no terminal and no Ctrl-C: who spawns it stops it.
    """
    result: Future[Child] = Future()
    _spawner().put((result, argv, log, env, pass_fds))
    return result.result()


_lock = threading.Lock()
_jobs: dict[int, SimpleQueue[_Job]] = {}


def _spawner() -> SimpleQueue[_Job]:
    """The queue of a thread that lives as long as the process.

    Linux counts the *thread* that forked as the parent: children of a thread that ends would be killed with it.
    """
    with _lock:
        if os.getpid() not in _jobs:
            jobs: SimpleQueue[_Job] = SimpleQueue()
            threading.Thread(target=_spawn_forever, args=(jobs,), name="spawner", daemon=True).start()
            _jobs[os.getpid()] = jobs
        return _jobs[os.getpid()]


def _spawn_forever(jobs: SimpleQueue[_Job]) -> None:
    while True:
        result, argv, log, env, pass_fds = jobs.get()
        try:
            result.set_result(_spawn(argv, log, env, pass_fds))
        except BaseException as error:
            result.set_exception(error)


def rotate(log: Path) -> None:
    """Puts a log that grew large aside, over the one put aside before: call it before a start."""
    if log.exists() and log.stat().st_size > _LARGE_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def _spawn(argv: Sequence[str], log: Path, env: Mapping[str, str] | None, pass_fds: tuple[int, ...]) -> Child:
    log.parent.mkdir(parents=True, exist_ok=True)
    rotate(log)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 (an argument list, no shell)
            [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    return Child(process)
