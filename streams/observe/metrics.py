"""Every Prometheus name and bucket of headrace, in one place."""

from __future__ import annotations

from collections import Counter as Tally
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from streams.observe._histogram import ArrayHistogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from schemas.envelope import Reject

__all__ = [
    "LATENCY_BUCKETS_S",
    "SIZE_BUCKETS",
    "STAGES",
    "STAGE_BUCKETS_S",
    "MonitorMetrics",
    "SinkMetrics",
    "WorkerMetrics",
]

STAGES = ("poll", "prepare", "execute", "interpret", "produce", "commit")
# From a single event on a fast model (50 µs) to a transaction close to its time-out.
STAGE_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
# Fine around the commit interval (50 ms), which is where the latency of an exactly-once worker lies.
LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
SIZE_BUCKETS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)


class WorkerMetrics:
    """The metrics of one worker; `registry` is what its endpoint serves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        own = self.registry
        self._events = Counter("headrace_events_read", "Events read from the input topic.", registry=own)
        self._results = Counter("headrace_results", "Events answered with a result.", registry=own)
        self._dead = Counter("headrace_dead_letters", "Events answered with a dead letter.", ["reason"], registry=own)
        self._too_old = Counter(
            "headrace_too_old_events",
            "Events older than the deadline, by what became of them.",
            ["outcome"],
            registry=own,
        )
        self._size = Histogram(
            "headrace_micro_batch_size", "Events per micro-batch.", buckets=SIZE_BUCKETS, registry=own
        )
        self._stages = Histogram(
            "headrace_stage_seconds",
            "Seconds per micro-batch and stage; for commit, per transaction.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=own,
        )
        self._stage = {stage: self._stages.labels(stage) for stage in STAGES}
        self._latency = ArrayHistogram(
            "headrace_latency_seconds",
            "From Kafka's timestamp of an event until its result was produced.",
            LATENCY_BUCKETS_S,
            own,
        )
        self._transactions = Counter("headrace_transactions", "Transactions by outcome.", ["outcome"], registry=own)
        self._committed = Counter("headrace_transaction_events", "Events in transactions.", ["outcome"], registry=own)
        self._lag = Gauge("headrace_consumer_lag", "Messages behind the end.", ["partition"], registry=own)
        self._restoring = Gauge(
            "headrace_restore_progress",
            "Share of a changelog that was read, while restoring.",
            ["partition"],
            registry=own,
        )
        self._counters = Gauge(
            "headrace_processor_count", "What the processor counts of its own, since its start.", ["what"], registry=own
        )
        self._slice = Gauge("headrace_model_slice_rows", "Rows of one run of the model.", registry=own)
        self._model = Info("headrace_model", "The model that answers.", registry=own)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Adds the seconds that a stage took; names are those of STAGES."""
        self._stage[stage].observe(seconds)

    def observe_batch(self, size: int, rejects: Sequence[Reject]) -> None:
        """Counts a micro-batch of so many events, of which some were rejected."""
        self._events.inc(size)
        self._size.observe(size)
        self._results.inc(size - len(rejects))
        for reason, count in Tally(reject.reason for reject in rejects).items():
            self._dead.labels(reason).inc(count)

    def observe_too_old(self, outcome: str, events: int) -> None:
        """Counts events older than the deadline that ended as a `fallback` or as a `dead_letter`."""
        self._too_old.labels(outcome).inc(events)

    def observe_latency(self, seconds: Iterable[float] | np.ndarray) -> None:
        """Counts end-to-end seconds of many events; a clock that runs behind Kafka's gives none below zero."""
        array = seconds if isinstance(seconds, np.ndarray) else np.fromiter(seconds, dtype=np.float64)
        if len(array):
            self._latency.observe(np.maximum(array, 0.0))

    def observe_transaction(self, outcome: str, events: int) -> None:
        """Counts a transaction that was `committed` or `aborted`."""
        self._transactions.labels(outcome).inc()
        self._committed.labels(outcome).inc(events)

    def observe_lag(self, lag: Mapping[int, int]) -> None:
        """Shows the lag of the partitions held now, and of no other."""
        _show(self._lag, lag)

    def observe_restore(self, progress: Mapping[int, tuple[int, int]]) -> None:
        """Shows, per partition that is being restored, the share that was read of (read, to read)."""
        _show(self._restoring, {p: done / total if total else 1.0 for p, (done, total) in progress.items()})

    def observe_counters(self, counters: Mapping[str, int]) -> None:
        """Shows what the processor counts, such as late events."""
        for what, count in counters.items():
            self._counters.labels(what).set(count)

    def observe_model(self, reference: str, providers: Iterable[str], slice_rows: int) -> None:
        """Shows which model runs where, and in slices of how many rows."""
        self._model.info({"model": reference, "providers": ",".join(providers)})
        self._slice.set(slice_rows)


