"""Exact sliding windows over event time, per key, a micro-batch at a time.

What is computed is a pure function of the sequence of events that each source partition had; how it was cut into
batches, when old history was let go of and whether the state was restored on the way changes nothing:

- The *watermark* of event i is the greatest event time among the events processed before it in its partition. The
  event is *late* when its time is before the watermark minus the allowed lateness.
- Its *floor* is the watermark minus the horizon (the longest window plus the allowed lateness). What happened at or
  before the floor is forgotten; so an event that is not late always sees its windows whole, and a late one sees what
  is left of them. An event at or before its own floor gets its windows (which are empty) and is not kept.
- A window of size w holds the kept events of the same key and partition that were processed earlier and have
  t - w < t_prev <= t. The event itself is never in it.
- Of each key the newest `max_events` are kept, by (time, arrival): a key with more loses its oldest.

How: `_regions.py` holds each key's history sorted by (time, arrival). A batch is sorted by (key, arrival). Keys whose
rows are in order of time, which is almost all, are appended first; then every window of every row ends at the row's
own position, and its start comes from one binary search over all windows at once. Count and sum are differences. Keys
whose rows are not in order go through rounds of up to 64 rows each: history by the same search, earlier rows of the
round pair by pair, then a merge (`_window_sums.py`). No step loops over events in Python.

Sums are whole numbers: amounts in millionths. With 65,536 events of at most 10^8 each a window's sum stays below
2^63; `max_events` times the greatest amount must. Running sums may wrap, differences do not mind.

`_windows_log.py` writes down how the state becomes changelog entries and back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors._parts import by_partition, chosen
from processors._regions import NEVER, Ints, Regions
from processors._window_sums import Found, Rows, WindowSums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors._window_sums import Windows

BLOCK = 8
"""Events in one changelog entry. An event rewrites the last block of its key, so on average 4.5 events: 72 bytes."""

CLEAN = np.iinfo(np.int64).max
"""Of `dirty_from`: the changelog knows every block."""

# Slots looked at for idleness in each update: a million keys are seen once in about 1,000 batches.
_SWEEP = 1024


class KeyedWindows:
    """Histories of keys by source partition, and the windows of a batch.

    A *mark* is a pair of numbers that an event may set for its key, such as a place. In force is the one with the
    greatest event time of those set by events processed earlier (of equal times the last), until it is forgotten.

    Args:
        spans_ms: Sizes of the windows.
        lateness_ms: How much earlier than the watermark an event may be without being late.
        max_events: Events kept of one key.
    """

    def __init__(self, spans_ms: Sequence[int], lateness_ms: int, max_events: int = 65_536) -> None:
        self.spans_ms = tuple(spans_ms)
        self.horizon_ms = max(spans_ms) + lateness_ms
        self.max_events = max_events
        self.capped = 0
        """Events that a key lost because it had more than `max_events`."""
        self.watermarks: dict[int, int] = {}
        self.regions = Regions()
        self.keys: list[bytes] = []
        """Key of each slot; empty where the slot is free."""
        self.owner = np.zeros(0, np.int64)
        """Partition of each slot, -1 where it is free."""
        self.first_block = np.zeros(0, np.int64)
        """Number of the changelog block that a slot's history begins with."""
        self.mark_time = np.zeros(0, np.int64)
        self.mark = np.zeros((0, 2))
        self.dirty_from = np.zeros(0, np.int64)
        """First block of each slot that the changelog does not know yet."""
        self.dirty: list[Ints] = []
        self.dirty_watermarks: set[int] = set()
        self.gone: list[tuple[int, bytes, int, int]] = []
        """Blocks that ended: (partition, key, first, number behind the last)."""
        self._lateness_ms = lateness_ms
        self._sums = WindowSums(self.regions, spans_ms, max_events, self._touch)
        self._slots: dict[int, dict[bytes, int]] = {}
        self._free: list[int] = []
        self._swept = 0

    def __len__(self) -> int:
        """Keys that are held."""
        return len(self.keys) - len(self._free)

    def update(
        self,
        partitions: Ints,
        keys: Sequence[bytes],
        times: Ints,
        amounts: Ints,
        marks: NDArray[np.float64] | None = None,
    ) -> Windows:
        """Answers n events in the order in which they came, and adds them to the histories of their keys.

        Args:
            partitions: Source partition of each event.
            keys: Key of each event.
            times: Event times in milliseconds.
            amounts: In millionths.
            marks: (n, 2); NaN where the event sets none.
        """
        if not len(keys):
            return Found(0, len(self.spans_ms)).windows(np.zeros(0, np.int64), np.zeros(0, np.bool_))
        watermarks = self._watermarks_before(partitions, times)
        floors = watermarks - self.horizon_ms
        slots = self._slots_of(partitions, keys)
        order = np.argsort(slots, kind="stable")
        rows = Rows(slots[order], times[order], amounts[order], floors[order])
        self._evict(rows.slots[rows.heads], rows.floors[rows.heads])
        found = Found(len(rows), len(self.spans_ms))
        found.mark_time, found.mark = self._marks(rows, marks[order] if marks is not None else None)
        self._sums.answer(rows, found)
        self._sweep()
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return found.windows(back, times < watermarks - self._lateness_ms)

    def history(self, partition: int, key: bytes) -> tuple[Ints, Ints]:
        """Times and amounts of the events of a key that count, oldest first."""
        slot = self._slots.get(partition, {}).get(key)
        if slot is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        end = self.regions.end[slot]
        index = np.arange(max(self.regions.begin[slot], end - self.max_events), end)
        index = index[self.regions.time[index] > self.watermarks.get(partition, NEVER) - self.horizon_ms]
        return self.regions.time[index], self.regions.amounts(index, np.full(len(index), slot))

    def drop(self, partition: int) -> None:
        """Forgets a partition, and what the changelog does not know of it yet."""
        slots = np.flatnonzero(self.owner == partition)
        self._release(slots)
        self._slots.pop(partition, None)
        self.watermarks.pop(partition, None)
        self.dirty_watermarks.discard(partition)
        self.gone = [ended for ended in self.gone if ended[0] != partition]

    def sweep(self) -> None:
        """Drops every key whose whole history is forgotten; updates do it little by little."""
        self._sweep(len(self.keys))

    def add_keys(self, partition: int, keys: Sequence[bytes]) -> Ints:
        """Slots for keys that the partition does not have yet."""
        reused = [self._free.pop() for _ in range(min(len(self._free), len(keys)))]
        slots = [*reused, *range(len(self.keys), len(self.keys) + len(keys) - len(reused))]
        for slot, key in zip(reused, keys, strict=False):
            self.keys[slot] = key
        self.keys.extend(keys[len(reused) :])
        if len(self.keys) > len(self.owner):
            self._add_slots(max(len(self.keys), len(self.owner) + len(self.owner) // 4))
        self._slots.setdefault(partition, {}).update(zip(keys, slots, strict=True))
        added = np.array(slots, np.int64)
        self.owner[added] = partition
        return added

    # Who is asked for.

    def _add_slots(self, slots: int) -> None:
        more = slots - len(self.owner)
        self.regions.add_slots(slots)
        self.owner = np.pad(self.owner, (0, more), constant_values=-1)
        self.first_block = np.pad(self.first_block, (0, more))
        self.mark_time = np.pad(self.mark_time, (0, more), constant_values=NEVER)
        self.mark = np.pad(self.mark, ((0, more), (0, 0)), constant_values=np.nan)
        self.dirty_from = np.pad(self.dirty_from, (0, more), constant_values=CLEAN)

    def _slots_of(self, partitions: Ints, keys: Sequence[bytes]) -> Ints:
        slots = np.empty(len(keys), np.int64)
        for partition, rows in by_partition(partitions):
            mine = chosen(keys, rows)
            known = self._slots.setdefault(partition, {})
            found = list(map(known.get, mine))
            if None in found:
                self.add_keys(partition, list(dict.fromkeys(key for key in mine if key not in known)))
                found = list(map(known.get, mine))
            slots[rows] = np.array(found, np.int64)
        return slots

    def _watermarks_before(self, partitions: Ints, times: Ints) -> Ints:
        before = np.empty_like(times)
        for partition, rows in by_partition(partitions):
            known = self.watermarks.get(partition, NEVER)
            reached = np.maximum.accumulate(np.concatenate([[known], times[rows]]))
            before[rows] = reached[:-1]
            if reached[-1] > known:
                self.watermarks[partition] = int(reached[-1])
                self.dirty_watermarks.add(partition)
        return before

    # What is let go of.

    def _evict(self, slots: Ints, floors: Ints) -> None:
        """Lets go of whole blocks at the front that can never count again, and of keys that have nothing else."""
        regions = self.regions
        begin, end = regions.begin[slots], regions.end[slots]
        dead = (end > begin) & (regions.newest(slots) <= floors)
        if dead.any():
            self._forget(slots[dead])
            slots, floors, begin, end = slots[~dead], floors[~dead], begin[~dead], end[~dead]
        first_full = np.minimum(begin + BLOCK - 1, len(regions.time) - 1)
        old = (end - begin > BLOCK) & ((regions.time[first_full] <= floors) | (end - begin >= self.max_events + BLOCK))
        if not old.any():
            return
        slots, floors, begin, end = slots[old], floors[old], begin[old], end[old]
        expired = regions.after(floors, begin, end) - begin
        surplus = end - begin - self.max_events
        blocks = np.maximum(expired, surplus) // BLOCK
        self.capped += int(np.maximum(blocks * BLOCK - expired, 0).sum())
        self._end_blocks(slots, blocks)
        regions.begin[slots] += blocks * BLOCK
        self.first_block[slots] += blocks

    def _end_blocks(self, slots: Ints, blocks: Ints) -> None:
        first = self.first_block[slots]
        for slot, owner, start, stop in zip(
            slots.tolist(), self.owner[slots].tolist(), first.tolist(), (first + blocks).tolist(), strict=True
        ):
            self.gone.append((owner, self.keys[slot], start, stop))

    def _forget(self, slots: Ints) -> None:
        """Ends all blocks of these slots; they stay their keys', as if new."""
        self._end_blocks(slots, self.block_counts(slots))
        self._reset(slots)

    def _reset(self, slots: Ints) -> None:
        self.regions.clear(slots)
        self.first_block[slots] = 0
        self.mark_time[slots] = NEVER
        self.mark[slots] = np.nan
        self.dirty_from[slots] = CLEAN

    def _release(self, slots: Ints) -> None:
        self._reset(slots)
        self.owner[slots] = -1
        free = slots.tolist()
        for slot in free:
            self.keys[slot] = b""
        self._free.extend(free)

    def _sweep(self, count: int = _SWEEP) -> None:
        if not self.keys:
            return
        slots = (self._swept + np.arange(min(count, len(self.keys)))) % len(self.keys)
        self._swept = (int(slots[-1]) + 1) % len(self.keys)
        owners = self.owner[slots]
        newest = self.regions.newest(slots)
        for partition in np.unique(owners[owners >= 0]).tolist():
            floor = self.watermarks.get(partition, NEVER) - self.horizon_ms
            idle = slots[(owners == partition) & (newest <= floor)]
            if len(idle):
                self._end_blocks(idle, self.block_counts(idle))
                known = self._slots[partition]
                for slot in idle.tolist():
                    del known[self.keys[slot]]
                self._release(idle)

    def block_counts(self, slots: Ints) -> Ints:
        """Changelog blocks of each slot."""
        return (self.regions.end[slots] - self.regions.begin[slots] + BLOCK - 1) // BLOCK

    def _touch(self, slots: Ints, index: Ints) -> None:
        """The blocks of these slots change from this index on, and from the last event so far at the latest.

        The last block also holds the mark; so the block that is no longer the last changes too.
        """
        begin, end = self.regions.begin[slots], self.regions.end[slots]
        offset = np.maximum(np.minimum(index, end - 1) - begin, 0)
        self.dirty_from[slots] = np.minimum(self.dirty_from[slots], self.first_block[slots] + offset // BLOCK)
        self.dirty.append(slots)

    def _marks(self, rows: Rows, marks: NDArray[np.float64] | None) -> tuple[Ints, NDArray[np.float64]]:
        """The mark in force before each row; the last one of each slot is kept.

        A running maximum of the rows' ranks by (time, arrival), which starts anew at every group.
        """
        stored_time, stored = self.mark_time[rows.slots], self.mark[rows.slots]
        if marks is not None:
            sets = ~np.isnan(marks[:, 0]) & (rows.times > rows.floors) & (rows.times >= stored_time)
            by_rank = np.argsort(rows.times, kind="stable")
            rank = np.empty_like(by_rank)
            rank[by_rank] = np.arange(len(by_rank))
            base = rows.group * (len(rows) + 1)
            best = np.maximum.accumulate(base + np.where(sets, rank + 1, 0))
            before = np.empty_like(best)
            before[1:] = best[:-1]
            before[rows.heads] = base[rows.heads]
            before -= base
            fresh = np.flatnonzero(before)
            setter = by_rank[before[fresh] - 1]
            stored_time[fresh], stored[fresh] = rows.times[setter], marks[setter]
            tails = rows.heads + rows.sizes - 1
            last = best[tails] - base[tails]
            winners = by_rank[last[last > 0] - 1]
            changed = rows.slots[tails[last > 0]]
            self.mark_time[changed], self.mark[changed] = rows.times[winners], marks[winners]
        forgotten = stored_time <= rows.floors
        stored_time[forgotten], stored[forgotten] = NEVER, np.nan
        return stored_time, stored
