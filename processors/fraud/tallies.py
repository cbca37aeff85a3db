"""Transactions per merchant and hour, as they are scored: what the fraud rates of merchants are divided by.

A tally must fit into a message wherever topics take what Kafka's default allows, and whoever reads it refuses more. So
where names are many or long, a transaction of the worker makes several tallies of a partition, one range of offsets
behind the other.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from processors._parts import by_partition
from schemas.fraud import MerchantTally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processors._regions import Ints
    from schemas.envelope import Records

# Below the 1,048,576 bytes of `schemas.codec`, with room for the rest of the message.
_MOST_BYTES = 1_000_000
# A character of JSON takes at most six bytes (\u0000), the hour, the count and what stands between them 32.
_CHARACTER_BYTES, _ENTRY_BYTES = 6, 32


# A merchant's number and an hour in one integer: hours of the years 1 to 9999 lie within 27 bits from here.
_HOUR_BITS, _FIRST_HOUR = 27, -(1 << 25)


class Tallies:
    """Counts since the last drain, per source partition, and the offsets that they cover."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._entries: dict[int, list[tuple[Ints, Ints]]] = {}
        """Per partition blocks of entries and counts; an entry may be in several until they are merged."""
        self._held = 0
        self._ranges: dict[int, tuple[str, int, int]] = {}
        self._longest = 0
        self._closed: list[MerchantTally] = []

    def add(self, records: Records, accepted: Records, merchants: Sequence[str], hours: Ints) -> None:
        """These records were processed; those accepted, a part of them in their order, count.

        Args:
            records: All, whatever became of them.
            accepted: Those that are scored.
            merchants: Of each that is accepted.
            hours: Likewise.
        """
        numbers = self._number(merchants)
        most = _MOST_BYTES // (self._longest * _CHARACTER_BYTES + _ENTRY_BYTES)
        if self._held + len(accepted) > most:
            self._merge()
        if self._held + len(accepted) > most:
            self._close()
        if len(accepted) <= most:
            self._add(records, accepted, numbers, hours)
            return
        done = 0
        for start in range(0, len(records), most):
            some = records[start : start + most]
            stop = done + _shared(some, accepted[done:])
            self._add(some, accepted[done:stop], numbers[done:stop], hours[done:stop])
            self._close()
            done = stop

    def drain(self) -> list[MerchantTally]:
        """Tallies of every source partition that was processed since the last call, ranges in order."""
        self._close()
        tallies, self._closed = self._closed, []
        self._longest = 0
        self._numbers.clear()
        return tallies

    def _number(self, merchants: Sequence[str]) -> Ints:
        known = self._numbers
        found = list(map(known.get, merchants))
        if None in found:
            new = [merchant for merchant in dict.fromkeys(merchants) if merchant not in known]
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self._longest = max(self._longest, *map(len, new))
            found = list(map(known.get, merchants))
        return np.array(found, np.int64)

    def _add(self, records: Records, accepted: Records, numbers: Ints, hours: Ints) -> None:
        for partition, rows in by_partition(records.partitions):
            mine = records.offsets[rows]
            topic, first, _ = self._ranges.get(partition, (records.topic, int(mine[0]), 0))
            self._ranges[partition] = (topic, first, int(mine[-1]))
        entries = (numbers << _HOUR_BITS) + (hours - _FIRST_HOUR)
        for partition, rows in by_partition(accepted.partitions):
            different, counts = np.unique(entries[rows], return_counts=True)
            self._entries.setdefault(partition, []).append((different, counts))
            self._held += len(different)

    def _merge(self) -> None:
        """Makes one block of each partition's."""
        for partition, blocks in self._entries.items():
            if len(blocks) > 1:
                entries, counts = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
                different, place = np.unique(entries, return_inverse=True)
                sums = np.bincount(place, weights=counts).astype(np.int64)
                self._entries[partition] = [(different, sums)]
        self._held = sum(len(entries) for blocks in self._entries.values() for entries, _ in blocks)

    def _close(self) -> None:
        """Ends the ranges: what comes next is a tally of its own."""
        self._merge()
        names = list(self._numbers)
        for partition, (topic, first, last) in self._ranges.items():
            entries, counts = self._entries.get(partition, [(_NONE, _NONE)])[0]
            merchants = [names[number] for number in (entries >> _HOUR_BITS).tolist()]
            hours = ((entries & ((1 << _HOUR_BITS) - 1)) + _FIRST_HOUR).tolist()
            self._closed.append(MerchantTally(topic, partition, first, last, merchants, hours, counts.tolist()))
        self._entries.clear()
        self._held = 0
        self._ranges.clear()


_NONE = np.zeros(0, np.int64)


def _shared(records: Records, accepted: Records) -> int:
    """How many of those accepted, from the first on, are among the records."""
    places = set(records.positions())
    return sum(1 for _ in takewhile(places.__contains__, accepted.positions()))