class SinkMetrics:
    """The metrics of the store's sink; `registry` is what its endpoint serves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        own = self.registry
        self._rows = Counter("headrace_sink_rows", "Rows inserted.", ["table"], registry=own)
        self._inserts = Histogram(
            "headrace_sink_insert_seconds", "Seconds per insert.", ["table"], buckets=STAGE_BUCKETS_S, registry=own
        )
        self._failures = Counter("headrace_sink_failures", "Inserts that failed and were tried again.", registry=own)
        self._unreadable = Counter("headrace_sink_unreadable", "Messages that could not be made rows.", registry=own)
        self._lag = Gauge("headrace_sink_lag", "Messages behind the end.", ["topic", "partition"], registry=own)

    def observe_insert(self, table: str, rows: int, seconds: float) -> None:
        """Counts an insert that succeeded."""
        self._rows.labels(table).inc(rows)
        self._inserts.labels(table).observe(seconds)

    def observe_failure(self) -> None:
        """Counts an insert that failed; it will be tried again."""
        self._failures.inc()

    def observe_unreadable(self, count: int = 1) -> None:
        """Counts messages that could not be made rows."""
        self._unreadable.inc(count)

    def observe_lag(self, lag: Mapping[tuple[str, int], int]) -> None:
        """Shows the lag per (topic, partition) held now, and of no other."""
        _show(self._lag, lag)


class MonitorMetrics:
    """The metrics of the monitor; `registry` is what its endpoint serves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        own = self.registry
        self._read = Counter("headrace_monitor_messages", "Messages read.", ["topic"], registry=own)
        self._dead = Counter("headrace_monitor_dead_letters", "Messages not understood.", ["reason"], registry=own)
        self._told = Counter("headrace_monitor_told", "Figures sent.", registry=own)
        self._skipped = Gauge(
            "headrace_monitor_skipped", "Rows and labels that changed nothing.", ["reason"], registry=own
        )
        self._keys = Gauge("headrace_monitor_keys", "Keys with figures or labels.", registry=own)
        self._as_of = Gauge("headrace_monitor_as_of_seconds", "Newest event time that figures know of.", registry=own)
        self._lag = Gauge("headrace_monitor_lag", "Messages behind the end.", ["topic", "partition"], registry=own)
        self._keep = Histogram(
            "headrace_monitor_keep_seconds", "Seconds to write changed keys.", buckets=STAGE_BUCKETS_S, registry=own
        )

    def observe_read(self, read: Mapping[str, int], dead: Iterable[str]) -> None:
        """Counts messages by topic, and the reasons of those that were not understood."""
        for topic, count in read.items():
            self._read.labels(topic).inc(count)
        for reason in dead:
            self._dead.labels(reason).inc()

    def observe_keep(self, seconds: float) -> None:
        """Adds the seconds that it took to write all changed keys."""
        self._keep.observe(seconds)

    def observe_figures(self, told: int, keys: int, as_of_ms: int | None, skipped: Mapping[str, int]) -> None:
        """Counts figures that were sent, and shows what is known."""
        self._told.inc(told)
        self._keys.set(keys)
        self._as_of.set((as_of_ms or 0) / 1000)
        for reason, count in skipped.items():
            self._skipped.labels(reason).set(count)

    def observe_lag(self, lag: Mapping[tuple[str, int], int]) -> None:
        """Shows the lag per (topic, partition) held now, and of no other."""
        _show(self._lag, lag)


def _show(gauge: Gauge, values: Mapping[int, float] | Mapping[tuple[str, int], float]) -> None:
    """Sets the gauge for the given label values; those no longer held go."""
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*(labels if isinstance(labels, tuple) else (labels,))).set(value)
