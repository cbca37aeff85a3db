"""`bench overload`: twice the measured capacity for minutes, then a light load until all is drained, then on.

Sampled once a second: the worker's memory and its own metrics, how far it is, and how long the next event to be
answered has waited in Kafka (the age of the message at the committed offset). What waits must wait there: within the
worker an event stays no longer than from one commit to the next.
"""

from __future__ import annotations

import itertools
import shutil
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from scripts.bench import cards, kafka
from scripts.bench.report import Table, number
from scripts.bench.rounds import say, thinned
from scripts.bench.services import BenchError, Headrace, Process, Stage
from scripts.bench.steady import work_off

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from scripts.bench.options import Options

TITLE = "Overload: twice the capacity, and the way back"
FACTOR, LIGHT = 2.0, 0.1
_GROUP = "overload"
_CARDS = 20_000
# Over what the first events took on the disk: light loads, and some air.
_ROOM = 1.3
_SAMPLE_S = 1.0
# Drained: less than a second of the light load waits.
_DRAINED_S = 1.0
_PATIENCE = 6.0
_START_S = 30.0
_LATENCY = "headrace_latency_seconds"


class _Lengths(NamedTuple):
    before_s: float
    overload_s: float
    after_s: float
    capacity_events: int


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has memory, latency and waiting before, during and after, and the time to drain."""
    minutes = options.minutes or options.size(full=5.0, quick=8 / 60)
    lengths = _Lengths(
        options.size(full=20.0, quick=4.0), minutes * 60, options.size(full=20.0, quick=4.0),
        options.size(full=500_000, quick=100_000),
    )  # fmt: skip
    with Stage(options.settings) as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC)
        # Nobody reads the results: the disk need not hold minutes of them.
        kafka.make_topics(stage.bootstrap, cards.OUTPUT, keep_mb=200)
        say("overload: measuring the capacity")
        kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(lengths.capacity_events, _CARDS, days=10))
        first = stage.worker(cards.DOMAIN, "capacity")
        capacity = work_off(stage, first, "capacity", lengths.capacity_events).events_per_s
        _require_room(stage, lengths.capacity_events, FACTOR * capacity * lengths.overload_s)
        worker = stage.worker(cards.DOMAIN, _GROUP, worker__start="latest")
        worker.wait_ready()
        return _measure(_Watch(stage, worker), stage, capacity, lengths)


def _measure(watch: _Watch, stage: Stage, capacity: float, lengths: _Lengths) -> dict[str, Any]:
    say(f"overload: capacity {capacity:,.0f} events/s; {lengths.before_s:.0f} s of light load")
    light = LIGHT * capacity
    limit_s = _PATIENCE * lengths.overload_s + 30
    loads = _loads(light, FACTOR * capacity, lengths, limit_s)
    marks = [watch.sample()]
    load = _pour(stage, loads[0])
    watch.until("before", _ended(load))
    marks.append(watch.sample())
    say(f"overload: {FACTOR:.0f}x for {lengths.overload_s:.0f} s")
    began = time.monotonic()
    load = _pour(stage, loads[1])
    watch.until("overload", _ended(load))
    overload_s = time.monotonic() - began
    marks.append(watch.sample())
    say(f"overload: {marks[-1].lag:,} events wait in Kafka; draining under light load")
    began = time.monotonic()
    load = _pour(stage, loads[2])
    watch.until("drain", lambda: _drained(watch.samples[-1], light, began, limit_s))
    drain_s = time.monotonic() - began
    marks.append(watch.sample())
    ends_at = time.monotonic() + lengths.after_s
    watch.until("after", lambda: time.monotonic() > ends_at)
    marks.append(watch.sample())
    load.stop()
    return _summary(watch.samples, marks, capacity, overload_s, drain_s)


def _ended(load: Process) -> Callable[[], bool]:
    return lambda: not load.alive()


def _drained(sample: _Sample, light: float, began: float, limit_s: float) -> bool:
    if time.monotonic() > began + limit_s:
        raise BenchError(f"{sample.lag:,} events still wait after {limit_s:.0f} s: it does not recover")
    return sample.lag < light * _DRAINED_S


class _Load(NamedTuple):
    rate: float
    events: int
    days: float
    ends_days_ago: float


def _loads(light: float, heavy: float, lengths: _Lengths, limit_s: float) -> list[_Load]:
    """The three loads; event time goes on from one to the next, as fast as for these cards in life."""
    parts = ((light, lengths.before_s), (heavy, lengths.overload_s), (light, limit_s + lengths.after_s + 10))
    events = [max(1, int(rate * seconds)) for rate, seconds in parts]
    days = [cards.days_of(count, _CARDS) for count in events]
    return [
        _Load(rate, count, days[at], sum(days[at + 1 :]))
        for at, ((rate, _), count) in enumerate(zip(parts, events, strict=True))
    ]


def _pour(stage: Stage, load: _Load) -> Process:
    where = {"bootstrap": stage.bootstrap, "topic": cards.TOPIC, "cards": _CARDS, "seed": cards.new_seed()}
    return stage.script("pour", {**where, **load._asdict()})


def _require_room(stage: Stage, events: int, expected: float) -> None:
    """Refuses what the disk cannot take, by what the events so far took."""
    used = sum(
        file.stat().st_size
        for file in stage.folder.rglob("*")
        if file.is_file() and not file.parent.name.startswith(f"{cards.OUTPUT}-")
    )
    needed, free = used / events * expected * _ROOM, shutil.disk_usage(stage.folder).free
    if needed > free:
        raise BenchError(
            f"{needed / 1e9:.0f} GB are needed in {stage.folder.parent} and {free / 1e9:.0f} GB are free:"
            " name another place with TMPDIR, or take fewer --minutes"
        )


class _Sample(NamedTuple):
    at: float
    done: int
    lag: int
    rss_mb: float
    waited_s: float
    metrics: Mapping[str, float]


class _Watch:
    """Looks at the worker and at Kafka."""

    def __init__(self, stage: Stage, worker: Headrace) -> None:
        self.samples: list[_Sample] = []
        self.phases: list[str] = []
        self._bootstrap = stage.bootstrap
        self._worker = worker
        self._progress = kafka.Progress(stage.bootstrap, _GROUP, cards.TOPIC)
        self._await_position()
        self._began = time.monotonic()
        self._reader = Consumer(
            {
                "bootstrap.servers": stage.bootstrap,
                "group.id": "bench-oldest",
                "enable.auto.commit": False,
                # One message is wanted of each fetch.
                "fetch.message.max.bytes": 4096,
                "queued.max.messages.kbytes": 64,
                "log_level": 2,
            }
        )

    def _await_position(self) -> None:
        """Where a group is new, it is the worker that says where it begins."""
        deadline = time.monotonic() + _START_S
        while not all(self._progress.offsets()):
            self._worker.require_alive()
            if time.monotonic() > deadline:
                raise BenchError(f"the worker did not commit where it begins:\n{self._worker.tail()}")
            time.sleep(0.05)

    def until(self, phase: str, over: Callable[[], bool]) -> None:
        """Samples until it is over."""
        while True:
            self._worker.require_alive()
            self.samples.append(self.sample())
            self.phases.append(phase)
            if over():
                return
            time.sleep(_SAMPLE_S)

    def sample(self) -> _Sample:
        """What is so now."""
        offsets = self._progress.offsets()
        ends = [self._end(partition) for partition in range(kafka.PARTITIONS)]
        lags = [max(0, end - offset) for end, offset in zip(ends, offsets, strict=True)]
        slowest = lags.index(max(lags))
        waited = self._waited(slowest, offsets[slowest]) if max(lags) else 0.0
        at = time.monotonic() - self._began
        return _Sample(at, sum(offsets), sum(lags), self._worker.rss_mb(), waited, self._worker.metrics())

    def _end(self, partition: int) -> int:
        return int(self._reader.get_watermark_offsets(TopicPartition(cards.TOPIC, partition), timeout=30)[1])

    def _waited(self, partition: int, offset: int) -> float:
        """How long the message at an offset has been in Kafka."""
        self._reader.assign([TopicPartition(cards.TOPIC, partition, offset)])
        message = self._reader.poll(5.0)
        self._reader.unassign()
        if message is None or message.error() is not None:
            return 0.0
        return max(0.0, time.time() - message.timestamp()[1] / 1000)


def _summary(
    samples: Sequence[_Sample], marks: Sequence[_Sample], capacity: float, overload_s: float, drain_s: float
) -> dict[str, Any]:
    parts = dict(zip(("before", "overload", "drain", "after"), itertools.pairwise(marks), strict=True))
    phases = {
        name: _phase(*ends, [s for s in samples if ends[0].at <= s.at <= ends[1].at]) for name, ends in parts.items()
    }
    offered = (marks[2].done + marks[2].lag) - (marks[1].done + marks[1].lag)
    result = {
        "capacity": round(capacity),
        "offered_per_s": round(offered / overload_s),
        "overload_s": round(overload_s, 1),
        "drain_s": round(drain_s, 1),
        "most_waiting": max(s.lag for s in samples),
        "rss_mb": {name: phase["rss_mb"] for name, phase in phases.items()},
        "rss_growth": _growth([s for s in samples if marks[1].at <= s.at <= marks[2].at]),
        "recovered": phases["after"]["latency_ms"] <= 2 * phases["before"]["latency_ms"] + 25,
    }
    series = [
        {"at": round(s.at, 1), "lag": s.lag, "rss_mb": round(s.rss_mb, 1), "waited_s": round(s.waited_s, 2)}
        for s in thinned(samples)
    ]
    return {"result": result, "phases": phases, "marks": [round(m.at, 1) for m in marks], "series": series}


def _growth(samples: Sequence[_Sample]) -> float:
    """Memory at the end of the overload over memory in its middle."""
    return round(samples[-1].rss_mb / samples[len(samples) // 2].rss_mb, 3)


def _phase(first: _Sample, last: _Sample, samples: Sequence[_Sample]) -> dict[str, Any]:
    def grew(name: str) -> float:
        return last.metrics.get(name, 0.0) - first.metrics.get(name, 0.0)

    commits = grew('headrace_transactions_total{outcome="committed"}')
    answered = grew(f"{_LATENCY}_count")
    queues = {name: max(s.metrics.get(name, 0.0) for s in samples) for name in _queues(last.metrics)} if samples else {}
    return {
        "events_per_s": round((last.done - first.done) / (last.at - first.at)),
        "rss_mb": round(max((s.rss_mb for s in samples), default=last.rss_mb), 1),
        "waited_s": round(max((s.waited_s for s in samples), default=0.0), 2),
        "latency_ms": round(grew(f"{_LATENCY}_sum") / answered * 1000, 1) if answered else 0.0,
        "commit_every_ms": round((last.at - first.at) / commits * 1000, 1) if commits else None,
        "busy_ms_per_commit": round(sum(_busy(first, last)) / commits * 1000, 1) if commits else None,
        "queues": queues,
    }


def _busy(first: _Sample, last: _Sample) -> Iterator[float]:
    """Seconds of every stage but waiting for events."""
    for name, value in last.metrics.items():
        if name.startswith("headrace_stage_seconds_sum{") and '"poll"' not in name:
            yield value - first.metrics.get(name, 0.0)


def _queues(metrics: Mapping[str, float]) -> list[str]:
    return [name for name in metrics if "queue" in name and not name.endswith(("_created", "_total"))]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """A row per phase."""
    rows = [
        [
            name,
            number(one["events_per_s"]),
            number(one["rss_mb"]),
            number(one["waited_s"], 1),
            number(one["latency_ms"], 0),
            number(one["commit_every_ms"], 0),
            ", ".join(f"{queue.removeprefix('headrace_')} {number(most)}" for queue, most in one["queues"].items())
            or "-",
        ]
        for name, one in report["phases"].items()
    ]
    found = report["result"]
    notes = [
        f"Capacity {number(found['capacity'])} events/s, offered {number(found['offered_per_s'])} for"
        f" {number(found['overload_s'])} s: {number(found['most_waiting'])} events waited in Kafka at most, and were"
        f" drained in {number(found['drain_s'])} s under a light load. Latency afterwards is"
        f" {'what it was' if found['recovered'] else 'NOT what it was'}. Over the second half of the overload the"
        f" worker's memory changed by {found['rss_growth'] - 1:+.1%}."
    ]
    columns = [
        "phase", "answered/s", "most RSS MB", "longest wait in Kafka s", "mean latency ms", "ms between commits",
        "fullest queues",
    ]  # fmt: skip
    return [Table(TITLE, columns, rows, notes)]
