"""What tests ask about processes that are not their children."""

from __future__ import annotations

import time

import psutil


def gone(pid: int, within_s: float = 5.0) -> bool:
    """Whether a process ended or ends within the time; one that nobody has buried yet has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
