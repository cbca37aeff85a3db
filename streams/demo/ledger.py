"""The account of a run: every input against what lies on the output topics, and what the answers are worth.

An input is known by the id that its result will carry and by its coordinate on the input topic, which a dead letter
carries. Of one id, as many results are right as inputs of it did not become dead letters.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from processors._ranking import average_precision, roc_auc

if TYPE_CHECKING:
    from processors._demo import Answer

__all__ = ["Account", "Ledger"]

Coordinate = tuple[int, int]


class Account(NamedTuple):
    """What became of the inputs so far."""

    events_in: int
    scored: int
    dead_letters: int
    missing: int
    duplicates: int


class Ledger:
    """Inputs, results and dead letters of one run, with their times (seconds of the wall clock)."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        """Seconds from the sending of an event until its committed result was read, in the order of reading."""
        self._inputs: dict[Coordinate, str] = {}
        self._sent_at: dict[str, float] = {}
        self._truth: dict[str, bool] = {}
        self._results: Counter[str] = Counter()
        self._scores: dict[str, float] = {}
        self._dead: Counter[Coordinate] = Counter()
        self._unanswered: dict[str, float] = {}
        self._first_sent_at: float | None = None
        self._last_read_at = 0.0

    @property
    def answered(self) -> int:
        """Results and dead letters read so far."""
        return self._results.total() + self._dead.total()

    @property
    def results(self) -> int:
        """Results read so far."""
        return self._results.total()

    @property
    def waiting_since(self) -> float | None:
        """When the event was sent that waits longest for its answer; None where none waits."""
        return next(iter(self._unanswered.values()), None)

    @property
    def inputs(self) -> dict[Coordinate, str]:
        """What was sent so far: the id, or the coordinate in words where it has none."""
        return dict(self._inputs)

    def sent(self, coordinate: Coordinate, identity: str | None, truth: bool | None, at: float) -> None:
        """An event lies on the input topic; without an id it can only become a dead letter."""
        name = f"{coordinate}" if identity is None else identity
        self._inputs[coordinate] = name
        self._sent_at.setdefault(name, at)
        # Its answer may be read before Kafka's word that it is there.
        if name not in self._results and coordinate not in self._dead:
            self._unanswered.setdefault(name, at)
        if truth is not None:
            self._truth.setdefault(name, truth)
        if self._first_sent_at is None:
            self._first_sent_at = at

    def result(self, answer: Answer, at: float) -> float | None:
        """A result was read; returns its latency in seconds, None where the event is not of this run."""
        self._results[answer.id] += 1
        self._unanswered.pop(answer.id, None)
        self._scores[answer.id] = answer.score
        self._last_read_at = at
        sent_at = self._sent_at.get(answer.id)
        if sent_at is None:
            return None
        self.latencies.append(at - sent_at)
        return at - sent_at

    def dead_letter(self, coordinate: Coordinate, at: float) -> None:
        """A dead letter was read, whose original lay there."""
        self._dead[coordinate] += 1
        self._unanswered.pop(self._inputs.get(coordinate, ""), None)
        self._last_read_at = at

    def account(self) -> Account:
        """Compares everything that was sent with everything that was read."""
        expected = Counter(name for coordinate, name in self._inputs.items() if coordinate not in self._dead)
        missing = (expected - self._results).total()
        doubled = (self._results - expected).total() + sum(count - 1 for count in self._dead.values())
        return Account(len(self._inputs), self._results.total(), self._dead.total(), missing, doubled)

    def figures(self) -> dict[str, Any]:
        """Latency, throughput, and how the scores compare with the truth, as far as that is known."""
        latencies = np.array(self.latencies) * 1000
        p50, p99 = np.percentile(latencies, [50, 99]) if len(latencies) else (None, None)
        seconds = self._last_read_at - (self._first_sent_at or 0.0)
        known = [name for name in self._scores if name in self._truth]
        truth = np.array([self._truth[name] for name in known], dtype=bool)
        scores = np.array([self._scores[name] for name in known])
        return {
            "p50_ms": _rounded(p50, 1),
            "p99_ms": _rounded(p99, 1),
            "events_per_s": round(self.answered / seconds, 1) if self.answered and seconds > 0 else 0.0,
            "fraud_rate": _rounded(truth.mean(), 6) if len(known) else None,
            "roc_auc": _rounded(roc_auc(truth, scores), 4),
            "average_precision": _rounded(average_precision(truth, scores), 4),
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)
