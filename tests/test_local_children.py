"""Children: output in a file, no terminal, and an end with their parent on every system."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from processes import gone

from streams.local import children

if TYPE_CHECKING:
    from pathlib import Path

# What `_guard.py` does where the kernel has no death signal.
_WATCH = "import sys; from streams.local._guard import _watch; sys.exit(_watch(sys.argv[1:]))"
_CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    """Standard output and error of every start are in the one file, whose folder is made."""
    log = tmp_path / "logs" / "child.log"
    for word in ("one", "two"):
        code = f"import sys; print('{word}', file=sys.stderr); sys.exit(3)"
        child = children.spawn([sys.executable, "-c", code], log)

        assert child.wait(10)
        assert child.exit_code() == 3
        child.kill()

    assert log.read_text() == "one\ntwo\n"


def test_the_environment_is_the_given_one(tmp_path: Path) -> None:
    """A child sees the environment it was given and nothing of its parent's."""
    log = tmp_path / "child.log"
    child = children.spawn([sys.executable, "-c", "import os; print(os.environ.get('A'))"], log, {"A": "b"})

    assert child.wait(10)
    assert log.read_text() == "b\n"


def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    """A log over its bound starts anew; the old one is kept beside it, once."""
    log = tmp_path / "child.log"
    log.write_bytes(b"x" * (16 * 1024 * 1024 + 1))
    children.rotate(log)
    log.write_text("new")
    children.rotate(log)

    assert (tmp_path / "child.log.1").stat().st_size == 16 * 1024 * 1024 + 1
    assert log.read_text() == "new"


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    """A command that cannot be run ends with a code other than 0 and its reason in the log."""
    child = children.spawn([str(tmp_path / "nothing")], tmp_path / "child.log")

    assert child.wait(10)
    assert child.exit_code() != 0
    assert "No such file" in (tmp_path / "child.log").read_text()


def _watched() -> tuple[subprocess.Popen[str], int]:
    watcher = subprocess.Popen(
        [sys.executable, "-c", _WATCH, sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout
    return watcher, int(watcher.stdout.readline())


def test_without_a_death_signal_the_pipe_tells() -> None:
    """Where the kernel sends no death signal, the end of the parent's pipe ends the child."""
    watcher, pid = _watched()
    assert watcher.stdin
    watcher.stdin.close()  # as a killed parent's would be

    assert gone(pid)
    assert watcher.wait(10) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_watcher_passes_signals_and_exit_codes_on(number: signal.Signals) -> None:
    """A signal to the watcher reaches the child, and the watcher ends as the child did."""
    watcher, pid = _watched()
    watcher.send_signal(number)

    assert gone(pid)
    assert watcher.wait(10) == 128 + number
