"""One answer per record, in order, whatever the processor and the model do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from doubles import CountingProcessor, EchoingSession
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import Arrays, Prepared
from schemas.envelope import Message, Record, Reject
from streams.inference import MODEL_ERROR, UNANSWERED, infer, infer_all

if TYPE_CHECKING:
    from collections.abc import Mapping


def records(values: list[bytes], topic: str = "in") -> list[Record]:
    return [Record(topic, 0, offset, b"k", value, 0) for offset, value in enumerate(values)]


class FailingOn:
    """Echoes, but for rows whose count of before is in `rows`."""

    def __init__(self, *rows: int) -> None:
        self.rows = rows

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        outputs = {name: array.copy() for name, array in inputs.items()}
        failed = {row: "poison" for row in self.rows if row < len(outputs["before"])}
        for row in failed:
            outputs["before"][row] = 0
        return outputs, failed


class ForgettingProcessor(CountingProcessor):
    """Loses every record whose value is `lost`."""

    def prepare(self, records: list[Record]) -> Prepared:
        return super().prepare([record for record in records if record.value != b"lost"])


class SilentProcessor(CountingProcessor):
    """Answers one row less than it was given."""

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> list[Message | Reject]:
        return super().interpret(prepared, outputs, now_ms)[:-1]


class ReversingProcessor(CountingProcessor):
    """Hands its records back in another order."""

    def prepare(self, records: list[Record]) -> Prepared:
        return super().prepare(records[::-1])


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b", b"bad"])), st.integers(1, 5))
def test_every_record_is_answered_once_in_order(values: list[bytes], size: int) -> None:
    """Results and rejects stand where their records stood, and counts go on over micro-batches."""
    given_records = records(values)

    outcomes = list(infer_all(CountingProcessor("in", "out"), EchoingSession(), given_records, lambda: 0, size))

    seen = -1
    expected = [None if value == b"bad" else b"%s:%d" % (value, seen := seen + 1) for value in values]
    assert given_records == [record for record, _ in outcomes]
    assert expected == [answer.value if isinstance(answer, Message) else None for _, answer in outcomes]


def test_a_failed_row_becomes_a_reject_and_the_others_stay() -> None:
    """What interpret made of the zeros of a failed row is thrown away."""
    given_records = records([b"a", b"bad", b"b", b"c"])

    outcomes = infer(CountingProcessor("in", "out"), FailingOn(1), given_records, 0)

    answers = [answer for _, answer in outcomes]
    assert [b"a:0", "bad_value", MODEL_ERROR, b"c:2"] == [
        answer.value if isinstance(answer, Message) else answer.reason for answer in answers
    ]
    assert Reject(given_records[2], MODEL_ERROR, detail="poison") == answers[2]


def test_a_record_that_the_processor_loses_becomes_a_reject() -> None:
    """Nothing is lost to a processor's mistake."""
    outcomes = infer(ForgettingProcessor("in", "out"), EchoingSession(), records([b"a", b"lost", b"b"]), 0)

    assert [None, UNANSWERED, None] == [getattr(answer, "reason", None) for _, answer in outcomes]


@pytest.mark.parametrize("broken", [SilentProcessor, ReversingProcessor])
def test_a_broken_contract_stops_the_batch(broken: type[CountingProcessor]) -> None:
    """Answers that cannot be matched to records must never be sent as if they could."""
    with pytest.raises(RuntimeError, match="This is a bug"):
        infer(broken("in", "out"), EchoingSession(), records([b"a", b"b"]), 0)


def test_nothing_runs_for_a_batch_of_rejects() -> None:
    """A micro-batch without a good record does not reach the model."""

    class Untouchable:
        def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
            raise AssertionError

    outcomes = infer(CountingProcessor("in", "out"), Untouchable(), records([b"bad", b"bad"]), 0)

    assert ["bad_value", "bad_value"] == [getattr(answer, "reason", None) for _, answer in outcomes]
    assert [] == infer(CountingProcessor("in", "out"), Untouchable(), [], 0)


def test_stages_are_timed() -> None:
    """Each stage is observed once per micro-batch, with seconds that are not negative."""
    seen: list[tuple[str, float]] = []

    infer(
        CountingProcessor("in", "out"),
        EchoingSession(),
        records([b"a"]),
        0,
        lambda stage, seconds: seen.append((stage, seconds)),
    )

    assert ["prepare", "execute", "interpret"] == [stage for stage, _ in seen]
    assert all(seconds >= 0 for _, seconds in seen)


def test_state_changes_and_side_messages_do_not_pile_up() -> None:
    """A long file leaves nothing behind that only Kafka would take."""
    processor = CountingProcessor("in", "out")

    count = sum(1 for _ in infer_all(processor, EchoingSession(), records([b"a"] * 10), lambda: 0, 3))

    assert 10 == count
    assert [] == list(processor.state.changes())
    assert np.array_equal([10], list(processor.state.counts[0].values()))
