"""When a micro-batch is due: a pure policy over records and a clock that is handed in."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from schemas.envelope import Records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.envelope import Record

_EMPTY = Records.of(())


class Batcher:
    """Collects records and gives them back in micro-batches, in the order they came.

    A micro-batch closes when it holds `max_size` records or `max_bytes` bytes, or `max_wait_ms` after its first
    record came. No batch is larger than either bound, except that a record larger than `max_bytes` goes alone.
    """

    def __init__(self, max_size: int, max_bytes: int, max_wait_ms: float) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_ms / 1000
        # Records of one arrival share a deadline: (records, arrival time).
        self._arrivals: deque[tuple[Records, float]] = deque()
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """Keys and values of what waits."""
        return self._bytes

    def add(self, records: Sequence[Record], now: float) -> None:
        """Takes records that arrived at `now` (seconds on any monotonic clock)."""
        if not len(records):
            return
        columns = Records.of(records)
        self._arrivals.append((columns, now))
        self._count += len(columns)
        self._bytes += _bytes(columns)

    def due(self, now: float) -> bool:
        """Whether a micro-batch should be taken."""
        return self.full or self.wait_s(now) <= 0

    @property
    def since(self) -> float:
        """When the oldest record that waits arrived; infinite where nothing waits."""
        return self._arrivals[0][1] if self._arrivals else float("inf")

    @property
    def full(self) -> bool:
        """Whether a micro-batch is as large as it may be."""
        return self._count >= self._max_size or self._bytes >= self._max_bytes

    def wait_s(self, now: float) -> float:
        """Seconds until the oldest record's deadline; infinite where nothing waits, never negative."""
        return max(0.0, self.since + self._max_wait_s - now)

    def take(self) -> Records:
        """Removes and returns the next micro-batch; empty where nothing waits. What is left keeps its deadline."""
        if self._count <= self._max_size and self._bytes <= self._max_bytes:
            everything = [records for records, _came in self._arrivals]
            self.clear()
            return Records.join(everything) if everything else _EMPTY
        parts: list[Records] = []
        rows = size = 0
        while self._arrivals and rows < self._max_size:
            records, came = self._arrivals.popleft()
            fitting, bytes_ = self._fitting(records, self._max_size - rows, self._max_bytes - size, alone=not rows)
            if fitting:
                parts.append(records if fitting == len(records) else records[:fitting])
                rows, size = rows + fitting, size + bytes_
            if fitting < len(records):
                self._arrivals.appendleft((records[fitting:], came))
                break
        self._count -= rows
        self._bytes -= size
        return Records.join(parts)

    def _fitting(self, records: Records, most: int, most_bytes: int, *, alone: bool) -> tuple[int, int]:
        """How many of the records, from the first on, are within the bounds, and their bytes."""
        reached = np.cumsum([len(value or b"") + len(key or b"") for value, key in _pairs(records[:most])])
        fitting = int(np.searchsorted(reached, most_bytes, side="right"))
        fitting = max(fitting, 1) if alone else fitting
        return fitting, int(reached[fitting - 1]) if fitting else 0

    def clear(self) -> None:
        """Forgets everything, for records that will be read again."""
        self._arrivals.clear()
        self._count = self._bytes = 0


def _bytes(records: Records) -> int:
    return sum(map(len, filter(None, records.values))) + sum(map(len, filter(None, records.keys)))


def _pairs(records: Records) -> zip[tuple[bytes | None, bytes | None]]:
    return zip(records.values, records.keys, strict=True)
