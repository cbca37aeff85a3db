"""The three steps of inference on one micro-batch, without Kafka: prepare, execute, interpret."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, overload

from schemas.envelope import Message, Messages, Record, Records, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from processors import Arrays, Prepared, Processor
    from streams.deadline import Deadline

__all__ = ["Inference", "Observes", "Outcome", "Outcomes", "Runs", "infer", "infer_all"]

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


class Outcomes(Sequence[Outcome]):
    """What became of a micro-batch: one outcome per record, in their order.

    Whoever only sends takes `messages` and `rejects` instead, each in the order of their records: pairs are made where
    somebody looks at them.
    """

    __hash__ = None  # type: ignore[assignment]  # equal by content, as lists are

    def __init__(self, records: Sequence[Record], answered: Sequence[int], messages: Sequence[Message]) -> None:
        self.messages = messages
        self.rejects: Sequence[Reject] = ()
        self._records = records
        self._answered = answered
        self._rejected: dict[int, Reject] = {}

    def refuse(self, rejects: dict[int, Reject]) -> None:
        """Takes the rejects of the rows that have no message."""
        self._rejected = rejects
        self.rejects = [rejects[row] for row in sorted(rejects)]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Outcome]:
        message_of = dict(zip(self._answered, self.messages, strict=True))
        for row, record in enumerate(self._records):
            yield record, self._rejected[row] if row in self._rejected else message_of[row]

    @overload
    def __getitem__(self, at: int) -> Outcome: ...
    @overload
    def __getitem__(self, at: slice) -> list[Outcome]: ...
    def __getitem__(self, at: int | slice) -> Outcome | list[Outcome]:
        return list(self)[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Outcomes({list(self)!r})"


class Inference:
    """One micro-batch on its way: prepared when it is made, then `run` (its answers have that time), then `outcomes`.

    `run` may be called on another thread. Whoever prepares the next micro-batch meanwhile asks the processor first,
    whose `prepares_ahead` says whether it may.

    Args:
        processor: Prepares and interprets.
        session: Runs the model.
        records: The micro-batch.
        observe: Told of the stages, once they are over.
        deadline: What is older is answered without the model; None where nothing is too old.

    Raises:
        Exception: Only for what is not the data's fault, as `outcomes` and `run` do: a processor that breaks its
            contract, a model that cannot run at all. What is keyed state in the processor has then moved, and the
            caller has to restore it.
    """

    def __init__(
        self,
        processor: Processor,
        session: Runs,
        records: Sequence[Record],
        observe: Observes | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        started = perf_counter()
        self._processor = processor
        self._session = session
        self._records = records
        self.now_ms = 0
        """When its model ran: what is too old is so by then."""
        self._observe = observe or _unseen
        self._deadline = deadline
        self._prepared = processor.prepare(records)
        self._outputs: Arrays = {}
        self._failed: Mapping[int, str] = {}
        self._execute_s = 0.0
        self._old: Sequence[int] = ()
        self._some_run = False
        self._observe("prepare", perf_counter() - started)

    def run(self, now_ms: int) -> None:
        """Runs the model on the rows that are not too old, if there are any."""
        started = perf_counter()
        self.now_ms = now_ms
        deadline = self._deadline
        old = self._old = () if deadline is None else deadline.rows(self._prepared.records, now_ms)
        self._some_run = len(old) < len(self._prepared.records)
        if not self._some_run:
            return
        session = deadline.sparing(self._session, old) if old and deadline else self._session
        self._outputs, self._failed = session.run(self._prepared.inputs)
        self._execute_s = perf_counter() - started

    def outcomes(self) -> Outcomes:
        """Exactly one message or reject per record, in the order of the records."""
        self._observe("execute", self._execute_s)
        started = perf_counter()
        answers = self._answers() if self._some_run else ()
        if self._old and self._deadline is not None:
            answers = self._deadline.answer(self._prepared, answers, self._old, self.now_ms)
        outcomes = _outcomes(self._records, self._prepared.records, answers, self._prepared.rejects)
        self._observe("interpret", perf_counter() - started)
        return outcomes

    def _answers(self) -> Sequence[Message | Reject]:
        processor, prepared, failed = self._processor, self._prepared, self._failed
        answers = processor.interpret(prepared, self._outputs, self.now_ms)
        if len(answers) != len(prepared.records):
            msg = f"{processor.name}: interpret answered {len(answers)} of {len(prepared.records)} rows. This is a bug."
            raise RuntimeError(msg)
        if failed and (retract := getattr(processor, "retract", None)) is not None:
            retract(prepared, failed)
        return _with_failures(prepared, answers, failed)


def infer(
    processor: Processor,
    session: Runs,
    records: Sequence[Record],
    now_ms: int,
    observe: Observes | None = None,
    deadline: Deadline | None = None,
) -> Outcomes:
    """Answers a micro-batch from its beginning to its end; see `Inference`."""
    inference = Inference(processor, session, records, observe, deadline)
    inference.run(now_ms)
    return inference.outcomes()


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


def _unseen(_stage: str, _seconds: float) -> None:
    """Where nobody looks."""


def _with_failures(
    prepared: Prepared, answers: Sequence[Message | Reject], failed: Mapping[int, str]
) -> Sequence[Message | Reject]:
    """Puts a reject where the model failed on a row; what interpret made of the zeros there is thrown away."""
    if not failed:
        return answers
    replaced = list(answers)
    for row, why in failed.items():
        replaced[row] = Reject(prepared.records[row], MODEL_ERROR, detail=why, event_id=prepared.event_id(row))
    return replaced


def _outcomes(
    records: Sequence[Record],
    prepared: Sequence[Record],
    answers: Sequence[Message | Reject],
    rejects: Sequence[Reject],
) -> Outcomes:
    """Matches answers and rejects with the records that they belong to.

    A record that has neither becomes a reject too: nothing is lost to a processor's mistake.
    """
    rows = _rows_of(prepared, records)
    if isinstance(answers, Messages):
        refused: dict[int, Reject] = {}
    else:
        refused = {row: answer for row, answer in zip(rows, answers, strict=True) if isinstance(answer, Reject)}
    if refused:
        pairs = [pair for pair in zip(rows, answers, strict=True) if pair[0] not in refused]
        rows, answers = [row for row, _ in pairs], [answer for _, answer in pairs]
    outcomes = Outcomes(records, rows, answers)  # type: ignore[arg-type]  # no reject is left
    if len(rows) < len(records):
        outcomes.refuse(refused | _rejected(records, {*rows, *refused}, rejects))
    return outcomes


def _rows_of(prepared: Sequence[Record], records: Sequence[Record]) -> Sequence[int]:
    """Which rows of the micro-batch these are, in order."""
    if prepared is records:
        return range(len(records))
    row_of = {position: row for row, position in enumerate(_positions(records))}
    rows = [row_of.get(position, -1) for position in _positions(prepared)]
    if any(after <= before for before, after in zip([-1, *rows], rows, strict=False)):
        msg = "prepare returned records that are not the micro-batch's own, or not in its order. This is a bug."
        raise RuntimeError(msg)
    return rows


def _rejected(records: Sequence[Record], answered: set[int], rejects: Sequence[Reject]) -> dict[int, Reject]:
    """The reject of each row that has no answer."""
    reject_of = {(reject.record.partition, reject.record.offset): reject for reject in rejects}
    return {
        row: reject_of.get(position) or _unanswered(records[row])
        for row, position in enumerate(_positions(records))
        if row not in answered
    }


def _positions(records: Sequence[Record]) -> Iterable[tuple[int, int]]:
    """Partition and offset of each: a micro-batch is of one topic."""
    if isinstance(records, Records):
        return records.positions()
    return ((record.partition, record.offset) for record in records)


def _unanswered(record: Record) -> Reject:
    return Reject(record, UNANSWERED, detail="the processor returned neither a row nor a reject for this record")
