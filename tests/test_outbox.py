"""What waits for the commit before its own is sent whole, in order, and timed to where it was produced."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from schemas.envelope import Message, Record, Reject
from streams._outbox import Outbox
from streams.inference import Outcomes


class KeepingEmitter:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, messages: Iterable[Message]) -> None:
        self.sent += messages


def outcomes_of(values: list[bytes]) -> Outcomes:
    """One message per value, and a reject for the last."""
    records = [Record("in", 0, at, b"k", value, 1) for at, value in enumerate(values)]
    answered = list(range(len(values) - 1))
    outcomes = Outcomes(records, answered, [Message("out", b"k", values[at]) for at in answered])
    outcomes.refuse({len(values) - 1: Reject(records[-1], "malformed")})
    return outcomes


def test_what_waits_is_sent_once_in_its_order() -> None:
    """Results, then dead letters, micro-batch by micro-batch, and nothing twice."""
    emitter, outbox = KeepingEmitter(), Outbox("dead", None, lambda _stage, _seconds: None, lambda _seconds: None)
    for values in ([b"1", b"2", b"bad"], [b"3", b"worse"]):
        outbox.put(outcomes_of(values), np.full(len(values), 1), 2)

    outbox.send(emitter)  # type: ignore[arg-type]  # the other verbs are not its matter
    outbox.send(emitter)  # type: ignore[arg-type]

    assert [(message.topic, message.value) for message in emitter.sent if message.topic == "out"] == [
        ("out", b"1"),
        ("out", b"2"),
        ("out", b"3"),
    ]
    assert [message.topic for message in emitter.sent] == ["out", "out", "dead", "out", "dead"]
    assert len(outbox) == 0


def test_latency_is_told_when_results_are_produced() -> None:
    """The wait in the outbox and the model's run before it are part of an event's latency."""
    told: list[float] = []
    outbox = Outbox("dead", None, lambda _stage, _seconds: None, lambda seconds: told.extend(seconds.tolist()))
    now_ms = time.time_ns() // 1_000_000
    outbox.put(outcomes_of([b"1", b"bad"]), np.array([now_ms, now_ms - 500]), now_ms)
    time.sleep(0.2)

    outbox.send(KeepingEmitter())  # type: ignore[arg-type]

    assert len(told) == 2
    assert min(told) >= 0.2
    assert max(told) >= 0.7
