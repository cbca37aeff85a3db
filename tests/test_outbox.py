"""What waits for the commit before its own is sent whole, in order, and timed to where it was produced."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from schemas.envelope import Message, Record, Records, Reject
from streams._inferring import Answered
from streams._outbox import Outbox
from streams.inference import Outcomes
from streams.observe.metrics import WorkerMetrics, process_registry


class KeepingEmitter:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, messages: Iterable[Message]) -> None:
        self.sent += messages


def answered_of(values: list[bytes], times_ms: list[int]) -> Answered:
    """One message per value, and a reject for the last."""
    records = [
        Record("in", 0, at, b"k", value, time) for at, (value, time) in enumerate(zip(values, times_ms, strict=True))
    ]
    answered = list(range(len(values) - 1))
    outcomes = Outcomes(records, answered, [Message("out", b"k", values[at]) for at in answered])
    outcomes.refuse({len(values) - 1: Reject(records[-1], "malformed")})
    return Answered(Records.of(records), outcomes, 2)


def test_what_waits_is_sent_once_in_its_order() -> None:
    """Results, then dead letters, micro-batch by micro-batch, and nothing twice."""
    registry = process_registry("worker")
    emitter, outbox = KeepingEmitter(), Outbox("dead", None, WorkerMetrics(registry))
    for values in ([b"1", b"2", b"bad"], [b"3", b"worse"]):
        outbox.put(answered_of(values, [1] * len(values)))

    outbox.send(emitter)  # type: ignore[arg-type]  # the other verbs are not its matter
    outbox.send(emitter)  # type: ignore[arg-type]

    assert [(message.topic, message.value) for message in emitter.sent if message.topic == "out"] == [
        ("out", b"1"),
        ("out", b"2"),
        ("out", b"3"),
    ]
    assert [message.topic for message in emitter.sent] == ["out", "out", "dead", "out", "dead"]
    assert len(outbox) == 0
    assert (5.0, 3.0) == tuple(
        registry.get_sample_value(f"headrace_{name}_total") for name in ("events_read", "results")
    )


def test_latency_is_told_when_results_are_produced() -> None:
    """The wait in the outbox and the model's run before it are part of an event's latency."""
    told: list[float] = []

    class Telling(WorkerMetrics):
        def observe_latency(self, seconds: Iterable[float] | NDArray[Any]) -> None:
            told.extend(seconds)

    outbox = Outbox("dead", None, Telling(process_registry("worker")))
    now_ms = time.time_ns() // 1_000_000
    outbox.put(answered_of([b"1", b"bad"], [now_ms, now_ms - 500]))
    time.sleep(0.2)

    outbox.send(KeepingEmitter())  # type: ignore[arg-type]

    assert len(told) == 2
    assert min(told) >= 0.2
    assert max(told) >= 0.7
