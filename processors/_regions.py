"""Histories of many keys in two growing columns: what `_windows.py` computes on.

A slot is a key's row number. Its history lies in one region of the columns, sorted by (time, arrival), at the indices
`begin[slot]` to `end[slot]`. Regions come in four sizes to a doubling, so that one left behind fits another key: there
is a free list per size, and nothing is ever compacted. Powers of two alone took half as much again.

`prefix` is the EXCLUSIVE running sum of a region's amounts, `total[slot]` the sum that the next event will hold. Sums
are whole numbers and wrap modulo 2^64, so the difference of two of them is exact whatever came before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NEVER = -(1 << 62)
"""A time before all times; differences from it do not overflow."""

# Events of the smallest region: 128 bytes of columns for a key that was seen once.
_SMALLEST = 8
# A share of slack, so that a history that is cut as fast as it grows moves rarely, and columns that grow do not double.
_SLACK = 16


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers `starts[i]` to `starts[i] + lengths[i] - 1` of every i, one after the other."""
    ends = np.cumsum(lengths)
    if not len(ends):
        return ends
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def running(values: Ints, heads: Ints, group: Ints) -> Ints:
    """Exclusive running sums that start anew at every head; `group[i]` is the number of the group that i is in."""
    sums = np.cumsum(values) - values
    return sums - sums[heads][group]


def _rooms(events: Ints) -> Ints:
    """The sizes of regions that hold so many events: the next multiple of a quarter of a power of two."""
    wanted = np.maximum(events, _SMALLEST)
    steps = np.left_shift(1, np.frexp(wanted.astype(np.float64))[1].astype(np.int64) - 3)
    rooms: Ints = -(-wanted // steps) * steps
    return rooms


class Regions:
    """Columns, regions and slots; knows no keys and no rules about which events count."""

    def __init__(self) -> None:
        self.time = np.empty(1 << 10, np.int64)
        self.prefix = np.empty(1 << 10, np.int64)
        self.start, self.room = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.begin, self.end = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.total = np.zeros(0, np.int64)
        self._top = 0
        self._free: dict[int, list[int]] = {}

    def add_slots(self, slots: int) -> None:
        """Makes rows for slots up to this number."""
        more = slots - len(self.start)
        for name in ("start", "room", "begin", "end", "total"):
            setattr(self, name, np.pad(getattr(self, name), (0, more)))

    def newest(self, slots: Ints) -> Ints:
        """Time of the last event of each slot; NEVER where there is none."""
        end = self.end[slots]
        return np.where(end > self.begin[slots], self.time[end - 1], NEVER)

    def after(self, bounds: Ints, low: Ints, high: Ints) -> Ints:
        """Index of the first event later than each bound, in `low` to `high` (which is the answer where none is).

        One binary search for all: `bounds`, `low` and `high` are broadcast against each other.
        """
        low, high = np.broadcast_to(low, bounds.shape), np.broadcast_to(high, bounds.shape)
        steps = int((high - low).max(initial=0)).bit_length()
        last = len(self.time) - 1
        for _ in range(steps):
            middle = (low + high) >> 1
            # Where low meets high the middle may lie behind the columns' end; it changes nothing there.
            later = self.time[np.minimum(middle, last)] > bounds
            high = np.where(later, middle, high)
            low = np.where(later | (low == high), low, middle + 1)
        return low

    def sum_before(self, index: Ints, slots: Ints) -> Ints:
        """The running sum before each index, which may be the end of its slot's history."""
        inside = np.minimum(index, len(self.prefix) - 1)
        return np.where(index < self.end[slots], self.prefix[inside], self.total[slots])

    def amounts(self, index: Ints, slots: Ints) -> Ints:
        """The amount of each event."""
        return self.sum_before(index + 1, slots) - self.prefix[index]

    def reserve(self, slots: Ints, more: Ints) -> None:
        """Makes room behind the last event of each slot (all different); moves the histories that lack it."""
        crowded = self.end[slots] + more > self.start[slots] + self.room[slots]
        if not crowded.any():
            return
        slots, more = slots[crowded], more[crowded]
        begin, length = self.begin[slots], self.end[slots] - self.begin[slots]
        rooms = _rooms(length + length // _SLACK + more)
        source = ranges(begin, length)
        times, prefixes = self.time[source], self.prefix[source]
        other = (rooms > self.room[slots]) | (2 * rooms < self.room[slots])
        if other.any():
            self._replace(slots[other], rooms[other])
        starts = self.start[slots]
        target = ranges(starts, length)
        self.time[target], self.prefix[target] = times, prefixes
        self.begin[slots], self.end[slots] = starts, starts + length

    def clear(self, slots: Ints) -> None:
        """Forgets the histories of these slots and gives their regions back."""
        self._give_back(slots)
        for column in (self.start, self.room, self.begin, self.end, self.total):
            column[slots] = 0

    def _replace(self, slots: Ints, rooms: Ints) -> None:
        """Other regions, of these sizes, for slots whose histories are in the caller's hands."""
        self._give_back(slots)
        for size in np.unique(rooms).tolist():
            alike = slots[rooms == size]
            free = self._free.get(size, [])
            used = min(len(free), len(alike))
            if used:
                self.start[alike[:used]] = free[-used:]
                del free[-used:]
            self.start[alike[used:]] = self._top + np.arange(len(alike) - used) * size
            self._top += (len(alike) - used) * size
        self.room[slots] = rooms
        if self._top > len(self.time):
            self._grow(max(self._top, len(self.time) + len(self.time) // _SLACK))

    def _grow(self, size: int) -> None:
        # In place: for large columns the C library moves pages, not bytes.
        self.time.resize(size, refcheck=False)
        self.prefix.resize(size, refcheck=False)

    def _give_back(self, slots: Ints) -> None:
        room, start = self.room[slots], self.start[slots]
        for size in np.unique(room).tolist():
            if size:
                self._free.setdefault(size, []).extend(start[room == size].tolist())
