"""The three steps of inference on one micro-batch, without Kafka: prepare, execute, interpret."""

from __future__ import annotations

from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from schemas.envelope import Message, Record, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from processors import Arrays, Processor
    from streams.deadline import Deadline

__all__ = ["Observes", "Outcome", "Runs", "infer", "infer_all"]

Outcome = tuple[Record, Message | Reject]
"""A record and what became of it: the message to be written, or why there is none."""

# Stands in for a reason where a processor names none of its records' fates; the record is still accounted for.
UNANSWERED = "unanswered"
MODEL_ERROR = "model_error"


class Runs(Protocol):
    """What runs the model: `processors._session.Session`, or a double."""

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        """Outputs of n rows, and why for each row whose run failed also when it was alone (zeros in the outputs)."""


class Observes(Protocol):
    """Where the seconds of each stage go; `streams.observe.metrics` has one."""

    def __call__(self, stage: str, seconds: float) -> None:
        """Called once per stage and micro-batch."""


def infer(
    processor: Processor,
    session: Runs,
    records: list[Record],
    now_ms: int,
    observe: Observes | None = None,
    deadline: Deadline | None = None,
) -> list[Outcome]:
    """Answers a micro-batch: exactly one message or reject per record, in the order of the records.

    What is older than the deadline, where there is one, is answered without the model.

    Raises only for what is not the data's fault: a processor that breaks its contract, a model that cannot run
    at all. What is keyed state in the processor has then moved, and the caller has to restore it.
    """
    started = perf_counter()
    prepared = processor.prepare(records)
    prepared_at = perf_counter()
    answers: Sequence[Message | Reject] = ()
    executed_at = prepared_at
    old = [] if deadline is None else deadline.rows(prepared.records, now_ms)
    if len(old) < len(prepared.records):
        outputs, failed = (deadline.sparing(session, old) if old and deadline else session).run(prepared.inputs)
        executed_at = perf_counter()
        answers = processor.interpret(prepared, outputs, now_ms)
        if len(answers) != len(prepared.records):
            msg = f"{processor.name}: interpret answered {len(answers)} of {len(prepared.records)} rows. This is a bug."
            raise RuntimeError(msg)
        if failed and (retract := getattr(processor, "retract", None)) is not None:
            retract(prepared, failed)
        answers = _with_failures(prepared.records, answers, failed)
    if old and deadline is not None:
        replaced = deadline.answer(prepared, old, now_ms)
        answers = [replaced.get(row) or answers[row] for row in range(len(prepared.records))]
    outcomes = _in_input_order(records, prepared.records, answers, prepared.rejects)
    if observe is not None:
        observe("prepare", prepared_at - started)
        observe("execute", executed_at - prepared_at)
        observe("interpret", perf_counter() - executed_at)
    return outcomes


def infer_all(
    processor: Processor,
    session: Runs,
    records: Iterable[Record],
    clock_ms: Callable[[], int],
    max_size: int = 512,
) -> Iterator[Outcome]:
    """Answers any number of records in micro-batches of `max_size`, in their order; the loop of `headrace try`.

    Keyed state begins empty. What only Kafka could take, changes of state and side messages, is dropped.
    """
    state = processor.state
    held: set[int] = set()
    remaining = iter(records)
    while batch := list(islice(remaining, max_size)):
        if state is not None:
            for partition in {record.partition for record in batch} - held:
                state.restore(partition, {})
                held.add(partition)
        yield from infer(processor, session, batch, clock_ms())
        processor.drain()
        if state is not None:
            list(state.changes())


def _with_failures(
    records: Sequence[Record], answers: Sequence[Message | Reject], failed: Mapping[int, str]
) -> Sequence[Message | Reject]:
    """Puts a reject where the model failed on a row; what interpret made of the zeros there is thrown away."""
    if not failed:
        return answers
    replaced = list(answers)
    for row, why in failed.items():
        replaced[row] = Reject(records[row], MODEL_ERROR, detail=why)
    return replaced


def _in_input_order(
    records: list[Record],
    answered: list[Record],
    answers: Sequence[Message | Reject],
    rejects: Sequence[Reject],
) -> list[Outcome]:
    """Merges answers and rejects back into the order of the records.

    Both lists keep the input's order, so one walk over the records does, without a lookup for those answered.
    A record that is in neither list becomes a reject too: nothing is lost to a processor's mistake.
    """
    if answered == records:
        return list(zip(records, answers, strict=True))
    rejected = {_position(reject.record): reject for reject in rejects}
    outcomes: list[Outcome] = []
    row = 0
    for record in records:
        if row < len(answered) and answered[row] is record:
            outcomes.append((record, answers[row]))
            row += 1
        else:
            outcomes.append((record, rejected.get(_position(record)) or _unanswered(record)))
    if row != len(answered):
        msg = "prepare returned records that are not the micro-batch's own, or not in its order. This is a bug."
        raise RuntimeError(msg)
    return outcomes


def _position(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _unanswered(record: Record) -> Reject:
    return Reject(record, UNANSWERED, detail="the processor returned neither a row nor a reject for this record")
