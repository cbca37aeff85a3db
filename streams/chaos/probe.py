"""Asks the store and the monitor over and over how they are, as their users would, from a thread of its own."""

from __future__ import annotations

import threading
import time
import urllib.request
from typing import TYPE_CHECKING

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Probe"]

_EVERY_S = 0.5
_HEALTH_S = 2.0


class Probe:
    """What was last heard; a context manager.

    Args:
        count: Asks for the rows of the results, through the proxy; raises where nobody answers.
        monitor_url: Where the monitor tells of its health, if it is there.
    """

    def __init__(self, count: Callable[[], int], monitor_url: Callable[[], str | None]) -> None:
        self.rows = -1
        """Rows of results when last asked."""
        self.rows_at = 0.0
        """When (wall clock) the question was asked that was answered last."""
        self.monitor_at = 0.0
        """Likewise, that the monitor is ready."""
        self._count = count
        self._monitor_url = monitor_url
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(ask,), daemon=True) for ask in (self._store, self._monitor)
        ]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _look(self, ask: Callable[[], None]) -> None:
        while not self._over.wait(_EVERY_S):
            ask()

    def _store(self) -> None:
        asked_at = time.time()
        try:
            self.rows = self._count()
        except HeadraceError:
            return
        self.rows_at = asked_at

    def _monitor(self) -> None:
        asked_at, url = time.time(), self._monitor_url()
        if url is None:
            return
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=_HEALTH_S):  # noqa: S310 - our own loopback
                self.monitor_at = asked_at
        except OSError:
            return
