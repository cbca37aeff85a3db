"""Two sights to figures: rates from differences, percentiles from histograms. Pure.

A process that began anew between the two counts from zero, as in Prometheus' `rate`: what it shows is all since then.
Percentiles interpolate linearly within a bucket, as in Prometheus' `histogram_quantile`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from streams.top.sight import Offsets, Process, Sight, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Domain", "Member", "Monitor", "Picture", "Store", "picture", "quantile"]


class Member(msgspec.Struct, frozen=True):
    """A process, and how it is."""

    name: str
    url: str
    ready: bool
    missing: dict[str, str]
    version: str
    memory_bytes: float | None
    cpu_ratio: float | None
    """Of one core."""
    live: bool = True


class Domain(msgspec.Struct, frozen=True):
    """One domain: its events, and the workers that answer them. None is what is not known (yet)."""

    name: str
    in_per_s: float | None
    """Messages that came to the input topic; of transactional senders, their markers too."""
    answered_per_s: float | None
    results_per_s: float | None
    lag: dict[int, int]
    p50_ms: float | None
    p99_ms: float | None
    stages: dict[str, float]
    """Share of the workers' time in each stage."""
    micro_batch_events: float | None
    slice_rows: float | None
    model: str
    providers: str
    model_us_per_row: float | None
    committed_per_s: float | None
    aborted: int
    dead_letters: dict[str, int]
    """By reason, since the workers began."""
    dead_letters_per_s: float | None
    too_old: dict[str, int]
    restoring: dict[int, float]
    """Share of the changelog that was read, of partitions whose state is not there yet."""
    queue_bytes: dict[str, float]
    workers: list[Member]


class Store(msgspec.Struct, frozen=True):
    """The store's sink."""

    rows_per_s: float | None
    delay_p50_ms: float | None
    delay_p99_ms: float | None
    lag: dict[str, int]
    """By topic."""
    failures: int
    unreadable: int
    process: Member


class Monitor(msgspec.Struct, frozen=True):
    """A monitor."""

    messages_per_s: float | None
    lag: dict[str, int]
    keys: int
    process: Member


class Picture(msgspec.Struct, frozen=True):
    """All that is shown."""

    domains: list[Domain]
    stores: list[Store]
    monitors: list[Monitor]
    others: list[Member]
    """Processes that do not say what they are."""
    unreachable: list[Unreachable]


def picture(before: Sight | None, after: Sight) -> Picture:
    """What happened between two sights, and how things are now."""
    earlier = {} if before is None else {process.url: process for process in before.processes}
    seen = [_Change(process, earlier.get(process.url)) for process in after.processes]
    by_role: dict[str, list[_Change]] = {}
    for change in seen:
        by_role.setdefault(change.about.get("role", ""), []).append(change)
    workers = by_role.get("worker", [])
    names = sorted({*after.kafka, *(change.about["domain"] for change in workers)})
    return Picture(
        domains=[
            _domain(
                name,
                [change for change in workers if change.about["domain"] == name],
                None if before is None else before.kafka.get(name),
                after.kafka.get(name),
            )
            for name in names
        ],
        stores=[_store(change) for change in by_role.get("store", [])],
        monitors=[_monitor(change) for change in by_role.get("monitor", [])],
        others=[change.member("process") for change in by_role.get("", [])],
        unreachable=after.unreachable,
    )


class _Change:
    """A process now, against what it was before."""

    def __init__(self, now: Process, before: Process | None) -> None:
        self.now = now
        self.about = now.info("headrace_process")
        began = "process_start_time_seconds"
        same = before is not None and before.value(began) == now.value(began)
        self.seconds = now.at - before.at if before is not None else 0.0
        self._before = before.samples if before is not None and same else {}

    def grown(self, name: str, **labels: str) -> float:
        """How much a counter grew; all of it where the process is new since."""
        key = (name, frozenset(labels.items()))
        return self.now.samples.get(key, 0.0) - self._before.get(key, 0.0)

    def grown_by(self, name: str, label: str) -> dict[str, float]:
        """The same by the values of a label, added up over the others."""
        found: Counter[str] = Counter()
        for labels, _ in self.now.series(name):
            found[labels[label]] += self.grown(name, **labels)  # type: ignore[assignment]  # counts of any number
        return dict(found)

    def member(self, name: str) -> Member:
        """Who it is, and how."""
        return Member(
            name=name,
            url=self.now.url,
            ready=not self.now.missing,
            missing=self.now.missing,
            version=self.now.info("headrace_build").get("version", ""),
            memory_bytes=self.now.value("process_resident_memory_bytes"),
            cpu_ratio=_rate([self], "process_cpu_seconds_total"),
            live=self.now.live,
        )


