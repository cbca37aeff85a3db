"""The arithmetic of windows: what a batch of rows finds in the histories of its slots, and becomes history itself.

`_windows.py` says what a window holds. Here rows come sorted by (slot, arrival), with their floors, and are answered
in two ways, which give the same: in order of time, where a row's own position ends its windows, and out of order, in
rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors._regions import NEVER, Ints, Regions, ranges, running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Pairs grow with the square of it, rounds fall with it; 32 to 128 cost the same for a hot key out of order.
_CHUNK = 64


class Windows(msgspec.Struct, frozen=True):
    """What the windows of n events hold, in the order of the events."""

    counts: Ints
    """(n, number of spans)."""
    sums: Ints
    """Of amounts in millionths; (n, number of spans)."""
    previous: Ints
    """Time of the newest earlier event that is not after this one; NEVER where there is none."""
    late: NDArray[np.bool_]
    mark_time: Ints
    """When the mark in force was set; NEVER where there is none."""
    mark: NDArray[np.float64]
    """The mark in force before the event: (n, 2), NaN where there is none."""


class Rows:
    """Events sorted by (slot, arrival), and the groups of equal slots among them."""

    def __init__(self, slots: Ints, times: Ints, amounts: Ints, floors: Ints) -> None:
        self.slots, self.times, self.amounts, self.floors = slots, times, amounts, floors
        starts = np.ones(len(slots), np.bool_)
        starts[1:] = slots[1:] != slots[:-1]
        self.heads = np.flatnonzero(starts)
        self.group = np.cumsum(starts) - 1
        self.sizes = np.diff(self.heads, append=len(slots))
        self.rank = np.arange(len(slots)) - self.heads[self.group]

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, which: Ints | NDArray[np.bool_]) -> Rows:
        return Rows(self.slots[which], self.times[which], self.amounts[which], self.floors[which])


class Found:
    """Answers as they come, in the order of sorted rows."""

    def __init__(self, rows: int, spans: int) -> None:
        self.counts, self.sums = np.zeros((rows, spans), np.int64), np.zeros((rows, spans), np.int64)
        self.previous = np.full(rows, NEVER)
        self.mark_time, self.mark = np.full(rows, NEVER), np.full((rows, 2), np.nan)

    def windows(self, back: Ints, late: NDArray[np.bool_]) -> Windows:
        return Windows(
            counts=self.counts[back],
            sums=self.sums[back],
            previous=self.previous[back],
            late=late,
            mark_time=self.mark_time[back],
            mark=self.mark[back],
        )


class WindowSums:
    """Answers rows, and adds them to the histories in the regions.

    Args:
        regions: The histories.
        spans_ms: Sizes of the windows.
        max_events: Events that count of one slot.
        touch: Called with (slots, index of the first event that changes) before a history changes.
    """

    def __init__(
        self, regions: Regions, spans_ms: Sequence[int], max_events: int, touch: Callable[[Ints, Ints], None]
    ) -> None:
        self._regions = regions
        self._spans = np.array(spans_ms, np.int64)
        self._max_events = max_events
        self._touch = touch

    def answer(self, rows: Rows, found: Found) -> None:
        """Fills in counts, sums and previous events of the rows, which are history then."""
        in_order = self._in_order(rows)
        if in_order.all():
            self._append(rows, found, slice(None))
            return
        inside = in_order[rows.group]
        self._append(rows.take(inside), found, np.flatnonzero(inside))
        self._insert(rows, found, np.flatnonzero(~inside))

    def _in_order(self, rows: Rows) -> NDArray[np.bool_]:
        """Which groups are in order of time, among themselves and behind their history, and kept as a whole."""
        before = np.empty_like(rows.times)
        before[1:] = rows.times[:-1]
        before[rows.heads] = self._regions.newest(rows.slots[rows.heads])
        return np.logical_and.reduceat((rows.times >= before) & (rows.times > rows.floors), rows.heads)

    def _append(self, rows: Rows, found: Found, where: slice | Ints) -> None:
        if not len(rows):
            return
        regions, slots, heads = self._regions, rows.slots, rows.heads
        touched, more = slots[heads], rows.sizes
        regions.reserve(touched, more)
        self._touch(touched, regions.end[touched])
        own = regions.end[slots] + rows.rank
        regions.time[own] = rows.times
        regions.prefix[own] = regions.total[slots] + running(rows.amounts, heads, rows.group)
        regions.end[touched] += more
        regions.total[touched] += np.add.reduceat(rows.amounts, heads)
        begin = np.maximum(regions.begin[slots], own - self._max_events)
        first = regions.after(self._bounds(rows), begin[:, None], own[:, None])
        found.counts[where] = own[:, None] - first
        found.sums[where] = regions.prefix[own][:, None] - regions.prefix[first]
        found.previous[where] = self._time_before(own, begin, rows.floors)

    def _insert(self, rows: Rows, found: Found, where: Ints) -> None:
        """Rounds: the r-th chunk of every key that is not in order."""
        rest = rows.take(where)
        one_by_one = self._reaches_the_cap(rest)[rest.group]
        chunk = np.where(one_by_one, rest.rank, rest.rank // _CHUNK)
        for turn in range(int(chunk.max()) + 1):
            mine = np.flatnonzero(chunk == turn)
            self._insert_chunk(rest.take(mine), found, where[mine])

    def _reaches_the_cap(self, rows: Rows) -> NDArray[np.bool_]:
        """Groups with a row so old that it might itself be among the oldest, which the cap lets go of meanwhile."""
        regions, slots = self._regions, rows.slots[rows.heads]
        begin, end = regions.begin[slots], regions.end[slots]
        edge = np.minimum(end + rows.sizes - self._max_events, end - 1)
        kept = np.where(rows.times > rows.floors, rows.times, -NEVER)
        oldest = np.minimum.reduceat(kept, rows.heads)
        full = end + rows.sizes - begin > self._max_events
        return full & ((rows.sizes >= self._max_events) | (oldest < regions.time[np.maximum(edge, 0)]))

    def _insert_chunk(self, rows: Rows, found: Found, where: Ints) -> None:
        regions, slots = self._regions, rows.slots
        kept = rows.times > rows.floors
        regions.reserve(slots[rows.heads], np.add.reduceat(kept.astype(np.int64), rows.heads))
        place = regions.after(rows.times, regions.begin[slots], regions.end[slots])
        earlier = running(kept.astype(np.int64), rows.heads, rows.group)
        begin = np.maximum(regions.begin[slots], regions.end[slots] + earlier - self._max_events)
        upto = np.maximum(place, begin)
        first = regions.after(self._bounds(rows), begin[:, None], upto[:, None])
        counts = upto[:, None] - first
        sums = regions.sum_before(upto, slots)[:, None] - regions.sum_before(first, slots[:, None])
        previous = self._time_before(upto, begin, rows.floors)
        self._add_pairs(rows, kept, counts, sums, previous)
        found.counts[where], found.sums[where], found.previous[where] = counts, sums, previous
        self._merge(rows.take(kept), place[kept])

    def _add_pairs(self, rows: Rows, kept: NDArray[np.bool_], counts: Ints, sums: Ints, previous: Ints) -> None:
        """Adds to each row what earlier rows of its group contribute."""
        later = np.repeat(np.arange(len(rows)), rows.rank)
        earlier = ranges(rows.heads[rows.group], rows.rank)
        time = rows.times[earlier]
        counted = kept[earlier] & (time <= rows.times[later]) & (time > rows.floors[later])
        later, earlier, time = later[counted], earlier[counted], time[counted]
        np.maximum.at(previous, later, time)
        ends = np.cumsum(np.bincount(later, minlength=len(rows)))
        for span, size in enumerate(self._spans.tolist()):
            inside = (time > rows.times[later] - size).astype(np.int64)
            for column, values in ((counts, inside), (sums, inside * rows.amounts[earlier])):
                upto = np.concatenate([[0], np.cumsum(values)])[ends]
                column[:, span] += np.diff(upto, prepend=0)

    def _merge(self, rows: Rows, place: Ints) -> None:
        """Puts rows into the histories of their slots: those behind equal times, in the order of arrival."""
        if not len(rows):
            return
        regions, touched = self._regions, rows.slots[rows.heads]
        start = np.minimum.reduceat(place, rows.heads)
        length = regions.end[touched] - start
        self._touch(touched, start)
        tail = ranges(start, length)
        owners = np.repeat(np.arange(len(touched)), length)
        base = regions.sum_before(start, touched)
        groups = np.concatenate([owners, rows.group])
        times = np.concatenate([regions.time[tail], rows.times])
        amounts = np.concatenate([regions.amounts(tail, touched[owners]), rows.amounts])
        order = np.lexsort((times, groups))
        sizes = length + rows.sizes
        heads = np.cumsum(sizes) - sizes
        target = ranges(start, sizes)
        regions.time[target] = times[order]
        regions.prefix[target] = base[groups[order]] + running(amounts[order], heads, groups[order])
        regions.end[touched] += rows.sizes
        regions.total[touched] += np.add.reduceat(rows.amounts, rows.heads)

    def _bounds(self, rows: Rows) -> Ints:
        bounds: Ints = np.maximum(rows.times[:, None] - self._spans, rows.floors[:, None])
        return bounds

    def _time_before(self, index: Ints, begin: Ints, floors: Ints) -> Ints:
        before = self._regions.time[index - 1]
        found: Ints = np.where((index > begin) & (before > floors), before, NEVER)
        return found
