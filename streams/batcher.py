"""When a micro-batch is due: a pure policy over records and a clock that is handed in."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.envelope import Record


class Batcher:
    """Collects records and gives them back in micro-batches, in the order they came.

    A micro-batch closes when it holds `max_size` records or `max_bytes` bytes, or `max_wait_ms` after its first
    record came. No batch is larger than either bound, except that a record larger than `max_bytes` goes alone.
    """

    def __init__(self, max_size: int, max_bytes: int, max_wait_ms: float) -> None:
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_ms / 1000
        # Records of one arrival share a deadline: (records, arrival time, bytes).
        self._arrivals: deque[tuple[deque[Record], float]] = deque()
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
        if not records:
            return
        self._arrivals.append((deque(records), now))
        self._count += len(records)
        self._bytes += sum(map(_size, records))

    def due(self, now: float) -> bool:
        """Whether a micro-batch should be taken."""
        return self._count > 0 and (
            self._count >= self._max_size or self._bytes >= self._max_bytes or self.wait_s(now) <= 0
        )

    def wait_s(self, now: float) -> float:
        """Seconds until the oldest record's deadline; infinite where nothing waits, never negative."""
        if not self._arrivals:
            return float("inf")
        return max(0.0, self._arrivals[0][1] + self._max_wait_s - now)

    def take(self) -> list[Record]:
        """Removes and returns the next micro-batch; empty where nothing waits. What is left keeps its deadline."""
        if self._count <= self._max_size and self._bytes <= self._max_bytes:
            everything = [record for records, _came in self._arrivals for record in records]
            self.clear()
            return everything
        batch: list[Record] = []
        size = 0
        while self._arrivals and len(batch) < self._max_size:
            records = self._arrivals[0][0]
            next_size = _size(records[0])
            if batch and size + next_size > self._max_bytes:
                break
            batch.append(records.popleft())
            size += next_size
            if not records:
                self._arrivals.popleft()
        self._count -= len(batch)
        self._bytes -= size
        return batch

    def clear(self) -> None:
        """Forgets everything, for records that will be read again."""
        self._arrivals.clear()
        self._count = self._bytes = 0


def _size(record: Record) -> int:
    return len(record.value or b"") + len(record.key or b"")
