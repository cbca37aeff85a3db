"""Tallies and labels from records; what makes no sense becomes a reject, and the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.envelope import Reject
from schemas.times import parse_times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.codec import Codec
    from schemas.envelope import Record
    from schemas.fraud import MerchantTally, TransactionLabel

_MOST = 2**31 - 1


def decode_tallies(records: Sequence[Record], codec: Codec[MerchantTally]) -> tuple[list[MerchantTally], list[Reject]]:
    """Tallies that can be summed, in order, and rejects for the others."""
    tallies, sources, rejects = codec.decode_records(records)
    good = []
    for tally, record in zip(tallies, sources, strict=True):
        fault = _fault(tally)
        if fault is None:
            good.append(tally)
        else:
            rejects.append(Reject(record, "invalid_field", *fault))
    return good, rejects


def decode_labels(
    records: Sequence[Record], codec: Codec[TransactionLabel]
) -> tuple[list[TransactionLabel], list[int], list[int], list[Reject]]:
    """Labels with their event times and label times in epoch milliseconds, and rejects for the others."""
    labels, sources, rejects = codec.decode_records(records)
    if not labels:
        return [], [], [], rejects
    event_ms, bad_event_times = parse_times([label.event_time for label in labels])
    labelled_ms, bad_label_times = parse_times([label.labelled_at for label in labels])
    faults = {row: (reason, "$.labelled_at") for row, reason in bad_label_times.items()}
    faults |= {row: (reason, "$.event_time") for row, reason in bad_event_times.items()}
    rejects += [Reject(sources[row], reason, path) for row, (reason, path) in sorted(faults.items())]
    good = [row for row in range(len(labels)) if row not in faults]
    return (
        [labels[row] for row in good],
        event_ms[good].tolist(),
        labelled_ms[good].tolist(),
        rejects,
    )


def _fault(tally: MerchantTally) -> tuple[str, str] | None:
    """Path and detail of what makes a tally useless."""
    if not len(tally.merchants) == len(tally.hours) == len(tally.counts):
        return "$.merchants", "merchants, hours and counts are not of one length"
    if tally.last_offset < tally.first_offset:
        return "$.last_offset", "last_offset lies before first_offset"
    if any(not 0 < count <= _MOST for count in tally.counts):
        return "$.counts", f"a count is not between 1 and {_MOST}"
    if any(not 0 <= hour <= _MOST for hour in tally.hours):
        return "$.hours", f"an hour is not between 0 and {_MOST}"
    if any(not 0 < len(merchant) <= 256 for merchant in tally.merchants):
        return "$.merchants", "a merchant's name is empty or longer than 256 characters"
    return None
