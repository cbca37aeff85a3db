"""The fraud domain in `headrace demo`: simulated cards or a file of transactions, and how a flagged one is shown."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from processors._demo import Answer, Events
from processors.fraud import presets
from processors.fraud.simulator import Simulator
from schemas.envelope import Message
from schemas.fraud import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

columns = ("decision", "probability", "amount", "card", "merchant", "because")
flagged = "declined or to review"

_AT_ONCE = 500
_LABEL_TOPIC = "transaction-labels"
# Two months of event time, so that 30-day windows fill and labels, a week late, come back within a run.
_DAYS = 60


class _Shown(msgspec.Struct):
    """The part of a score that the demo looks at."""

    event_id: str
    card_token: str
    merchant: str
    probability: float
    decision: str
    reasons: list[Reason]
    amount: float
    currency: str = ""


class _Identified(msgspec.Struct):
    event_id: str


_scores = msgspec.json.Decoder(_Shown)
_ids = msgspec.json.Decoder(_Identified)


def simulate(events: int, seed: int) -> Iterator[Events]:
    """So many transactions over two months that end now, and the labels that came back meanwhile."""
    for batch in Simulator(seed, events=events, days=_DAYS).batches(_AT_ONCE):
        truth: list[bool | None] = [bool(fraud) for fraud in batch.is_fraud]
        labels = [Message(_LABEL_TOPIC, *label) for label in zip(batch.labels.keys, batch.labels.values, strict=True)]
        yield Events(list(batch.keys), batch.values, list(batch.event_ids), truth, labels)


def from_file(path: Path, preset: str, mapping: Path | None) -> Iterator[Events]:
    """The transactions of a file, as they stand; its truth, where it has one, is only compared with, never sent."""
    rows = presets.read(path, mapping or preset or None)
    while chunk := list(islice(rows, _AT_ONCE)):
        values = [row.value for row in chunk]
        yield Events([row.key for row in chunk], values, list(map(_id, values)), [row.label for row in chunk], [])


def read(value: bytes) -> Answer:
    """A score as it lies on the topic."""
    score = _scores.decode(value)
    is_flagged = score.decision != "approve"
    row = (
        (
            score.decision,
            f"{score.probability:.3f}",
            f"{score.amount:,.2f} {score.currency}",
            score.card_token[:10],
            score.merchant,
            ", ".join(f"{reason.feature} {reason.contribution:+.1f}" for reason in score.reasons),
        )
        if is_flagged
        else ()
    )
    return Answer(score.event_id, score.probability, is_flagged, row)


def next_steps() -> Iterable[tuple[str, str]]:
    """What to try after the demo."""
    return (
        ("uv run headrace try fraud FILE", "score a file of your own without Kafka"),
        ("uv run headrace demo --input FILE --preset sparkov", "the same run on your own transactions"),
    )


def _id(value: bytes) -> str | None:
    try:
        return _ids.decode(value).event_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
