"""Transactions per merchant and hour, as they are scored: what the fraud rates of merchants are divided by."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from schemas.fraud import MerchantTally

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas.envelope import Record


_OFFSET, _PARTITION = attrgetter("offset"), attrgetter("partition")


class Tallies:
    """Counts since the last drain, per source partition, and the offsets that they cover."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str, int]] = Counter()
        self._ranges: dict[int, tuple[str, int, int]] = {}

    def cover(self, records: Sequence[Record]) -> None:
        """These records were processed, whatever became of them."""
        offsets = np.fromiter(map(_OFFSET, records), np.int64, len(records))
        partitions = np.fromiter(map(_PARTITION, records), np.int64, len(records))
        for partition in np.unique(partitions).tolist():
            mine = offsets[partitions == partition]
            first, last = int(mine.min()), int(mine.max())
            topic, low, high = self._ranges.get(partition, (records[0].topic, first, last))
            self._ranges[partition] = (topic, min(low, first), max(high, last))

    def add(self, partitions: Iterable[int], merchants: Iterable[str], hours: Iterable[int]) -> None:
        """Counts transactions that were accepted."""
        self._counts.update(zip(partitions, merchants, hours, strict=True))

    def drain(self) -> list[MerchantTally]:
        """One tally per source partition that was processed since the last call."""
        columns: dict[int, tuple[list[str], list[int], list[int]]] = {p: ([], [], []) for p in self._ranges}
        for (partition, merchant, hour), count in self._counts.items():
            merchants, hours, counts = columns[partition]
            merchants.append(merchant)
            hours.append(hour)
            counts.append(count)
        tallies = [
            MerchantTally(topic, partition, first, last, *columns[partition])
            for partition, (topic, first, last) in self._ranges.items()
        ]
        self._counts.clear()
        self._ranges.clear()
        return tallies
