"""The loop of a worker: the only file that knows the order of the stages.

One iteration, no hidden scheduling:

    tables follow → state restores a step → poll → micro-batch due? infer and send → transaction due? commit

A transaction spans micro-batches. It commits `commit_interval_ms` after its first record, or when it is large enough,
or when partitions are about to go. Two things run beside the loop: the broker's part of a commit, until whose good end
nothing is sent, since that belongs to the next transaction; and the model's run on a full micro-batch, if the processor
can prepare the next one meanwhile.

Whatever goes wrong, the way back is one: abort, forget the state of every partition held, read the committed offsets
and the changelog again.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from streams._committing import Committing
from streams._conditions import missing
from streams._inferring import Inferring
from streams._outbox import Outbox
from streams._restore_news import RestoreNews
from streams._transaction import Transaction
from streams.batcher import Batcher
from streams.errors import AbortError, ConsumerSpentError, HeadraceError, StopError, UnknownOutcomeError, WorldError
from streams.source import Source
from streams.state import ChangelogReader, TableFollower, changes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from processors import Processor
    from streams._inferring import Answered
    from streams.emitter import Emitter
    from streams.inference import Runs
    from streams.observe.metrics import WorkerMetrics
    from streams.settings import WorkerSettings

log = logging.getLogger(__name__)

# A loop that is idle still looks at its tables, its restores and the stop flag this often.
_IDLE_S = 0.1
# Where something waits for the commit under way, that is looked at this often.
_COMMITTING_S = 0.001
# Failures in a row, without one commit between, after which the process gives up and its supervisor starts it afresh.
_MAX_FAILURES = 20
_TABLES_TIMEOUT_S = 120.0
# Ends of partitions that a commit of events did not cover have one of their own, this often at most.
_ENDS_S = 30.0


class Worker:
    """One member of a consumer group that answers the events of its partitions."""

    def __init__(
        self,
        processor: Processor,
        session: Runs,
        settings: WorkerSettings,
        *,
        kafka: Mapping[str, Any],
        group: str,
        instance: str | None,
        changelog: str,
        dead_letters: str,
        make_emitter: Callable[[Source], Emitter],
        metrics: WorkerMetrics,
        dead_letter_bytes: int | None = None,
        source_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._processor = processor
        self._settings = settings
        self._changelog = changelog
        self._make_emitter = make_emitter
        self._metrics = metrics
        # Not every processor counts something of its own.
        self._counters: Callable[[], Mapping[str, int]] = getattr(processor, "counters", dict)
        self._inferring = Inferring(processor, session, metrics, settings.max_age_ms)
        self._batcher = Batcher(settings.max_size, settings.max_bytes, settings.max_wait_ms)
        self._tables = TableFollower(kafka, processor.tables)
        self._restorer = ChangelogReader(kafka, changelog) if processor.state is not None else None
        # Partition → committed offset that the state in memory stands at, also for partitions given up a moment ago.
        self._state_at: dict[int, int] = {}
        self._transaction = Transaction(settings.commit_interval_ms, settings.commit_max_events)
        self._outbox = Outbox(dead_letters, dead_letter_bytes, metrics)
        self._committing = Committing(metrics)
        self._failures = 0
        self._broken: WorldError | None = None
        # Partitions whose state is there but which are not read yet: starting one inside of a rebalance callback would
        # let the poll that runs the callback return, and drop, its first records.
        self._startable: set[int] = set()
        self._restore_news = RestoreNews(metrics)
        self._ends_due_at = 0.0
        self._stopping = self._closing = False
        # When the loop last came round, for whoever watches it from another thread.
        self._looked = time.monotonic()
        self._make_source: Callable[[], Source] = lambda: Source(
            {**kafka, **(source_settings or {})},
            processor.input_topic,
            group=group,
            instance=instance,
            session_timeout_ms=settings.session_timeout_ms,
            start=settings.start,
            on_lost_offsets=settings.on_lost_offsets,
            listener=self,
        )
        self._source = self._make_source()
        self._emitter = make_emitter(self._source)

    def run(self) -> None:
        """Works until `stop` is called; the transaction in flight is finished first.

        Raises:
            StopError: Going on would be wrong, or has failed too often in a row.
        """
        try:
            self._tables.catch_up(_TABLES_TIMEOUT_S, self._come_round)
            while not self._come_round():
                self._attempt(self._step if self._broken is None else self._recover)
            if self._broken is None:
                self._reach_ends()
                self._attempt(self._commit_all)
        finally:
            self._close()

    def stop(self) -> None:
        """Asks the loop to end; safe to call from a signal handler."""
        self._stopping = True

    @property
    def ready(self) -> bool:
        """Whether tables are read, partitions are held, and the state of each is there."""
        return not any(self.conditions().values())

    def conditions(self) -> dict[str, str]:
        """What it takes to answer events, and why it is not there; empty where it is. For any thread."""
        restoring = {} if self._restorer is None else self._restorer.progress
        return missing(self._broken, self._tables.complete, self._source, restoring, self._state_at)

    @property
    def stalled_s(self) -> float:
        """How long ago the loop last came round. For any thread."""
        return time.monotonic() - self._looked

    @property
    def waiting(self) -> Batcher:
        """What was read and is in no micro-batch yet; others may ask it for its size."""
        return self._batcher

    def _come_round(self) -> bool:
        """Says that the loop gets on; returns whether it is to end."""
        self._looked = time.monotonic()
        return self._stopping

    def _step(self) -> None:
        self._send()
        self._tables.follow()
        self._restore()
        if self._source.confirm(self._startable):
            self._source.start(self._startable)
            self._startable.clear()
        started = time.perf_counter()
        now = self._read()
        self._metrics.observe_stage("poll", time.perf_counter() - started)
        if not self._batch_due(now):
            self._answer(self._inferring.finish())
        while self._batch_due(now):
            self._process()
            now = time.monotonic()
            if self._transaction.due(now):
                self._commit()
        if now >= self._ends_due_at and not (self._transaction or self._committing.under_way):
            self._ends_due_at = now + _ENDS_S
            self._emitter.breathe()
            self._reach_ends()
        if self._transaction.due(now):
            self._commit()

    def _read(self) -> float:
        """Waits for a first record, then until the micro-batch is full or due; returns the time."""
        now = time.monotonic()
        if not len(self._batcher):
            self._batcher.add(self._source.poll(1, self._patience(now)), now := time.monotonic())
        room = self._settings.max_size - len(self._batcher)
        if len(self._batcher) and room > 0:
            self._batcher.add(self._source.poll(room, self._patience(now)), now)
        return time.monotonic()

    def _patience(self, now: float) -> float:
        """How long a poll may wait: until the micro-batch or the transaction is due, or the restore wants its turn."""
        if self._restoring or self._inferring.under_way:
            return 0.0
        if self._committing.busy and (self._outbox or len(self._batcher)):
            return max(0.0, min(_COMMITTING_S, self._transaction.due_in(now)))
        return max(0.0, min(_IDLE_S, self._batcher.wait_s(now), self._transaction.due_in(now)))

    def _batch_due(self, now: float) -> bool:
        """While a commit is under way only what is full is inferred: other answers would wait, and cost more so."""
        return self._batcher.full if self._committing.busy else self._batcher.due(now)

    def _process(self) -> None:
        """Infers a micro-batch; what comes of it belongs to the transaction that is open or about to be."""
        full, since = self._batcher.full, self._batcher.since
        records = self._batcher.take()
        self._transaction.add(records.next_offsets(), len(records), since)
        self._answer(self._inferring.answer(records, full=full))

    def _answer(self, answered: Iterable[Answered]) -> None:
        for one in answered:
            self._outbox.put(one)
            self._source.advance(one.records)
            self._send()

    def _send(self) -> None:
        """Sends what waits into the open transaction, unless the one before is still being committed."""
        if not self._committing.busy:
            self._end_commit()
            self._outbox.send(self._emitter)

    def _reach_ends(self) -> None:
        """Has the transaction cover the ends of partitions too, if all that was read is processed."""
        if len(self._batcher) or self._inferring.under_way:
            return
        if reached := self._source.reach_ends():
            self._transaction.add(reached, 0, time.monotonic())

    def _commit(self) -> None:
        """Ends the transaction: state changes, side messages and offsets join what was sent, all or nothing."""
        self._answer(self._inferring.finish())
        self._end_commit()
        self._send()
        if not self._transaction:
            return
        started = time.perf_counter()
        self._reach_ends()
        self._emitter.send(self._processor.drain())
        self._emitter.settle()
        self._emitter.send(changes_of(self._processor.state, self._changelog))
        self._committing.start(self._emitter, self._source, self._transaction, started)
        self._transaction.clear(time.monotonic())
        if not self._emitter.overlaps:
            self._end_commit()

    def _end_commit(self) -> None:
        """Waits for the commit under way, if there is one; raises what went wrong with it."""
        if self._committing.under_way:
            self._state_at.update(self._committing.end())
            self._metrics.observe_lag(self._source.lag())
            self._metrics.observe_counters(self._counters())
            self._failures = 0

    def _commit_all(self) -> None:
        """As `_commit`, and returns when all that was processed is committed."""
        self._commit()
        self._end_commit()

    # The way back.

    def _attempt(self, action: Callable[[], None]) -> None:
        """Runs a part of the loop; what the world did wrong makes the next part the way back."""
        try:
            action()
        except WorldError as error:
            self._failures += 1
            log.warning("failure %d in a row: %s", self._failures, error)
            if self._failures >= _MAX_FAILURES:
                raise StopError(f"{self._failures} failures in a row without a commit, the last: {error}") from error
            self._broken = error
            time.sleep(min(1.0, 0.02 * 2**self._failures))

    def _recover(self) -> None:
        """Aborts, and goes back to what is committed. Raises WorldError where that fails: then it is tried again."""
        assert self._broken is not None
        self._discard(self._broken)
        self._cancel_restore()
        if isinstance(self._broken, ConsumerSpentError):
            self._source.close()
            self._source = self._make_source()
            self._broken = UnknownOutcomeError("the consumer is new, and so must be what is bound to it")
            self._discard(self._broken)
        self._begin_restore(self._source.rewind())
        self._broken = None

    def _discard(self, error: WorldError) -> None:
        """Aborts the transaction and forgets everything that it changed in memory."""
        try:
            self._end_commit()
        except WorldError as failed:
            # The gravest of the two says what has to be new.
            error = failed if isinstance(failed, UnknownOutcomeError) else error
        if self._transaction:
            self._metrics.observe_transaction("aborted", self._transaction.events)
        self._inferring.forget()
        self._outbox.clear()
        self._batcher.clear()
        self._startable.clear()
        self._drop_state(self._state_at)
        self._processor.drain()
        self._transaction.clear(time.monotonic())
        if not isinstance(error, UnknownOutcomeError):
            try:
                self._emitter.abort()
            except UnknownOutcomeError as unknown:
                error = unknown
        if isinstance(error, UnknownOutcomeError):
            self._emitter.close()
            self._emitter = self._make_emitter(self._source)

    # Partitions come and go (called from within poll).

    def on_revoke(self) -> None:
        """Finishes the work in flight, so that the next owner reads on from here; aborts where that fails."""
        self._startable.clear()
        try:
            self._commit_all()
        except WorldError as error:
            log.warning("work in flight given up at a rebalance: %s", error)
            self._discard(error)
        # Only now: what waits here was read, but is not part of that commit.
        self._batcher.clear()
        self._cancel_restore()

    def on_lost(self) -> None:
        """Drops the work in flight: another member may already have done it."""
        log.warning("partitions lost: this worker was away for longer than its session time-out")
        if not self._closing:
            self._discard(AbortError("partitions lost"))
            self._cancel_restore()

    def on_assign(self, offsets: Mapping[int, int]) -> None:
        """Keeps the state of partitions that came back untouched, and reads that of the others."""
        unchanged = {p for p, offset in offsets.items() if self._state_at.get(p) == offset}
        self._drop_state([p for p in self._state_at if p not in unchanged])
        log.info("assigned %s", dict(offsets))
        self._begin_restore({p: offset for p, offset in offsets.items() if p not in unchanged})
        self._startable.update(unchanged)

    @property
    def _restoring(self) -> bool:
        return self._restorer is not None and bool(self._restorer.progress)

    def _begin_restore(self, offsets: Mapping[int, int]) -> None:
        if self._restorer is None:
            self._state_at.update(offsets)
            self._startable.update(offsets)
            return
        self._restorer.begin(offsets)

    def _cancel_restore(self) -> None:
        if self._restorer is not None:
            self._restorer.cancel(list(self._restorer.progress))

    def _restore(self) -> None:
        """Reads a step of the changelogs; partitions whose state is complete begin to work."""
        if self._restorer is None or not self._restoring:
            return
        state = self._processor.state
        assert state is not None
        for partition, entries in self._restorer.step(0.0 if self._inferring.under_way else _IDLE_S).items():
            if entries:
                self._source.refuse_to_begin(partition)
            state.restore(partition, entries)
            self._state_at[partition] = self._source.offsets()[partition]
            self._startable.add(partition)
            log.info("restored partition %d: %d entries", partition, len(entries))
        self._restore_news.tell(self._restorer.progress)

    def _drop_state(self, partitions: Iterable[int]) -> None:
        for partition in list(partitions):
            del self._state_at[partition]
            if self._processor.state is not None:
                self._processor.state.drop(partition)
        if self._processor.state is not None:
            # Changes of dropped partitions must not reach a later transaction.
            list(self._processor.state.changes())

    def _close(self) -> None:
        self._closing = True
        try:
            self._end_commit()
            if not isinstance(self._broken, UnknownOutcomeError):  # the client takes no call beside that commit
                self._emitter.abort()
        except HeadraceError as error:
            log.warning("left with an open transaction, which Kafka will abort: %s", error)
        # Closing the source revokes its partitions: there is nothing left to commit then.
        self._transaction.clear(time.monotonic())
        self._inferring.forget()
        self._outbox.clear()
        self._source.close()
        self._emitter.close()
        self._committing.close()
        self._inferring.close()
        self._tables.close()
        if self._restorer is not None:
            self._restorer.close()
