"""The commit of one transaction, on a thread of its own while the loop goes on; at most one at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

import msgspec

from streams._beside import Beside
from streams.errors import HeadraceError, UnknownOutcomeError

if TYPE_CHECKING:
    from streams._transaction import Transaction
    from streams.emitter import Emitter
    from streams.observe.metrics import WorkerMetrics
    from streams.source import Source

__all__ = ["Committing"]

# Longer than the emitter's own time-out of a call, which librdkafka mostly keeps.
_LONGEST_S = 25.0


class _Commit(msgspec.Struct, frozen=True):
    call: Future[float]
    reached: Mapping[int, int]
    events: int
    started: float


class Committing:
    """Commits that mostly wait for brokers. What one raises comes up where it is waited for.

    The emitter is the commit's alone from `start` until `end`, and so is its producer. One thread does all of it: each
    change of thread waits for the interpreter's lock, while the loop computes.

    Args:
        metrics: Told of transactions and of how long their end takes.
        longest_s: A commit that lasts longer is left behind: it may never return.
    """

    def __init__(self, metrics: WorkerMetrics, longest_s: float = _LONGEST_S) -> None:
        self._metrics = metrics
        self._longest_s = longest_s
        self._thread = Beside("commit")
        self._commit: _Commit | None = None

    @property
    def under_way(self) -> bool:
        """Whether one was started and not waited for."""
        return self._commit is not None

    @property
    def busy(self) -> bool:
        """Whether waiting for it would take time; what lasts too long is to be waited for, which leaves it behind."""
        commit = self._commit
        return commit is not None and not commit.call.done() and self._left_s(commit) > 0

    def start(self, emitter: Emitter, source: Source, covers: Transaction, started: float) -> None:
        """Begins to commit what a transaction covers, as far as processed; `started` is when the stage did."""
        assert self._commit is None, "This is a bug: one commit at a time."
        reached = {p: offset for p, offset in source.offsets().items() if p in covers.partitions}
        offsets = {(source.topic, partition): offset for partition, offset in reached.items()}
        membership = source.group_metadata()
        call = self._thread.submit(lambda: emitter.commit(offsets, membership))
        self._commit = _Commit(call, reached, covers.events, started)

    def end(self) -> Mapping[int, int]:
        """Waits for the commit under way and returns the offsets reached by it; none where there is none.

        Raises:
            HeadraceError: What the emitter's `commit` raised, or that it did not return in time.
        """
        commit, self._commit = self._commit, None
        if commit is None:
            return {}
        try:
            ended = self._wait(commit)
        except HeadraceError:
            self._metrics.observe_transaction("aborted", commit.events)
            raise
        self._metrics.observe_stage("commit", ended - commit.started)
        self._metrics.observe_transaction("committed", commit.events)
        return commit.reached

    def _wait(self, commit: _Commit) -> float:
        """When it was over and good; one that lasts too long is left behind with its thread."""
        if not wait([commit.call], max(0.0, self._left_s(commit))).done:
            self._thread.close()
            self._thread = Beside("commit")
            raise UnknownOutcomeError(f"a commit did not return within {self._longest_s:g} s")
        return commit.call.result()

    def _left_s(self, commit: _Commit) -> float:
        return commit.started + self._longest_s - time.perf_counter()

    def close(self) -> None:
        """Ends the thread once it is idle."""
        self._thread.close()
