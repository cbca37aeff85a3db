"""Dead letters in the log: named by where the event lies, never by what is in it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.envelope import Reject

__all__ = ["RejectLog"]

log = logging.getLogger(__name__)

_EVERY_S = 10.0
# An id is a name; what is longer is something else in its place.
_LONGEST_ID = 128


class RejectLog:
    """Sums dead letters up at `info`, at most every ten seconds, and lists each at `debug`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._due_at = float("-inf")

    def tell(self, rejects: Sequence[Reject]) -> None:
        """Takes the rejects of a micro-batch."""
        if log.isEnabledFor(logging.DEBUG):
            for reject in rejects:
                _tell_one(reject)
        self._counts.update(reject.reason for reject in rejects)
        now = self._clock()
        if now >= self._due_at:
            self._due_at = now + _EVERY_S
            counts = ", ".join(f"{reason} {count}" for reason, count in self._counts.most_common())
            log.info("%d dead letters: %s; the last for %s", self._counts.total(), counts, _place(rejects[-1]))
            self._counts.clear()


def _tell_one(reject: Reject) -> None:
    record = reject.record
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    what = {"reason": reject.reason, "path": reject.path, "event_id": reject.event_id[:_LONGEST_ID]}
    log.debug(
        "dead letter for %s: %s", _place(reject), f"{reject.reason} {reject.path}".rstrip(), extra={**place, **what}
    )


def _place(reject: Reject) -> str:
    return f"{reject.record.topic}[{reject.record.partition}]@{reject.record.offset}"
