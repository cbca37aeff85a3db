"""Transactions per merchant and hour, as they are scored: what the fraud rates of merchants are divided by.

A tally must fit into a message wherever topics take what Kafka's default allows, and whoever reads it refuses more. So
where names are many or long, a transaction of the worker makes several tallies of a partition, one range of offsets
behind the other.
"""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from schemas.fraud import MerchantTally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.envelope import Record


_OFFSET, _PARTITION = attrgetter("offset"), attrgetter("partition")

# Below the 1,048,576 bytes of `schemas.codec`, with room for the rest of the message.
_MOST_BYTES = 1_000_000
# A character of JSON takes at most six bytes (\u0000), the hour, the count and what stands between them 32.
_CHARACTER_BYTES, _ENTRY_BYTES = 6, 32


class Tallies:
    """Counts since the last drain, per source partition, and the offsets that they cover."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str, int]] = Counter()
        self._ranges: dict[int, tuple[str, int, int]] = {}
        self._longest = 0
        self._closed: list[MerchantTally] = []

    def add(
        self, records: Sequence[Record], accepted: Sequence[Record], merchants: Sequence[str], hours: Sequence[int]
    ) -> None:
        """These records were processed; those accepted, a part of them in their order, count.

        Args:
            records: All, whatever became of them.
            accepted: Those that are scored.
            merchants: Of each that is accepted.
            hours: Likewise.
        """
        self._longest = max(self._longest, max(map(len, merchants), default=0))
        most = _MOST_BYTES // (self._longest * _CHARACTER_BYTES + _ENTRY_BYTES)
        if len(self._counts) + len(accepted) > most:
            self._close()
        if len(accepted) <= most:
            self._add(records, accepted, merchants, hours)
            return
        done = 0
        for start in range(0, len(records), most):
            some = records[start : start + most]
            stop = done + _shared(some, accepted[done:])
            self._add(some, accepted[done:stop], merchants[done:stop], hours[done:stop])
            self._close()
            done = stop

    def drain(self) -> list[MerchantTally]:
        """Tallies of every source partition that was processed since the last call, ranges in order."""
        self._close()
        tallies, self._closed = self._closed, []
        self._longest = 0
        return tallies

    def _add(
        self, records: Sequence[Record], accepted: Sequence[Record], merchants: Sequence[str], hours: Sequence[int]
    ) -> None:
        offsets = np.fromiter(map(_OFFSET, records), np.int64, len(records))
        partitions = np.fromiter(map(_PARTITION, records), np.int64, len(records))
        for partition in np.unique(partitions).tolist():
            mine = offsets[partitions == partition]
            first, last = int(mine.min()), int(mine.max())
            topic, low, high = self._ranges.get(partition, (records[0].topic, first, last))
            self._ranges[partition] = (topic, min(low, first), max(high, last))
        self._counts.update(zip(map(_PARTITION, accepted), merchants, hours, strict=True))

    def _close(self) -> None:
        """Ends the ranges: what comes next is a tally of its own."""
        columns: dict[int, tuple[list[str], list[int], list[int]]] = {p: ([], [], []) for p in self._ranges}
        for (partition, merchant, hour), count in self._counts.items():
            merchants, hours, counts = columns[partition]
            merchants.append(merchant)
            hours.append(hour)
            counts.append(count)
        self._closed += [
            MerchantTally(topic, partition, first, last, *columns[partition])
            for partition, (topic, first, last) in self._ranges.items()
        ]
        self._counts.clear()
        self._ranges.clear()


def _shared(records: Sequence[Record], accepted: Sequence[Record]) -> int:
    """How many of those accepted, from the first on, are among the records."""
    places = {(record.partition, record.offset) for record in records}
    return sum(1 for _ in takewhile(lambda record: (record.partition, record.offset) in places, accepted))