def _domain(name: str, workers: list[_Change], before: Offsets | None, after: Offsets | None) -> Domain:
    lag = (
        _lag_of(workers)
        if after is None
        else {p: max(0, end - after.committed.get(p, 0)) for p, end in after.end.items()}
    )
    buckets = _buckets(workers, "headrace_latency_seconds_bucket")
    model = next((change.now.info("headrace_model") for change in workers), {})
    results, dead = _rate(workers, "headrace_results_total"), _rate_by(workers, "headrace_dead_letters_total", "reason")
    return Domain(
        name=name,
        in_per_s=_moved(before, after, "end"),
        answered_per_s=_moved(before, after, "committed") if after else _sum(results, dead),
        results_per_s=results,
        lag=dict(sorted(lag.items())),
        p50_ms=_ms(quantile(0.5, buckets)),
        p99_ms=_ms(quantile(0.99, buckets)),
        stages=_stages(workers),
        micro_batch_events=_mean(workers, "headrace_micro_batch_events"),
        slice_rows=next((change.now.value("headrace_model_slice_rows") for change in workers), None),
        model=model.get("model", ""),
        providers=model.get("providers", ""),
        model_us_per_row=_per_row(workers),
        committed_per_s=_rate(workers, "headrace_transactions_total", outcome="committed"),
        aborted=int(sum(c.now.value("headrace_transactions_total", outcome="aborted") or 0 for c in workers)),
        dead_letters=_totals(workers, "headrace_dead_letters_total", "reason"),
        dead_letters_per_s=dead,
        too_old=_totals(workers, "headrace_too_old_events_total", "outcome"),
        restoring={
            int(p): v for c in workers for p, v in c.now.by("headrace_restore_progress_ratio", "partition").items()
        },
        queue_bytes={
            queue: sum(change.now.value(f"headrace_{queue}_bytes") or 0.0 for change in workers)
            for queue in ("fetch_queue", "batcher", "producer_queue")
        },
        workers=[change.member(f"worker {change.about['slot']}") for change in workers],
    )


def _store(change: _Change) -> Store:
    buckets = _buckets([change], "headrace_sink_delay_seconds_bucket")
    return Store(
        rows_per_s=_rate_by([change], "headrace_sink_rows_total", "table"),
        delay_p50_ms=_ms(quantile(0.5, buckets)),
        delay_p99_ms=_ms(quantile(0.99, buckets)),
        lag={topic: int(lag) for topic, lag in sorted(change.now.by("headrace_sink_lag_messages", "topic").items())},
        failures=int(change.now.value("headrace_sink_failures_total") or 0),
        unreadable=int(change.now.value("headrace_sink_unreadable_messages_total") or 0),
        process=change.member("store"),
    )


def _monitor(change: _Change) -> Monitor:
    return Monitor(
        messages_per_s=_rate_by([change], "headrace_monitor_messages_total", "topic"),
        lag={topic: int(lag) for topic, lag in sorted(change.now.by("headrace_monitor_lag_messages", "topic").items())},
        keys=int(change.now.value("headrace_monitor_keys") or 0),
        process=change.member(f"monitor {change.about.get('domain', '')}".rstrip()),
    )


def quantile(share: float, buckets: dict[float, float]) -> float | None:
    """Below which value this share lies, of cumulative counts by upper bound; None where nothing was counted."""
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            if bound == float("inf") or inside <= 0:
                return lower
            return lower + (bound - lower) * (rank - below) / inside
        lower, below = bound, buckets[bound]
    return lower


def _rate(changes: Iterable[_Change], name: str, **labels: str) -> float | None:
    """Per second, of all processes that were seen twice; None where none was."""
    rates = [change.grown(name, **labels) / change.seconds for change in changes if change.seconds > 0]
    return sum(rates) if rates else None


def _rate_by(changes: Iterable[_Change], name: str, label: str) -> float | None:
    rates = [sum(c.grown_by(name, label).values()) / c.seconds for c in changes if c.seconds > 0]
    return sum(rates) if rates else None


def _moved(before: Offsets | None, after: Offsets | None, which: str) -> float | None:
    if before is None or after is None or after.at <= before.at:
        return None
    old: dict[int, int] = getattr(before, which)
    new: dict[int, int] = getattr(after, which)
    return max(0.0, sum(offset - old.get(p, 0) for p, offset in new.items()) / (after.at - before.at))


def _buckets(changes: Iterable[_Change], name: str) -> dict[float, float]:
    """Counts of a histogram since the sight before, cumulative by upper bound, of all processes."""
    found: dict[float, float] = {}
    for change in changes:
        if change.seconds > 0:
            for bound, count in change.grown_by(name, "le").items():
                found[float(bound)] = found.get(float(bound), 0.0) + count
    return found


def _stages(workers: Iterable[_Change]) -> dict[str, float]:
    found: dict[str, float] = {}
    seconds = 0.0
    for change in workers:
        if change.seconds > 0:
            seconds += change.seconds
            for stage, spent in change.grown_by("headrace_stage_seconds_sum", "stage").items():
                found[stage] = found.get(stage, 0.0) + spent
    return {stage: spent / seconds for stage, spent in found.items()}


def _mean(workers: list[_Change], histogram: str) -> float | None:
    seen = [change for change in workers if change.seconds > 0]
    count = sum(change.grown(f"{histogram}_count") for change in seen)
    return sum(change.grown(f"{histogram}_sum") for change in seen) / count if count else None


def _per_row(workers: list[_Change]) -> float | None:
    seen = [change for change in workers if change.seconds > 0]
    rows = sum(change.grown("headrace_model_run_rows_sum") for change in seen)
    return sum(change.grown("headrace_model_seconds_sum") for change in seen) / rows * 1e6 if rows else None


def _lag_of(workers: Iterable[_Change]) -> dict[int, int]:
    return {int(p): int(v) for c in workers for p, v in c.now.by("headrace_consumer_lag_messages", "partition").items()}


def _totals(changes: Iterable[_Change], name: str, label: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for change in changes:
        found.update({key: int(value) for key, value in change.now.by(name, label).items()})
    return dict(found.most_common())


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
