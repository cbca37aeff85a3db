"""Which records become events: decoded, inside the bounds, not seen before; all others are refused with a reason."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.codec import REASONS
from schemas.envelope import Record, Reject
from schemas.fraud import Transaction
from schemas.times import check_times, parse_times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors._recent_ids import RecentIds
    from processors.fraud.settings import FraudSettings
    from schemas.codec import Codec

HOUR_MS = 3_600_000
# Words that people choose for a category or a region are short; anything longer is a mistake or an attack.
_LONGEST_WORD = 64
_NO_LIMIT = np.iinfo(np.int64).max


class Admitted(msgspec.Struct, frozen=True):
    """Events in the order of their records, and rejects for the other records."""

    events: list[Transaction]
    records: list[Record]
    times: NDArray[np.int64]
    partitions: NDArray[np.int64]
    rejects: list[Reject]


class Admission:
    """Decides what is scored; the event ids that it accepts are remembered per partition."""

    def __init__(self, settings: FraudSettings, recent_ids: RecentIds, codec: Codec[Transaction]) -> None:
        self._codec = codec
        self._recent_ids = recent_ids
        self._max_amount = settings.max_amount
        earliest = datetime.combine(settings.earliest_event, time(), UTC)
        self._earliest_ms = round(earliest.timestamp() * 1000)
        self._future_ms = round(settings.max_future_hours * HOUR_MS)

    def admit(self, records: list[Record]) -> Admitted:
        """Sorts out a micro-batch; never raises for what a record holds."""
        events, kept, rejects = self._codec.decode_records(records)
        times, reasons = parse_times([event.event_time for event in events])
        refused = {row: (reason, "$.event_time", REASONS[reason]) for row, reason in reasons.items()}
        refused |= self._out_of_time(times, kept, refused)
        refused |= self._out_of_bounds(events)
        events, kept, times, rejects = _without(refused, events, kept, times, rejects)
        partitions = np.fromiter([record.partition for record in kept], np.int64, len(kept))
        seen = dict.fromkeys(self._seen_before(events, kept, partitions), _SEEN_BEFORE)
        events, kept, times, rejects = _without(seen, events, kept, times, rejects)
        if seen:
            partitions = np.delete(partitions, list(seen))
        return Admitted(events=events, records=kept, times=times, partitions=partitions, rejects=rejects)

    def _out_of_time(
        self, times: NDArray[np.int64], records: list[Record], refused: Mapping[int, Refusal]
    ) -> dict[int, Refusal]:
        stamps = np.fromiter([record.timestamp_ms for record in records], np.int64, len(records))
        # A broker may be set to keep no timestamps; then there is nothing to hold the event time against.
        latest = np.where(stamps > 0, stamps + self._future_ms, _NO_LIMIT)
        reasons = check_times(times, self._earliest_ms, latest)
        return {row: (reason, "$.event_time", REASONS[reason]) for row, reason in reasons.items() if row not in refused}

    def _out_of_bounds(self, events: list[Transaction]) -> dict[int, Refusal]:
        refused: dict[int, Refusal] = {}
        amounts = np.fromiter([event.amount for event in events], np.float64, len(events))
        for row in np.flatnonzero(~(amounts <= self._max_amount)).tolist():
            refused[row] = ("invalid_field", "$.amount", f"Amounts above {self._max_amount:,.0f} are not accepted.")
        for field in ("category", "gender", "region"):
            words = [getattr(event, field) for event in events]
            for row in _too_long(words):
                refused[row] = ("invalid_field", f"$.{field}", f"At most {_LONGEST_WORD} characters are accepted.")
        return refused

    def _seen_before(
        self, events: list[Transaction], records: list[Record], partitions: NDArray[np.int64]
    ) -> list[int]:
        seen: list[int] = []
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition).tolist()
            duplicates = self._recent_ids.accept(
                partition,
                [events[row].event_id for row in rows],
                [records[row].offset for row in rows],
                [records[row].timestamp_ms for row in rows],
            )
            seen += [rows[at] for at in duplicates]
        return sorted(seen)


Refusal = tuple[str, str, str]

_SEEN_BEFORE: Refusal = (
    "duplicate_event",
    "$.event_id",
    "An event with this id was accepted within the configured window.",
)


def _too_long(words: list[str | None]) -> list[int]:
    distinct = set(words) - {None}
    if max(map(len, distinct), default=0) <= _LONGEST_WORD:  # type: ignore[arg-type]  # None was taken out
        return []
    return [row for row, word in enumerate(words) if word is not None and len(word) > _LONGEST_WORD]


def _without(
    refused: Mapping[int, Refusal],
    events: list[Transaction],
    records: list[Record],
    times: NDArray[np.int64],
    rejects: list[Reject],
) -> tuple[list[Transaction], list[Record], NDArray[np.int64], list[Reject]]:
    """The rows that stay, and rejects for those that do not."""
    if not refused:
        return events, records, times, rejects
    rejects = rejects + [Reject(records[row], *why) for row, why in sorted(refused.items())]
    stay = [row for row in range(len(events)) if row not in refused]
    return [events[row] for row in stay], [records[row] for row in stay], times[stay], rejects
