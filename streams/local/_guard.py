"""Runs a command that dies with the process that started it, even when that one is killed with -9.

Started as `python -I -S _guard.py PARENT_PID COMMAND…` with a pipe as standard input that the parent holds open.
On Linux it asks the kernel for a SIGKILL at the parent's death and becomes the command: the process id stays. Elsewhere
it stays as a watcher of the pipe, which ends when the parent does, and passes signals and the exit code on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def _become(parent: int, command: list[str]) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 (no shell: the command is an argument list of our own)


def _watch(command: list[str]) -> int:
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: object) -> None:
        if not started:
            sys.exit(128 + number)
        started[0].send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False))  # noqa: S603
    threading.Thread(target=_kill_at_end_of_pipe, args=(started[0],), daemon=True).start()
    code = started[0].wait()
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it


def _kill_at_end_of_pipe(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    child.kill()


if __name__ == "__main__":
    if sys.platform == "linux":
        _become(int(sys.argv[1]), sys.argv[2:])
    sys.exit(_watch(sys.argv[2:]))
