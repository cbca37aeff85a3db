"""Keeps the processes of `headrace up` and `headrace demo` running: starts, restarts with back-off, stops all.

The owner of a supervisor calls `poll` in its own loop (or `run`, where it has nothing else to do); there are no
threads and no callbacks. Children die with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

from streams.errors import HeadraceError
from streams.local import children, endpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_POLL_S = 0.1
_TAIL_LINES = 25
# How a headrace command ends whose settings or model are wrong: it would fail the same way again.
_WRONG_USE = 2

Status = Literal["waiting", "running", "restarting", "finished", "failed", "stopped"]


class ServiceFailedError(HeadraceError):
    """A service died more often than its restarts allow."""


class RestartPolicy(NamedTuple):
    """How often and how soon a process that died is started again."""

    most: int = 5
    """Restarts after ends of its own making before it counts as failed."""
    most_killed: int = 50
    """Restarts after ends by a signal, which it could not help: they come without growing delays."""
    first_s: float = 0.3
    longest_s: float = 15.0
    forgiven_after_s: float = 60.0
    """A process that ran this long starts with a clean record."""

    def delay_s(self, restarts: int) -> float:
        """How long to wait before the next start, which doubles every time."""
        return min(self.longest_s, self.first_s * 2.0**restarts)


class State(NamedTuple):
    """What is known about a process."""

    name: str
    status: Status
    pid: int | None
    restarts: int
    """In all, the forgiven ones too."""
    exit_code: int | None
    """Of its last end; negative where a signal ended it."""
    log: Path


@dataclass(slots=True)
class _Service:
    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | None
    policy: RestartPolicy
    status: Status = "waiting"
    child: children.Child | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    restarts: int = 0
    recent_restarts: int = 0
    recent_kills: int = 0
    exit_code: int | None = None
    log_began: int = 0
    """Where its log ended before: what earlier runs said is no news of this one."""


@dataclass(slots=True)
class Supervisor:
    """The processes of one data directory; used as a context manager it stops them all at its end."""

    data_dir: Path
    grace_s: float = 10.0
    """Between SIGTERM and SIGKILL."""
    clock: Callable[[], float] = time.monotonic
    _services: dict[str, _Service] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        policy: RestartPolicy = RestartPolicy(),  # noqa: B008 (immutable)
    ) -> None:
        """Starts a process and keeps it running; it goes to `<data>/logs/<name>.log`.

        Args:
            name: Unique among the supervised.
            argv: The command, its first word a path; see `headrace_command`.
            env: Its whole environment; default this process's.
            policy: Of its restarts. A process that ends with 0 has finished and is not restarted.
        """
        if name in self._services:
            raise ValueError(f"a service {name!r} is already supervised")
        log = self.data_dir / "logs" / f"{name}.log"
        began = log.stat().st_size if log.exists() else 0
        service = _Service(name, argv, log, env, policy, log_began=began)
        self._services[name] = service
        self._launch(service)

    def again(self, name: str) -> None:
        """Starts a process that failed, finished or was stopped once more, with a clean record."""
        service = self._services[name]
        if service.status in ("failed", "finished", "stopped"):
            service.restarts += 1
            service.recent_restarts = service.recent_kills = 0
            self._launch(service)

    def poll(self) -> None:
        """Looks after every process once: call it several times a second."""
        now = self.clock()
        for service in self._services.values():
            if service.child is not None and service.status == "running":
                exit_code = service.child.exit_code()
                if exit_code is not None:
                    self._ended(service, service.child, exit_code, now)
                elif now - service.started_at >= service.policy.forgiven_after_s:
                    service.recent_restarts = service.recent_kills = 0
            elif service.status == "restarting" and now >= service.start_again_at:
                service.restarts += 1
                self._launch(service)

    def run(self) -> None:
        """Polls until `request_stop` (a signal, see `stopping_on_signals`) or until a service failed for good.

        Raises:
            ServiceFailedError: With the last lines of the service's log.
        """
        while not self._stop.wait(_POLL_S):
            self.poll()
            self.check()

    def check(self) -> None:
        """Raises where a service failed for good.

        Raises:
            ServiceFailedError: With the last lines of the service's log.
        """
        for service in self._services.values():
            if service.status == "failed":
                raise ServiceFailedError(
                    f"{service.name} ended with exit code {service.exit_code} after {service.restarts} restarts. "
                    f"The end of {service.log}:\n{log_tail(service.log, since=service.log_began)}"
                )

    def states(self) -> list[State]:
        """Every process, in the order of their starts."""
        return [
            State(
                service.name,
                service.status,
                service.child.pid if service.child and service.status == "running" else None,
                service.restarts,
                service.exit_code,
                service.log,
            )
            for service in self._services.values()
        ]

    def await_endpoint(self, key: str, timeout_s: float = 60.0) -> str:
        """The endpoint that one of the processes publishes, supervising all of them meanwhile.

        Raises:
            EndpointTimeoutError: It did not come.
            ServiceFailedError: A service failed for good.
            KeyboardInterrupt: The end was asked for meanwhile.
        """
        return endpoints.wait_for(self.data_dir, key, timeout_s, self.look_after)

    def look_after(self) -> None:
        """What whoever waits for a process calls meanwhile.

        Raises:
            ServiceFailedError: A service failed for good.
            KeyboardInterrupt: The end was asked for: waiting on has become pointless.
        """
        self.poll()
        self.check()
        if self.stop_requested:
            raise KeyboardInterrupt

    def request_stop(self) -> None:
        """Makes `run` return; safe in a signal handler."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked for the end."""
        return self._stop.is_set()

    @contextlib.contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and a closed terminal ask for the end; a second one falls back to what they did before."""
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: meant to outlive the terminal
            numbers.append(signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}

        def on_signal(_number: int, _frame: object) -> None:
            self.request_stop()
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in numbers:
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, *names: str) -> None:
        """Stops the named processes, or all: SIGTERM, newest first, one grace for all together, then SIGKILL."""
        stopping = [
            service for service in reversed(self._services.values()) if service.name in (names or self._services)
        ]
        for service in stopping:
            if service.child is not None:
                service.child.terminate()
        deadline = time.monotonic() + self.grace_s
        for service in stopping:
            if service.child is not None:
                service.child.stop(max(0.0, deadline - time.monotonic()))
                endpoints.withdraw(self.data_dir, pid=service.child.pid)
                service.exit_code = service.child.exit_code()
            if service.status not in ("finished", "failed"):
                service.status = "stopped"

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _launch(self, service: _Service) -> None:
        service.child = children.spawn(service.argv, service.log, service.env)
        service.started_at = self.clock()
        service.status = "running"

    def _ended(self, service: _Service, child: children.Child, exit_code: int, now: float) -> None:
        child.kill()  # closes its pipe
        endpoints.withdraw(self.data_dir, pid=child.pid)
        service.exit_code = exit_code
        if exit_code == 0:
            service.status = "finished"
        elif exit_code == _WRONG_USE:
            service.status = "failed"
        elif exit_code < 0:
            self._again(service, service.recent_kills, service.policy.most_killed, now + service.policy.first_s)
            service.recent_kills += 1
        else:
            delay_s = service.policy.delay_s(service.recent_restarts)
            self._again(service, service.recent_restarts, service.policy.most, now + delay_s)
            service.recent_restarts += 1

    def _again(self, service: _Service, before: int, most: int, at: float) -> None:
        service.status = "failed" if before >= most else "restarting"
        service.start_again_at = at


def headrace_command(*arguments: str) -> list[str]:
    """The command line of a headrace process, whatever is on the PATH."""
    return [sys.executable, "-m", "streams", *arguments]


def log_tail(log: Path, lines: int = _TAIL_LINES, since: int = 0) -> str:
    """The last lines of a log file behind a place, indented, repeated ones once; empty where there is none."""
    if not log.exists():
        return ""
    content = log.read_bytes()
    said = content[since if since <= len(content) else 0 :].decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line, _ in list(groupby(said))[-lines:])
