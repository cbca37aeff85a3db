"""Which records become events: decoded, inside the bounds, not seen before; all others are refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from itertools import compress
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors._parts import by_partition, chosen
from processors.fraud.features import fields_of
from schemas.codec import REASONS
from schemas.envelope import Records, Reject
from schemas.times import check_times, parse_times

if TYPE_CHECKING:
    from processors._recent_ids import RecentIds
    from processors.fraud.settings import FraudSettings
    from schemas.codec import Codec
    from schemas.fraud import Transaction

HOUR_MS = 3_600_000
# Words that people choose for a category or a region are short; anything longer is a mistake or an attack.
_LONGEST_WORD = 64
_NO_LIMIT = np.iinfo(np.int64).max

Refusal = tuple[str, str, str]
"""Reason, path and detail of a reject."""


class Admitted(msgspec.Struct):
    """What is scored, in the order of the records, and rejects for the other records."""

    fields: dict[str, Sequence[Any]]
    """Columns of the transactions, by field."""
    records: Records
    times: NDArray[np.int64]
    rejects: list[Reject]

    def refuse(self, refused: Mapping[int, Refusal]) -> None:
        """Turns rows into rejects."""
        if not refused:
            return
        ids = self.fields["event_id"]
        self.rejects += [Reject(self.records[row], *why, ids[row]) for row, why in sorted(refused.items())]
        stay = np.ones(len(self.records), np.bool_)
        stay[list(refused)] = False
        staying = stay.tolist()
        self.fields = {name: list(compress(column, staying)) for name, column in self.fields.items()}
        self.records = self.records.take(np.flatnonzero(stay).tolist())
        self.times = self.times[stay]


class Admission:
    """Decides what is scored; the event ids that it accepts are remembered per partition."""

    def __init__(self, settings: FraudSettings, recent_ids: RecentIds, codec: Codec[Transaction]) -> None:
        self._codec = codec
        self._recent_ids = recent_ids
        self._max_amount = settings.max_amount
        earliest = datetime.combine(settings.earliest_event, time(), UTC)
        self._earliest_ms = round(earliest.timestamp() * 1000)
        self._future_ms = round(settings.max_future_hours * HOUR_MS)

    def admit(self, records: Records) -> Admitted:
        """Sorts out a micro-batch; never raises for what a record holds."""
        events, kept, rejects = self._codec.decode_records(records)
        fields = fields_of(events)
        times, unreadable = parse_times(fields["event_time"])
        admitted = Admitted(fields, Records.of(kept), times, rejects)
        admitted.refuse(
            self._out_of_bounds(fields)
            | {row: _bad_time(reason) for row, reason in self._out_of_time(admitted).items()}
            | {row: _bad_time(reason) for row, reason in unreadable.items()}
        )
        admitted.refuse(dict.fromkeys(self._seen_before(admitted), _SEEN_BEFORE))
        return admitted

    def _out_of_time(self, admitted: Admitted) -> dict[int, str]:
        stamps = admitted.records.timestamps_ms
        # A topic may carry no timestamps; then there is nothing to hold the event time against.
        latest = np.where(stamps > 0, stamps + self._future_ms, _NO_LIMIT)
        return check_times(admitted.times, self._earliest_ms, latest)

    def _out_of_bounds(self, fields: Mapping[str, Sequence[Any]]) -> dict[int, Refusal]:
        refused: dict[int, Refusal] = {}
        amounts = np.array(fields["amount"], np.float64)
        for row in np.flatnonzero(~(amounts <= self._max_amount)).tolist():
            refused[row] = ("invalid_field", "$.amount", f"Amounts above {self._max_amount:,.0f} are not accepted.")
        for name in ("category", "gender", "region"):
            for row in _too_long(fields[name]):
                refused[row] = ("invalid_field", f"$.{name}", f"At most {_LONGEST_WORD} characters are accepted.")
        return refused

    def _seen_before(self, admitted: Admitted) -> list[int]:
        seen: list[int] = []
        ids, records = admitted.fields["event_id"], admitted.records
        for partition, rows in by_partition(records.partitions):
            duplicates = self._recent_ids.accept(
                partition, chosen(ids, rows), records.offsets[rows].tolist(), records.timestamps_ms[rows].tolist()
            )
            if duplicates:
                places = np.arange(len(ids))[rows].tolist()
                seen += [places[at] for at in duplicates]
        return seen


_SEEN_BEFORE: Refusal = (
    "duplicate_event",
    "$.event_id",
    "An event with this id was accepted within the configured window.",
)


def _bad_time(reason: str) -> Refusal:
    return reason, "$.event_time", REASONS[reason]


def _too_long(words: Sequence[str | None]) -> list[int]:
    if max((len(word) for word in set(words) if word is not None), default=0) <= _LONGEST_WORD:
        return []
    return [row for row, word in enumerate(words) if word is not None and len(word) > _LONGEST_WORD]
