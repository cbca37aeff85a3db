"""What was inferred and is not sent yet: it waits for the commit of the transaction before its own."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from schemas.dead_letter import to_message

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from streams.emitter import Emitter
    from streams.inference import Observes, Outcomes

__all__ = ["Outbox"]


class Outbox:
    """Outcomes of micro-batches in their order.

    Args:
        dead_letters: The topic for rejects.
        dead_letter_bytes: The largest message that it takes; None where that is not known.
        observe: Told of the stage `produce`, once per micro-batch.
        observe_latency: Told of the seconds from each event's own time until what came of it was produced.
    """

    def __init__(
        self,
        dead_letters: str,
        dead_letter_bytes: int | None,
        observe: Observes,
        observe_latency: Callable[[NDArray[np.float64]], None],
    ) -> None:
        self._dead_letters = dead_letters
        self._dead_letter_bytes = dead_letter_bytes
        self._observe = observe
        self._observe_latency = observe_latency
        self._waiting: deque[tuple[Outcomes, NDArray[np.int64], int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, outcomes: Outcomes, timestamps_ms: NDArray[np.int64], now_ms: int) -> None:
        """Takes what came of a micro-batch, the times of its events, and when it was inferred."""
        self._waiting.append((outcomes, timestamps_ms, now_ms))

    def send(self, emitter: Emitter) -> None:
        """Sends all of it into the emitter's transaction: results, then dead letters, micro-batch by micro-batch."""
        while self._waiting:
            outcomes, timestamps_ms, now_ms = self._waiting.popleft()
            started = time.perf_counter()
            emitter.send(outcomes.messages)
            emitter.send(
                to_message(reject, self._dead_letters, now_ms, self._dead_letter_bytes) for reject in outcomes.rejects
            )
            self._observe("produce", time.perf_counter() - started)
            self._observe_latency((time.time_ns() // 1_000_000 - timestamps_ms) / 1000)

    def clear(self) -> None:
        """Forgets all of it: its records will be read again."""
        self._waiting.clear()
