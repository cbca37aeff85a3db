"""What was inferred and is not sent yet: it waits for the commit of the transaction before its own."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from schemas.dead_letter import to_message

if TYPE_CHECKING:
    from streams.emitter import Emitter
    from streams.inference import Observes, Outcomes

__all__ = ["Outbox"]


class Outbox:
    """Outcomes of micro-batches in their order.

    Args:
        dead_letters: The topic for rejects.
        dead_letter_bytes: The largest message that it takes; None where that is not known.
        observe: Told of the stage `produce`, once per micro-batch.
    """

    def __init__(self, dead_letters: str, dead_letter_bytes: int | None, observe: Observes) -> None:
        self._dead_letters = dead_letters
        self._dead_letter_bytes = dead_letter_bytes
        self._observe = observe
        self._waiting: deque[tuple[Outcomes, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, outcomes: Outcomes, now_ms: int) -> None:
        """Takes what came of a micro-batch, and when that was."""
        self._waiting.append((outcomes, now_ms))

    def send(self, emitter: Emitter) -> None:
        """Sends all of it into the emitter's transaction: results, then dead letters, micro-batch by micro-batch."""
        while self._waiting:
            outcomes, now_ms = self._waiting.popleft()
            started = time.perf_counter()
            emitter.send(outcomes.messages)
            emitter.send(
                to_message(reject, self._dead_letters, now_ms, self._dead_letter_bytes) for reject in outcomes.rejects
            )
            self._observe("produce", time.perf_counter() - started)

    def clear(self) -> None:
        """Forgets all of it: its records will be read again."""
        self._waiting.clear()
