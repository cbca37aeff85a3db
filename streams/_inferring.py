"""Micro-batches on their way to an answer: one may be in the model while the next is prepared."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.envelope import Records
from streams._beside import Beside
from streams.deadline import Deadline, max_age_of
from streams.inference import Inference, Outcomes

if TYPE_CHECKING:
    from processors import Processor
    from streams.inference import Runs
    from streams.observe.metrics import WorkerMetrics

__all__ = ["Answered", "Inferring"]


class Answered(NamedTuple):
    """A micro-batch, what became of it, and when the model ran."""

    records: Records
    outcomes: Outcomes
    now_ms: int


class _Running(msgspec.Struct, frozen=True):
    records: Records
    inference: Inference
    run: Future[float]


class Inferring:
    """Answers micro-batches in their order.

    Where the processor allows it, full ones leave their model run to a thread beside the loop: what is full comes from
    a backlog, and its answer can wait for the next one to be prepared. Others are answered at once.

    Args:
        processor: Prepares and interprets; `prepares_ahead`, where it has it, says whether prepare may see the next
            micro-batch before interpret has seen this one.
        session: Runs the model, from one thread at a time; where it is bound to buffers of a device, which belong to
            the thread that made it (`bound`), that is the loop's.
        metrics: Told of the stages, and of events that were too old.
        max_age_ms: The deadline where the processor has none of its own; 0 is none.
    """

    def __init__(self, processor: Processor, session: Runs, metrics: WorkerMetrics, max_age_ms: int) -> None:
        self._processor = processor
        self._session = session
        self._metrics = metrics
        own = max_age_of(processor, max_age_ms)
        self._deadline = Deadline(processor, own, metrics.observe_too_old) if own else None
        ahead = getattr(processor, "prepares_ahead", False) and not getattr(session, "bound", False)
        self._model = Beside("model") if ahead else None
        self._running: _Running | None = None

    @property
    def under_way(self) -> bool:
        """Whether one is in the model, to be finished."""
        return self._running is not None

    def answer(self, records: Records, *, full: bool) -> list[Answered]:
        """Takes the next micro-batch and returns what is answered by now, the one before it among it.

        Raises:
            Exception: As `Inference`.
        """
        inference = Inference(self._processor, self._session, records, self._metrics.observe_stage, self._deadline)
        if self._model is None or not full:
            answered = self.finish()
            inference.run(_now_ms())
            return [*answered, _answered(records, inference)]
        # The model goes on with this one while the one before it is interpreted.
        run = self._model.submit(lambda: inference.run(_now_ms()))
        before, self._running = self._running, _Running(records, inference, run)
        return _finished(before)

    def finish(self) -> list[Answered]:
        """Waits for the micro-batch that is in the model, if there is one.

        Raises:
            Exception: As `Inference`.
        """
        before, self._running = self._running, None
        return _finished(before)

    def forget(self) -> None:
        """Gives up what is under way, whose records will be read again, and waits for the model to be free."""
        if self._running is not None:
            wait([self._running.run])
            self._running = None

    def close(self) -> None:
        """Ends the thread once it is idle."""
        if self._model is not None:
            self._model.close()


def _finished(running: _Running | None) -> list[Answered]:
    if running is None:
        return []
    running.run.result()
    return [_answered(running.records, running.inference)]


def _answered(records: Records, inference: Inference) -> Answered:
    return Answered(records, inference.outcomes(), inference.now_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
