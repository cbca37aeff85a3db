"""What is too old for the model: answered once, without it, and unknown to whatever comes later."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import fraud_cases
import msgspec
import numpy as np
import pytest
from counting_worker import make_worker
from doubles import CountingProcessor, EchoingSession
from harness import Follower, running, send
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import Arrays, Prepared
from processors._contract import Contract, Tensor
from schemas.envelope import Message, Record, Reject
from streams.deadline import DEAD_LETTER, FALLBACK, TOO_OLD, Deadline, max_age_of
from streams.inference import infer
from streams.observe.metrics import WorkerMetrics

NOW = fraud_cases.NOW
MAX_AGE_MS = 1000


class PunctualProcessor(CountingProcessor):
    """Counts, and says what its model takes; without a fallback."""

    contract = Contract(
        inputs=(Tensor("before", "float32", ("batch", 1)), Tensor("weight", "float32", (1,))),
        outputs=(Tensor("before", "float32", ("batch", 1)),),
    )

    def __init__(self) -> None:
        super().__init__("in", "out")
        self.retracted: list[bytes | None] = []

    def prepare(self, records: list[Record]) -> Prepared:
        prepared = super().prepare(records)
        return Prepared({**prepared.inputs, "weight": np.ones(1, np.float32)}, prepared.records, None, prepared.rejects)

    def retract(self, prepared: Prepared, rows: Iterable[int]) -> None:
        self.retracted += [prepared.records[row].value for row in rows]


class FallingBackProcessor(PunctualProcessor):
    """Answers `value:old` for the model, but refuses the value `r`."""

    def fallback(self, prepared: Prepared, rows: Sequence[int], now_ms: int) -> list[Message | Reject]:
        records = [prepared.records[row] for row in rows]
        return [
            Reject(r, "cannot") if r.value == b"r" else Message(self.output_topic, r.key, (r.value or b"") + b":old")
            for r in records
        ]


class RememberingSession(EchoingSession):
    """Echoes `before`, fails on the counts in `poison`, and remembers how many rows it was given."""

    def __init__(self, *poison: float) -> None:
        self.rows: list[int] = []
        self._poison = poison

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        before = inputs["before"]
        self.rows.append(len(before))
        failed = {row: "poison" for row, value in enumerate(before[:, 0]) if value in self._poison}
        return {"before": np.where(np.isin(before, self._poison), 0, before)}, failed


def record(offset: int, age_ms: int, value: bytes = b"v", key: bytes = b"k") -> Record:
    return Record("in", 0, offset, key, value, NOW - age_ms)


def answers(
    processor: CountingProcessor, session: EchoingSession, records: list[Record], deadline: Deadline | None
) -> list[bytes | str]:
    """Values of results, reasons of rejects."""
    outcomes = infer(processor, session, records, NOW, deadline=deadline)  # type: ignore[arg-type]
    assert [given for given, _ in outcomes] == records
    return [answer.reason if isinstance(answer, Reject) else answer.value or b"" for _, answer in outcomes]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([b"a", b"b", b"bad", b"r"]), st.sampled_from([b"k", b"l"]))))
def test_later_events_do_not_know_how_earlier_ones_were_answered(events: list[tuple[bool, bytes, bytes]]) -> None:
    """Whichever events are too old, the others get what they get when none is, and state is the same."""
    records = [record(i, 5000 if old else 10, value, key) for i, (old, value, key) in enumerate(events)]
    plain, punctual = FallingBackProcessor(), FallingBackProcessor()
    counted: dict[str, int] = {}
    deadline = Deadline(punctual, MAX_AGE_MS, lambda outcome, n: counted.update({outcome: n}))  # type: ignore[arg-type]
    session = RememberingSession()

    expected = answers(plain, RememberingSession(), records, None)
    actual = answers(punctual, session, records, deadline)

    fallback = {b"a": b"a:old", b"b": b"b:old", b"r": "cannot", b"bad": "bad_value"}
    assert [fallback[v] if old else e for (old, v, _), e in zip(events, expected, strict=True)] == actual
    assert plain.state.counts == punctual.state.counts
    old = [value for is_old, value, _ in events if is_old and value != b"bad"]
    assert sum(value != b"bad" for _, value, _ in events) - len(old) == sum(session.rows)
    assert {FALLBACK: len(old) - old.count(b"r"), DEAD_LETTER: old.count(b"r")} == {
        FALLBACK: 0,
        DEAD_LETTER: 0,
        **counted,
    }
    assert [b"r"] * old.count(b"r") == punctual.retracted


def test_without_a_fallback_it_is_a_dead_letter_that_may_come_again() -> None:
    """The reason is `too_old`, and what keeps the event from being sent again is undone."""
    processor = PunctualProcessor()

    actual = answers(
        processor,
        RememberingSession(),
        [record(0, 5000, b"a"), record(1, 0, b"b")],
        Deadline(processor, MAX_AGE_MS),  # type: ignore[arg-type]
    )

    assert [TOO_OLD, b"b:1"] == actual
    assert [b"a"] == processor.retracted


def test_what_is_too_old_is_named() -> None:
    """The dead letter has the event's id where the processor told it, and the row's own."""

    class Naming(PunctualProcessor):
        """Calls each event by its offset."""

        def prepare(self, records: list[Record]) -> Prepared:
            prepared = super().prepare(records)
            prepared.event_ids = [f"id-{record.offset}" for record in prepared.records]
            return prepared

    named: list[str] = []
    for processor in (Naming(), PunctualProcessor()):
        records = [record(7, 0), record(8, 5000), record(9, 5000)]
        outcomes = infer(processor, RememberingSession(), records, NOW, deadline=Deadline(processor, MAX_AGE_MS))  # type: ignore[arg-type]
        named += [reject.event_id for reject in outcomes.rejects]

    assert ["id-8", "id-9", "", ""] == named


def test_failed_rows_keep_their_place() -> None:
    """A row that fails among those left for the model is the dead letter, not its neighbour."""
    processor = FallingBackProcessor()
    records = [record(0, 5000), record(1, 0), record(2, 5000), record(3, 0), record(4, 0)]

    actual = answers(processor, RememberingSession(3), records, Deadline(processor, MAX_AGE_MS))  # type: ignore[arg-type]

    assert [b"v:old", b"v:1", b"v:old", "model_error", b"v:4"] == actual


def test_where_all_are_too_old_the_model_does_not_run() -> None:
    """A backlog costs neither the model nor interpret."""
    processor, session = FallingBackProcessor(), RememberingSession()

    actual = answers(processor, session, [record(0, 5000), record(1, 6000)], Deadline(processor, MAX_AGE_MS))  # type: ignore[arg-type]

    assert [b"v:old", b"v:old"] == actual
    assert [] == session.rows


@pytest.mark.parametrize(
    ("stamp", "old"),
    [
        (NOW - MAX_AGE_MS - 1, True),
        (NOW - MAX_AGE_MS, False),
        (NOW + 3_600_000, False),
        (0, False),
        (-1, False),
        (1, True),
    ],
)
def test_only_a_known_age_counts(stamp: int, old: bool) -> None:
    """Younger, from the future (a clock stepped back) and without a timestamp: the model answers."""
    deadline = Deadline(PunctualProcessor(), MAX_AGE_MS)  # type: ignore[arg-type]

    assert ([0] if old else []) == deadline.rows([Record("in", 0, 0, None, b"v", stamp)], NOW)


def test_a_fallback_that_answers_too_few_is_a_bug() -> None:
    """An event must not be lost to a mistake in a domain's code."""

    class Forgetful(FallingBackProcessor):
        def fallback(self, prepared: Prepared, rows: Sequence[int], now_ms: int) -> list[Message | Reject]:
            return []

    processor = Forgetful()

    with pytest.raises(RuntimeError, match="fallback answered 0 of 1 rows"):
        answers(processor, RememberingSession(), [record(0, 5000)], Deadline(processor, MAX_AGE_MS))  # type: ignore[arg-type]


