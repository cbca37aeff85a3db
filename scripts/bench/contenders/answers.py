"""The answer that every contender writes: the fields of headrace's result, but for reasons and card tokens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from scripts.bench.contenders.features import NAMES, WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench.contenders.features import Model, Transaction

Values = msgspec.defstruct("Values", [(name, float | None) for name in NAMES], frozen=True, gc=False)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A score, with what it was made from."""

    event_id: str
    card: str
    merchant: str
    probability: float
    decision: str
    features: Any
    model: str
    event_time: int
    scored_at: int
    amount: float
    category: str | None
    currency: str
    age: int | None
    gender: str | None
    region: str | None


encode = msgspec.json.Encoder().encode


def answer(event: Transaction, probability: float, values: Sequence[float], model: Model) -> bytes:
    """The answer to an event as it goes to the output topic."""
    kept = (
        None if value != value else int(value) if name in WHOLE else value
        for name, value in zip(NAMES, values, strict=True)
    )
    return encode(
        Answer(
            event.event_id,
            event.card,
            event.merchant,
            round(probability, 8),
            model.decide(probability),
            Values(*kept),
            model.reference,
            event.event_time,
            time.time_ns() // 1_000_000,
            event.amount,
            event.category,
            event.currency,
            event.age,
            event.gender,
            event.region,
        )
    )
