"""Event ids seen lately, per source partition, so that an event sent twice is answered once.

An event is a duplicate when its id was accepted earlier in its partition, is among the last `max_ids` accepted there,
and was accepted no longer ago than the window, both by the partition's clock. The clock is the greatest Kafka timestamp
of the accepted records and the one in question, so it never runs backwards. All of this is a function of the sequence
of records alone. A duplicate is not accepted again, so it does not make the window longer.

Changelog: accepted ids lie in blocks of 256 source offsets,

    b"i" + offset // 256 (uint64, big-endian) -> count (uint32), then columns: offsets and timestamps (int64),
                                                lengths of the ids in bytes (uint16), the ids in UTF-8
    b"c"                                      -> the partition's clock (ms, int64)

little-endian; timestamps are what the clock was. A block ends when none of its ids can matter any more.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from processors._regions import NEVER, Ints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

IDS, CLOCK = b"i", b"c"
BLOCK_OFFSETS = 256

_HEAD = struct.Struct("<I")
_CLOCK = struct.Struct("<q")
# Ends of columns are cut when this many rows in front are dead: moving a list costs its length.
_CUT = 16_384


class RecentIds:
    """Accepted ids of every partition.

    Args:
        window_ms: How long an id is a duplicate.
        max_ids: How many ids a partition remembers.
    """

    def __init__(self, window_ms: int, max_ids: int = 100_000) -> None:
        self._window_ms = window_ms
        self._max_ids = max_ids
        self._partitions: dict[int, _Accepted] = {}

    def accept(
        self, partition: int, ids: Sequence[str], offsets: Sequence[int], timestamps: Sequence[int]
    ) -> list[int]:
        """Accepts the events of a batch that are new, and returns the rows of those that are duplicates."""
        accepted = self._of(partition)
        duplicates = accepted.accept(ids, offsets, timestamps, self._window_ms, self._max_ids)
        accepted.end_blocks(self._window_ms, self._max_ids)
        return duplicates

    def retract(self, partition: int, ids: Sequence[str], offsets: Sequence[int]) -> None:
        """Takes back ids accepted in this transaction, at these offsets: they got no result and may come again."""
        self._of(partition).retract(ids, offsets)

    def restore(self, partition: int, entries: Mapping[bytes, bytes]) -> None:
        """Takes over a partition; entries of other kinds are left alone."""
        self._partitions[partition] = accepted = _Accepted()
        blocks = [_unpack(entries[key]) for key in sorted(key for key in entries if key[:1] == IDS)]
        if blocks:
            ids, offsets, timestamps = zip(*blocks, strict=True)
            accepted.load(list(chain.from_iterable(ids)), np.concatenate(offsets), np.concatenate(timestamps))
        if CLOCK in entries:
            (accepted.clock,) = _CLOCK.unpack(entries[CLOCK])
        accepted.dirty_from = len(accepted.ids)

    def drop(self, partition: int) -> None:
        """Forgets a partition."""
        self._partitions.pop(partition, None)

    def changes(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Drains what changed since the last call: (partition, entry's key, value or None where it ended)."""
        for partition, accepted in self._partitions.items():
            for number in accepted.ended:
                yield partition, _key(number), None
            accepted.ended.clear()
            if accepted.dirty_from < len(accepted.ids):
                yield partition, CLOCK, _CLOCK.pack(accepted.clock)
            for number, value in accepted.blocks(accepted.dirty_from):
                yield partition, _key(number), value
            accepted.dirty_from = len(accepted.ids)

    def dump(self, partition: int) -> dict[bytes, bytes]:
        """Every entry of a partition."""
        accepted = self._of(partition)
        if accepted.clock == NEVER:
            return {}
        blocks = {_key(number): value for number, value in accepted.blocks(accepted.first)}
        return blocks | {CLOCK: _CLOCK.pack(accepted.clock)}

    def _of(self, partition: int) -> _Accepted:
        return self._partitions.setdefault(partition, _Accepted())


