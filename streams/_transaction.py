"""What a transaction covers so far, and when it is due: a pure policy over a clock that is handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Transaction"]


class Transaction:
    """The one that is open, or will be as soon as the commit of the one before is over.

    Args:
        interval_ms: It is due so long after its first record.
        max_events: And at so many.
    """

    def __init__(self, interval_ms: float, max_events: int) -> None:
        self._interval_s = interval_ms / 1000
        self._max_events = max_events
        self._began: float | None = None
        # When the one before was over: what waited then counts from there, or every micro-batch of a long poll would be
        # a transaction of its own.
        self._over = float("-inf")
        self.events = 0
        self.partitions: set[int] = set()

    def __bool__(self) -> bool:
        """Whether it covers anything."""
        return self._began is not None

    def add(self, partitions: Iterable[int], events: int, since: float) -> None:
        """Takes events of some partitions that came then, or none where only their ends were reached."""
        if self._began is None:
            self._began = max(since, self._over)
        self.partitions.update(partitions)
        self.events += events

    def due_in(self, now: float) -> float:
        """Seconds until it is due, none or fewer where it is; infinite where it covers nothing."""
        return float("inf") if self._began is None else self._began + self._interval_s - now

    def due(self, now: float) -> bool:
        """Whether it should be committed."""
        return self.events >= self._max_events or self.due_in(now) <= 0

    def clear(self, now: float) -> None:
        """Begins anew."""
        self._began = None
        self._over = now
        self.events = 0
        self.partitions.clear()
