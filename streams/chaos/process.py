"""Starts a headrace command with what `headrace chaos` needs in it: a clock to be stepped, a disk to be filled.

python -m streams.chaos.process [--clock FILE] [--inside PID] -- worker …
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

from streams.chaos import clock, disk

_DIE_WITH_PARENT = 1


def main() -> None:
    """Makes ready and becomes the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--inside", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.inside is not None:
        folder, parent = Path.cwd(), os.getppid()
        disk.join(given.inside)
        os.chdir(folder)
        # Joining may have cleared what the guard asked the kernel for.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
    if given.clock is not None:
        clock.install(given.clock)
    # Only now, so that everything they import sees that clock.
    from streams.cli import main as headrace

    sys.argv = ["headrace", *(given.command[1:] if given.command[:1] == ["--"] else given.command)]
    headrace()


if __name__ == "__main__":
    main()
