"""An orderly end within a bounded time: SIGTERM asks for it, and past the grace the process ends as it stands.

The wake-up file descriptor is written by Python's own signal handler in C, also while the main thread is stuck in a
call that never returns; so the thread that counts the grace hears of the signal in any case.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from streams.observe.health import whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXIT_PAST_GRACE", "Grace", "end_as_it_stands"]

log = logging.getLogger(__name__)

EXIT_PAST_GRACE = 70
"""`EX_SOFTWARE` of sysexits.h: it did not end as it should."""
_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Grace:
    """Calls `stop` at SIGTERM or SIGINT, and ends the process where its block is not left in time; a context manager.

    Only for the main thread.

    Args:
        grace_s: From the signal on.
        stop: Asks for the end; called between two steps of the main thread.
        consequence: What becomes of unfinished work past the grace, for the last line of the log.
    """

    def __init__(self, grace_s: float, stop: Callable[[], None], consequence: str) -> None:
        self._grace_s = grace_s
        self._stop = stop
        self._consequence = consequence
        self._left = threading.Event()
        self._before: dict[int, Any] = {}
        self._before_fd = -1
        self._reading = self._writing = -1

    def __enter__(self) -> Grace:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: self._stop()) for number in _NUMBERS}
        threading.Thread(target=self._watch, name="grace", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._before_fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writing)  # the thread reads the end, and ends

    def _watch(self) -> None:
        try:
            while heard := os.read(self._reading, 64):
                if set(heard) & set(_NUMBERS):
                    if not self._left.wait(self._grace_s):
                        end_as_it_stands(self._grace_s, self._consequence)
                    return
        finally:
            os.close(self._reading)


def end_as_it_stands(grace_s: float, consequence: str) -> NoReturn:
    """Ends the process at once, saying where it still was and what follows."""
    log.critical("not finished %.0f s after it was asked to end, in %s: %s", grace_s, whereabouts(), consequence)
    logging.shutdown()
    os._exit(EXIT_PAST_GRACE)