class _Accepted:
    """One partition: columns in the order of acceptance, and where in them an id was last accepted.

    Rows before `first` are dead; `gone` of them have been cut off the columns.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        # Eight bytes each where a list takes 40.
        self.offsets, self.timestamps = array("q"), array("q")
        self.clock = NEVER
        self.first = 0
        self.dirty_from = 0
        self.ended: list[int] = []
        self._gone = 0
        self._latest: dict[str, int] = {}

    def accept(
        self, ids: Sequence[str], offsets: Sequence[int], timestamps: Sequence[int], window_ms: int, max_ids: int
    ) -> list[int]:
        known = self._latest
        start = self._gone + len(self.ids)
        fresh = dict(zip(ids, range(start, start + len(ids)), strict=True))
        if len(fresh) == len(ids) and known.keys().isdisjoint(fresh):
            known.update(fresh)
            self._append(ids, offsets, timestamps)
            return []
        duplicates = []
        for row, (id_, offset, timestamp) in enumerate(zip(ids, offsets, timestamps, strict=True)):
            at = known.get(id_)
            if at is not None and self._gone + len(self.ids) - at <= max_ids:
                since = max(self.clock, timestamp) - self.timestamps[at - self._gone]
                if since <= window_ms:
                    duplicates.append(row)
                    continue
            self.extend([id_], [offset], [timestamp])
        return duplicates

    def extend(self, ids: Sequence[str], offsets: Sequence[int], timestamps: Sequence[int]) -> None:
        start = self._gone + len(self.ids)
        self._latest.update(zip(ids, range(start, start + len(ids)), strict=True))
        self._append(ids, offsets, timestamps)

    def load(self, ids: list[str], offsets: Ints, timestamps: Ints) -> None:
        """Takes over what `blocks` gave; nothing was accepted before."""
        self._latest.update(zip(ids, range(len(ids)), strict=True))
        self.ids = ids
        self.offsets.frombytes(offsets.tobytes())
        self.timestamps.frombytes(np.maximum.accumulate(timestamps).tobytes())
        self.clock = self.timestamps[-1]

    def _append(self, ids: Sequence[str], offsets: Sequence[int], timestamps: Sequence[int]) -> None:
        # When it is by the partition's clock, not by the record's: after one record from the future the ids behind it
        # would be as old as the gap, and never found again.
        clocks = np.maximum.accumulate(np.array([self.clock, *timestamps], np.int64))
        self.clock = int(clocks[-1])
        self.ids += ids
        self.offsets.extend(array("q", offsets))
        self.timestamps.frombytes(clocks[1:].tobytes())

    def retract(self, ids: Sequence[str], offsets: Sequence[int]) -> None:
        """An empty id, which no event has, takes the place of each; one that was accepted again since then stays."""
        for id_, offset in zip(ids, offsets, strict=True):
            row = self._latest.get(id_, self._gone - 1) - self._gone
            if row >= 0 and self.offsets[row] == offset:
                del self._latest[id_]
                self.ids[row] = ""
                self.dirty_from = min(self.dirty_from, row)

    def end_blocks(self, window_ms: int, max_ids: int) -> None:
        """Ends blocks at the front while nothing in them can make a duplicate; the newest block stays."""
        while self.first < len(self.ids):
            stop = self._end_of(self.first)
            newest = self.timestamps[stop - 1]
            outnumbered = len(self.ids) - stop >= max_ids
            if stop == len(self.ids) or not (outnumbered or self.clock - newest > window_ms):
                break
            self._forget(stop)
        self.dirty_from = max(self.dirty_from, self.first)
        if self.first >= _CUT:
            self._cut()

    def blocks(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Number and value of each block from the one that row `start` is in."""
        if start >= len(self.ids):
            return
        border = self.offsets[start] // BLOCK_OFFSETS * BLOCK_OFFSETS
        begin = bisect_left(self.offsets, border, self.first)
        offsets, timestamps = np.array(self.offsets[begin:], "<i8"), np.array(self.timestamps[begin:], "<i8")
        numbers = offsets // BLOCK_OFFSETS
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for low, high in pairwise(edges):
            ids = self.ids[begin + low : begin + high]
            yield int(numbers[low]), _pack(ids, offsets[low:high], timestamps[low:high])

    def _end_of(self, row: int) -> int:
        border = (self.offsets[row] // BLOCK_OFFSETS + 1) * BLOCK_OFFSETS
        return bisect_left(self.offsets, border, row)

    def _forget(self, stop: int) -> None:
        self.ended.append(self.offsets[self.first] // BLOCK_OFFSETS)
        latest = self._latest
        for row, id_ in enumerate(self.ids[self.first : stop], self._gone + self.first):
            if latest.get(id_) == row:
                del latest[id_]
        self.first = stop

    def _cut(self) -> None:
        for column in (self.ids, self.offsets, self.timestamps):
            del column[: self.first]
        self._gone += self.first
        self.dirty_from -= self.first
        self.first = 0


def _key(number: int) -> bytes:
    return IDS + number.to_bytes(8, "big")


def _pack(ids: Sequence[str], offsets: NDArray[np.int64], timestamps: NDArray[np.int64]) -> bytes:
    joined = "".join(ids)
    # A character of ASCII is a byte of UTF-8.
    sizes = list(map(len, ids)) if joined.isascii() else [len(id_.encode()) for id_ in ids]
    numbers = (offsets.tobytes(), timestamps.tobytes(), np.array(sizes, "<u2").tobytes())
    return b"".join([_HEAD.pack(len(ids)), *numbers, joined.encode()])


def _unpack(value: bytes) -> tuple[list[str], Ints, Ints]:
    (count,) = _HEAD.unpack_from(value)
    offsets = np.frombuffer(value, "<i8", count, _HEAD.size)
    timestamps = np.frombuffer(value, "<i8", count, _HEAD.size + 8 * count)
    sizes = np.frombuffer(value, "<u2", count, _HEAD.size + 16 * count)
    return _ids(value[_HEAD.size + 18 * count :], sizes), offsets, timestamps


def _ids(written: bytes, sizes: NDArray[np.uint16]) -> list[str]:
    size = int(sizes[0])
    if size and (sizes == size).all() and written.isascii() and b"\0" not in written:
        # As almost always, and then numpy cuts them three times as fast; it would drop zeros at their ends.
        return np.frombuffer(written.decode().encode("utf-32-le"), f"<U{size}").tolist()  # type: ignore[no-any-return]
    edges = pairwise(accumulate(sizes.tolist(), initial=0))
    return [written[low:high].decode() for low, high in edges]