@pytest.mark.parametrize(("own", "expected"), [(None, 7), (0, 0), (9, 9)])
def test_a_domain_may_have_its_own_deadline(own: int | None, expected: int) -> None:
    """The domain's setting is over the worker's, also where it says never."""
    assert expected == max_age_of(fraud_cases.processor(max_age_ms=own), 7)


@pytest.mark.parametrize(("decision", "probability"), [("approve", 0.0), ("review", 0.5), ("decline", 0.9)])
def test_a_transaction_that_is_too_old_gets_the_configured_decision(decision: str, probability: float) -> None:
    """The decision is the configured one, the model is `fallback`, and no feature is claimed to have been used."""
    scorer = fraud_cases.processor(fallback=decision)
    prepared = scorer.prepare([fraud_cases.record(n) for n in range(3)])

    [first, second] = scorer.fallback(prepared, [0, 2], NOW + 9000)

    score = msgspec.json.decode(second.value or b"")  # type: ignore[union-attr]
    assert ("event-0-2", decision, probability, "fallback", {}, [], 9000) == tuple(
        score[name] for name in ("event_id", "decision", "probability", "model", "features", "reasons", "latency_ms")
    )
    assert score["card_token"].encode() == first.key == second.key  # type: ignore[union-attr]


def test_features_of_later_transactions_are_the_same() -> None:
    """A card's history holds what was answered by the fallback: features, tallies and duplicates know no difference."""
    plain, punctual = fraud_cases.processor(), fraud_cases.processor()
    for scorer in (plain, punctual):
        scorer.prepare([fraud_cases.record(0)])
    prepared = punctual.prepare([fraud_cases.record(1)])
    plain.prepare([fraud_cases.record(1)])
    punctual.fallback(prepared, [0], NOW)

    [expected], _ = fraud_cases.answer(plain, [fraud_cases.record(2)])
    [actual], rejects = fraud_cases.answer(punctual, [fraud_cases.record(2), fraud_cases.record(1)])

    assert expected["features"] == actual["features"]
    assert ["duplicate_event"] == [reject.reason for reject in rejects]


def test_a_backlog_older_than_the_deadline_is_answered_once(
    stage: dict[str, str],
) -> None:
    """Through Kafka: what waited too long gets its fallback, each event one answer, and state goes on."""
    processor, counted = FallingBackProcessor(), WorkerMetrics()
    processor.input_topic, processor.output_topic = stage["topic"], stage["output"]
    send(stage["bootstrap"], stage["topic"], [(b"k", b"%d" % n) for n in range(200)])
    time.sleep(0.05)
    worker = make_worker(**stage, slot="0", max_age_ms=20, processor=processor, metrics=counted)
    follower = Follower(stage["bootstrap"], stage["output"], f"{stage['output']}.dead-letters")

    with running(worker):
        follower.read_until(200, 30)

    follower.close()
    assert [b"%d:old" % n for n in range(200)] == sorted((r.value or b"" for r in follower.records), key=_number)
    assert {b"k": 200} == {key: n for counts in processor.state.counts.values() for key, n in counts.items()}
    too_old = counted.registry.get_sample_value("headrace_too_old_events_total", {"outcome": FALLBACK})
    assert (200, 200) == (too_old, counted.registry.get_sample_value("headrace_results_total"))


def _number(value: bytes) -> int:
    return int(value.split(b":")[0])
