"""Transactions per merchant and hour, as they are scored: what the fraud rates of merchants are divided by."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from schemas.fraud import MerchantTally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.envelope import Record


class Tallies:
    """Counts since the last drain, per source partition, and the offsets that they cover."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Counter[tuple[str, int]]] = {}
        self._ranges: dict[tuple[str, int], tuple[int, int]] = {}

    def cover(self, topic: str, partition: int, first: int, last: int) -> None:
        """These offsets were processed, whatever became of them."""
        low, high = self._ranges.get((topic, partition), (first, last))
        self._ranges[topic, partition] = (min(low, first), max(high, last))

    def add(self, records: Iterable[Record], merchants: Iterable[str], hours: Iterable[int]) -> None:
        """Counts events that were accepted, given their records."""
        sources = [(record.topic, record.partition) for record in records]
        if len(set(sources)) == 1:
            self._counts.setdefault(sources[0], Counter()).update(zip(merchants, hours, strict=True))
            return
        for source, merchant, hour in zip(sources, merchants, hours, strict=True):
            self._counts.setdefault(source, Counter())[merchant, hour] += 1

    def drain(self) -> list[MerchantTally]:
        """One tally per source partition that was processed since the last call."""
        tallies = [
            MerchantTally(
                topic=topic,
                partition=partition,
                first_offset=first,
                last_offset=last,
                merchants=[merchant for merchant, _ in counts],
                hours=[hour for _, hour in counts],
                counts=list(counts.values()),
            )
            for (topic, partition), (first, last) in self._ranges.items()
            for counts in [self._counts.get((topic, partition), Counter())]
        ]
        self._counts.clear()
        self._ranges.clear()
        return tallies
