"""Every Prometheus name and bucket of headrace, in one place; docs/operations.md says what each means.

Names follow Prometheus' conventions: a unit in its base form (seconds, bytes, ratio) or what is counted at the end,
`_total` behind counters. No label has values that events choose without bound.
"""

from __future__ import annotations

import platform
from collections import Counter as Tally
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from streams.observe._collectors import ArrayHistogram, KeptCounter
from streams.observe._gpu import GpuMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from schemas.envelope import Reject

__all__ = [
    "LATENCY_BUCKETS_S",
    "MOST_REASONS",
    "SIZE_BUCKETS",
    "STAGES",
    "STAGE_BUCKETS_S",
    "MonitorMetrics",
    "SinkMetrics",
    "WorkerMetrics",
    "process_registry",
]

STAGES = ("poll", "prepare", "execute", "interpret", "produce", "commit")
# From a single event on a fast model (50 µs) to a transaction close to its time-out.
STAGE_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
# Fine around the commit interval (50 ms), which is where the latency of an exactly-once worker lies; coarse up to the
# hours that a backlog may wait.
LATENCY_BUCKETS_S = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0),
    *(600.0, 3600.0),
)
SIZE_BUCKETS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
MOST_REASONS = 64
"""Words that a label of reasons takes; a processor that makes up more has the rest under `other`."""


