"""Records and processors of the fraud domain as tests need them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from processors import Prepared, Setup, load
from processors.fraud import FraudProcessor
from schemas.envelope import Message, Record, Reject

KEY = bytes(range(32))
NOW = 1_790_000_000_000


def processor(**options: Any) -> FraudProcessor:
    """A fraud processor with these options and a key of its own."""
    made = load("fraud", Setup(options=options, token_key=KEY))
    assert isinstance(made, FraudProcessor)
    return made


def record(offset: int, partition: int = 0, at: int = NOW, **fields: Any) -> Record:
    """A valid transaction at this offset, with some fields changed; `...` leaves a field out."""
    event = {
        "event_id": f"event-{partition}-{offset}",
        "card": "4111111111111111",
        "merchant": "merchant-1",
        "amount": 12.5,
        "event_time": at,
        "category": "grocery_pos",
    } | fields
    value = json.dumps({name: field for name, field in event.items() if field is not ...}).encode()
    return Record("transactions", partition, offset, str(event["card"]).encode(), value, at)


def answer(
    scorer: FraudProcessor, records: list[Record], probability: float = 0.01
) -> tuple[list[dict[str, Any]], list[Reject]]:
    """Prepares and interprets with the same probability for all; results decoded, and rejects."""
    prepared = scorer.prepare(records)
    answers = scorer.interpret(prepared, outputs(prepared, probability), NOW + 20)
    assert len(prepared.records) == len(answers)
    assert len(records) == len(prepared.records) + len(prepared.rejects)
    messages = [message for message in answers if isinstance(message, Message)]
    return [msgspec.json.decode(message.value or b"") for message in messages], prepared.rejects


def outputs(prepared: Prepared, probability: float) -> dict[str, np.ndarray]:
    """What a model would have given."""
    return {"probability": np.full((len(prepared.records), 1), probability, np.float32)}
