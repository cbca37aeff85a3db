"""The commit of one transaction, on a thread of its own while the loop goes on; at most one at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from streams.emitter import Emitter
    from streams.observe.metrics import WorkerMetrics
    from streams.source import Source

__all__ = ["Committing"]


class _Commit(msgspec.Struct, frozen=True):
    call: Future[None]
    reached: Mapping[int, int]
    events: int
    started: float


class Committing:
    """Commits that mostly wait for brokers. What one raises comes up where it is waited for.

    The emitter is the commit's alone from `start` until `end`, and so is its producer.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._commit: _Commit | None = None

    @property
    def under_way(self) -> bool:
        """Whether one was started and not waited for."""
        return self._commit is not None

    @property
    def busy(self) -> bool:
        """Whether waiting for it would take time."""
        return self._commit is not None and not self._commit.call.done()

    def start(self, emitter: Emitter, source: Source, reached: Mapping[int, int], events: int, started: float) -> None:
        """Begins to commit so many events up to the offsets reached; `started` is when the stage did."""
        assert self._commit is None, "This is a bug: one commit at a time."
        offsets = {(source.topic, partition): offset for partition, offset in reached.items()}
        call = self._thread.submit(emitter.commit, offsets, source.group_metadata())
        self._commit = _Commit(call, reached, events, started)

    def end(self) -> Mapping[int, int]:
        """Waits for the commit under way and returns the offsets reached by it; none where there is none.

        Raises:
            HeadraceError: What the emitter's `commit` raised.
        """
        commit, self._commit = self._commit, None
        if commit is None:
            return {}
        try:
            commit.call.result()
        except HeadraceError:
            self._metrics.observe_transaction("aborted", commit.events)
            raise
        self._metrics.observe_stage("commit", time.perf_counter() - commit.started)
        self._metrics.observe_transaction("committed", commit.events)
        return commit.reached

    def close(self) -> None:
        """Ends the thread once it is idle."""
        self._thread.shutdown(wait=False)