def process_registry(role: str, **names: str) -> CollectorRegistry:
    """A registry that says what process this is, and what it takes of the machine.

    Args:
        role: `worker`, `store` or `monitor`.
        names: What tells it from others of its role: `domain`, `slot`.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Info("headrace_build", "The version of headrace, and of the Python that runs it.", registry=registry)
    build.info({"version": _version(), "python_version": platform.python_version()})
    process = Info("headrace_process", "What this process does, and for whom.", registry=registry)
    process.info({"role": role, "domain": "", "slot": "", **names})
    return registry


def _version() -> str:
    try:
        return version("headrace")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


class WorkerMetrics:
    """The metrics of one worker; `registry` is what its endpoint serves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        own = self.registry
        self._events = Counter("headrace_events_read", "Events read from the input topic.", registry=own)
        self._results = Counter("headrace_results", "Events answered with a result.", registry=own)
        self._dead = _Reasons(
            Counter("headrace_dead_letters", "Events answered with a dead letter, by reason.", ["reason"], registry=own)
        )
        self._too_old = Counter(
            "headrace_too_old_events", "Events older than the deadline, by outcome.", ["outcome"], registry=own
        )
        self._size = Histogram(
            "headrace_micro_batch_events", "Events per micro-batch.", buckets=SIZE_BUCKETS, registry=own
        )
        self._stages = Histogram(
            "headrace_stage_seconds",
            "Time per micro-batch in each stage; for commit, per transaction.",
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
        self._committed = Counter(
            "headrace_transaction_events", "Events in transactions, by outcome.", ["outcome"], registry=own
        )
        self._lag = Gauge(
            "headrace_consumer_lag_messages",
            "Messages behind the end, per partition held.",
            ["partition"],
            registry=own,
        )
        self._restoring = Gauge(
            "headrace_restore_progress_ratio",
            "Share of a partition's changelog that was read, while its state is restored.",
            ["partition"],
            registry=own,
        )
        self._counters = KeptCounter(
            "headrace_processor_events", "What the processor counts of its own, by kind.", "kind", own
        )
        self._model_metrics(own)
        self._queue_metrics(own)

    def _model_metrics(self, own: CollectorRegistry) -> None:
        self._slice = Gauge("headrace_model_slice_rows", "Rows of one run of the model, at most.", registry=own)
        self._runs = ArrayHistogram("headrace_model_run_rows", "Rows of each run of the model.", SIZE_BUCKETS, own)
        self._model_s = Histogram(
            "headrace_model_seconds",
            "Time in the model per micro-batch, slicing and copying included.",
            buckets=STAGE_BUCKETS_S,
            registry=own,
        )
        self._failed_runs = Counter("headrace_model_failed_runs", "Runs of the model that raised.", registry=own)
        self._failed_rows = Counter(
            "headrace_model_failed_rows", "Rows that the model failed on also when they were alone.", registry=own
        )
        self._model = Info("headrace_model", "The model that answers.", registry=own)

    def _queue_metrics(self, own: CollectorRegistry) -> None:
        self._waiting_bytes = Gauge(
            "headrace_batcher_bytes", "Keys and values read, not yet in a micro-batch.", registry=own
        )
        self._waiting_events = Gauge("headrace_batcher_events", "Events read, not yet in a micro-batch.", registry=own)
        self._fetched = Gauge(
            "headrace_fetch_queue_bytes", "Messages that the Kafka client has read ahead.", registry=own
        )
        self._producing = Gauge(
            "headrace_producer_queue_bytes", "Messages produced that Kafka has not acknowledged.", registry=own
        )

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Adds the seconds that a stage took; names are those of STAGES."""
        self._stage[stage].observe(seconds)

    def observe_batch(self, size: int, rejects: Sequence[Reject]) -> None:
        """Counts a micro-batch of so many events, of which some were rejected."""
        self._events.inc(size)
        self._size.observe(size)
        self._results.inc(size - len(rejects))
        if rejects:
            self._dead.inc(Tally(reject.reason for reject in rejects))

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
        self._counters.show(counters)

    def observe_model(self, model: str, providers: Sequence[str], slice_rows: int) -> None:
        """Shows which model runs where, in slices of how many rows; on a GPU, also what the GPUs' memory holds."""
        self._model.info({"model": model, "providers": ",".join(providers)})
        self._slice.set(slice_rows)
        GpuMemory.register(self.registry, providers)

    def observe_failed_runs(self, count: int) -> None:
        """Counts runs of the model that raised; rows that were run again in smaller slices have not failed by that."""
        self._failed_runs.inc(count)

    def observe_run(self, rows: int, slice_rows: int, seconds: float, failed_rows: int) -> None:
        """Counts a micro-batch's way through the model: so many rows, cut into slices."""
        self._model_s.observe(seconds)
        whole, rest = divmod(rows, slice_rows)
        if whole:
            self._runs.observe_same(slice_rows, whole)
        if rest:
            self._runs.observe_same(rest, 1)
        self._failed_rows.inc(failed_rows)

    def watch_batcher(self, events: Callable[[], int], size_bytes: Callable[[], int]) -> None:
        """Shows what waits in the batcher, asked at each scrape."""
        self._waiting_events.set_function(events)
        self._waiting_bytes.set_function(size_bytes)

    def observe_fetched(self, size_bytes: int) -> None:
        """Shows what the Kafka client has read ahead."""
        self._fetched.set(size_bytes)

    def observe_producing(self, size_bytes: int) -> None:
        """Shows what is on its way to Kafka."""
        self._producing.set(size_bytes)


class SinkMetrics:
    """The metrics of the store's sink; `registry` is what its endpoint serves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        own = self.registry
        self._rows = Counter("headrace_sink_rows", "Rows inserted, by table.", ["table"], registry=own)
        self._inserts = Histogram(
            "headrace_sink_insert_seconds",
            "Time per insert, by table.",
            ["table"],
            buckets=STAGE_BUCKETS_S,
            registry=own,
        )
        self._delay = ArrayHistogram(
            "headrace_sink_delay_seconds",
            "From Kafka's timestamp of a message until its row was in ClickHouse.",
            LATENCY_BUCKETS_S,
            own,
        )
        self._failures = Counter("headrace_sink_failures", "Inserts that failed and were tried again.", registry=own)
        self._unreadable = Counter(
            "headrace_sink_unreadable_messages", "Messages that could not be made rows.", registry=own
        )
        self._lag = Gauge(
            "headrace_sink_lag_messages", "Messages behind the end.", ["topic", "partition"], registry=own
        )

    def observe_insert(self, table: str, rows: int, seconds: float) -> None:
        """Counts an insert that succeeded."""
        self._rows.labels(table).inc(rows)
        self._inserts.labels(table).observe(seconds)

    def observe_delay(self, now_ms: int, timestamps: np.ndarray) -> None:
        """Counts how long messages took from their timestamps until now, when their rows are stored."""
        stamps = timestamps.astype("datetime64[ms]").astype(np.int64)
        known = stamps[stamps > 0]
        if len(known):
            self._delay.observe(np.maximum(now_ms - known, 0) / 1000)

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
        self._read = Counter("headrace_monitor_messages", "Messages read, by topic.", ["topic"], registry=own)
        self._dead = _Reasons(
            Counter("headrace_monitor_dead_letters", "Messages not understood, by reason.", ["reason"], registry=own)
        )
        self._told = Counter("headrace_monitor_figures", "Figures of keys that were sent.", registry=own)
        self._skipped = KeptCounter(
            "headrace_monitor_skipped_messages", "Rows and labels that changed nothing, by reason.", "reason", own
        )
        self._keys = Gauge("headrace_monitor_keys", "Keys with figures or labels.", registry=own)
        self._as_of = Gauge(
            "headrace_monitor_as_of_timestamp_seconds", "Newest event time that figures know of.", registry=own
        )
        self._lag = Gauge(
            "headrace_monitor_lag_messages", "Messages behind the end.", ["topic", "partition"], registry=own
        )
        self._keep = Histogram(
            "headrace_monitor_keep_seconds", "Time to write all changed keys.", buckets=STAGE_BUCKETS_S, registry=own
        )

    def observe_read(self, read: Mapping[str, int], dead: Iterable[str]) -> None:
        """Counts messages by topic, and the reasons of those that were not understood."""
        for topic, count in read.items():
            self._read.labels(topic).inc(count)
        self._dead.inc(Tally(dead))

    def observe_keep(self, seconds: float) -> None:
        """Adds the seconds that it took to write all changed keys."""
        self._keep.observe(seconds)

    def observe_figures(self, told: int, keys: int, as_of_ms: int | None, skipped: Mapping[str, int]) -> None:
        """Counts figures that were sent, and shows what is known."""
        self._told.inc(told)
        self._keys.set(keys)
        self._as_of.set((as_of_ms or 0) / 1000)
        self._skipped.show(skipped)

    def observe_lag(self, lag: Mapping[tuple[str, int], int]) -> None:
        """Shows the lag per (topic, partition) held now, and of no other."""
        _show(self._lag, lag)


class _Reasons:
    """A counter by reason, of which no more than MOST_REASONS are told apart."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._known: set[str] = set()

    def inc(self, reasons: Mapping[str, int]) -> None:
        for reason, count in reasons.items():
            if reason not in self._known and len(self._known) < MOST_REASONS:
                self._known.add(reason)
            self._counter.labels(reason if reason in self._known else "other").inc(count)


def _show(gauge: Gauge, values: Mapping[int, float] | Mapping[tuple[str, int], float]) -> None:
    """Sets the gauge for the given label values; those no longer held go."""
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*(labels if isinstance(labels, tuple) else (labels,))).set(value)
