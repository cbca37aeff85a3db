"""What was inferred and is not sent yet: it waits for the commit of the transaction before its own."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from schemas.dead_letter import to_message
from streams.observe.rejects import RejectLog

if TYPE_CHECKING:
    from streams._inferring import Answered
    from streams.emitter import Emitter
    from streams.observe.metrics import WorkerMetrics

__all__ = ["Outbox"]


class Outbox:
    """Outcomes of micro-batches in their order.

    Args:
        dead_letters: The topic for rejects.
        dead_letter_bytes: The largest message that it takes; None where that is not known.
        metrics: Told of micro-batches, of the stage `produce`, and of the seconds from each event's own time until what
            came of it was produced.
    """

    def __init__(
        self,
        dead_letters: str,
        dead_letter_bytes: int | None,
        metrics: WorkerMetrics,
    ) -> None:
        self._dead_letters = dead_letters
        self._dead_letter_bytes = dead_letter_bytes
        self._metrics = metrics
        self._reject_log = RejectLog()
        self._waiting: deque[Answered] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, answered: Answered) -> None:
        """Takes a micro-batch and what became of it, and tells of its rejects."""
        self._waiting.append(answered)
        rejects = answered.outcomes.rejects
        self._metrics.observe_batch(len(answered.records), rejects)
        if rejects:
            self._reject_log.tell(rejects)

    def send(self, emitter: Emitter) -> None:
        """Sends all of it into the emitter's transaction: results, then dead letters, micro-batch by micro-batch."""
        while self._waiting:
            records, outcomes, now_ms = self._waiting.popleft()
            started = time.perf_counter()
            emitter.send(outcomes.messages)
            emitter.send(
                to_message(reject, self._dead_letters, now_ms, self._dead_letter_bytes) for reject in outcomes.rejects
            )
            self._metrics.observe_stage("produce", time.perf_counter() - started)
            self._metrics.observe_latency((time.time_ns() // 1_000_000 - records.timestamps_ms) / 1000)

    def clear(self) -> None:
        """Forgets all of it: its records will be read again."""
        self._waiting.clear()
