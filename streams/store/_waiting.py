"""What was read of one Kafka partition and is not on its way into the tables yet: columns, made as records come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.envelope import Records

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.envelope import Reject
    from streams.store.destination import Destination, Piece

__all__ = ["Waiting"]

# So many records are decoded at once, or a few more: decoded rows are four times as large as their bytes.
_SLICE = 4_000


class Waiting:
    """The records of the next batch. They are decoded while the batch before is stored, not when they are due.

    The columns take half the memory of the records that they are made from.
    """

    def __init__(self, destination: Destination) -> None:
        self.first = self.last = -1
        """Offsets of the first and the last record."""
        self.count = 0
        self.bytes = 0
        """Of the records' values."""
        self._destination = destination
        self._unread: list[Records] = []
        self._batches: list[pa.Table] = []
        self._rejects: list[Reject] = []

    def add(self, records: Records) -> None:
        """Takes the records that come next.

        Raises:
            OSError: The registry of their schemas is away.
        """
        if not len(records):
            return
        self.first = self.first if self.count else int(records.offsets[0])
        self.last = int(records.offsets[-1])
        self.count += len(records)
        self.bytes += value_bytes(records)
        self._unread.append(records)
        if sum(map(len, self._unread)) >= _SLICE:
            self._decode()

    def pieces(self) -> tuple[list[Piece], int]:
        """The inserts that they take, and how many of them are no rows; raises what `add` does."""
        self._decode()
        return self._destination.pieces(self._batches, self._rejects), len(self._rejects)

    def _decode(self) -> None:
        if not self._unread:
            return
        batches, rejects = self._destination.decode(Records.join(self._unread))
        self._unread.clear()
        self._batches += batches
        self._rejects += rejects


def value_bytes(records: Records) -> int:
    """Bytes of their values."""
    return sum(map(len, filter(None, records.values)))
