"""`bench latency`: from the time an event should have been sent until a read_committed consumer has its result.

Open loop at shares of a capacity that the run measures first (a backlog worked off while the consumer reads along).
Load, broker, worker and consumer share the machine. The load's producer waits up to 5 ms for a batch, which counts. The
first seconds of each load are left out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.bench import cards, kafka
from scripts.bench.openloop import Phase, due_times, phases_of
from scripts.bench.report import Table, goal, number
from scripts.bench.rounds import say
from scripts.bench.services import BenchError, Headrace, Process, Stage
from scripts.bench.steady import work_off

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scripts.bench.options import Options

TITLE = "Latency: from intended send time to a read_committed consumer"
SHARES = (0.1, 0.5, 0.8)
DELIVERIES = ("exactly-once", "at-least-once")
_GOAL_LOAD = 0.5
_PAUSE_S = 1.0
_PATIENCE_S = 10.0
# Java compiles what a broker does with many small requests in its first minute of them.
_WARM_RATE, _WARM_S = 15_000.0, 45.0
_CARDS, _DAYS = 10_000, 30.0
_LAG = "headrace_consumer_lag_messages{"


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` is a list with an entry per load, commit interval and kind of delivery."""
    commits = options.size(full=3, quick=1)
    intervals = (10, 50, 100) if commits == 3 else (50,)
    warm_s, measured_s = options.size(full=2.0, quick=1.0), options.size(full=8.0, quick=2.0)
    points: list[dict[str, Any]] = []
    with Stage(options.settings) as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT)
        if not options.quick:
            say("latency: letting the broker's Java compile")
            _one(stage, phases_of([_WARM_RATE], _WARM_S, _PAUSE_S), 0.0, {})
        capacity = measure_capacity(stage, options.size(full=600_000, quick=150_000))
        say(f"latency: capacity {capacity:,.0f} events/s")
        for delivery in DELIVERIES:
            for commit_ms in intervals:
                say(f"latency: {delivery}, commits of {commit_ms} ms")
                settings = {"worker__commit_interval_ms": commit_ms, "worker__delivery": delivery}
                phases = phases_of([share * capacity for share in SHARES], warm_s + measured_s, _PAUSE_S)
                found = _one(stage, phases, warm_s, settings)
                points += [
                    {**_point(phase, taken), "commit_ms": commit_ms, "load": share, "delivery": delivery}
                    for share, phase, taken in zip(SHARES, phases, found, strict=True)
                ]
    return {"result": points, "capacity": round(capacity), "warm_s": warm_s, "measured_s": measured_s}


def measure_capacity(stage: Stage, events: int) -> float:
    """Events per second of one worker with default settings while a consumer reads its results."""
    seed = cards.new_seed()
    folder = stage.folder / f"capacity-{seed}"
    folder.mkdir()
    kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(events, _CARDS, _DAYS, seed))
    reader = _reader(stage, folder, seed)
    group = f"capacity-{seed}"
    try:
        return work_off(stage, stage.worker(cards.DOMAIN, group), group, events).events_per_s
    finally:
        reader.stop()


def _one(stage: Stage, phases: Sequence[Phase], warm_s: float, settings: Mapping[str, Any]) -> list[Any]:
    """Seconds from due to arrival of the measured events of each phase, NaN for what did not arrive."""
    seed = cards.new_seed()
    folder = stage.folder / f"latency-{seed}"
    folder.mkdir()
    worker: Headrace = stage.worker(cards.DOMAIN, f"latency-{seed}", worker__start="latest", **settings)
    load = stage.script(
        "openloop",
        {
            "bootstrap": stage.bootstrap,
            "topic": cards.TOPIC,
            "phases": phases,
            "cards": _CARDS,
            "days": _DAYS,
            "seed": seed,
            "folder": str(folder),
        },
    )
    reader = _reader(stage, folder, seed)
    worker.wait_ready()
    _await_file(folder / "load-ready", load)
    start = time.monotonic() + 0.5
    scratch = folder / "start.new"
    scratch.write_text(str(start))
    scratch.replace(folder / "start")
    _await_end(worker, load, start + phases[-1].begin_s + phases[-1].seconds)
    worker.stop()
    reader.stop()
    return latencies(np.load(folder / "arrivals.npz"), phases, start, warm_s)


def latencies(arrived: Mapping[str, Any], phases: Sequence[Phase], start: float, warm_s: float) -> list[Any]:
    """Per phase the seconds from due to arrival of its events behind the warm-up, NaN for what did not arrive."""
    due = due_times(phases)
    at = np.full(len(due), np.nan)
    at[arrived["numbers"]] = arrived["times"]
    taken = at - start - due
    found, first = [], 0
    for phase in phases:
        found.append(taken[first + int(warm_s * phase.rate) : first + phase.events])
        first += phase.events
    return found


def _await_end(worker: Headrace, load: Process, end: float) -> None:
    """Waits until all is sent, and until nothing is left of it or patience is."""
    while load.alive():
        worker.require_alive()
        if time.monotonic() > end + _PATIENCE_S:
            break
        time.sleep(0.1)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if not sum(value for name, value in worker.metrics().items() if name.startswith(_LAG)):
            time.sleep(0.5)  # the last results are on their way
            return
        time.sleep(0.2)


def _reader(stage: Stage, folder: Path, seed: int) -> Process:
    arguments = {"bootstrap": stage.bootstrap, "topic": cards.OUTPUT, "seed": seed, "folder": str(folder)}
    reader = stage.script("arrivals", arguments)
    _await_file(folder / "reader-ready", reader)
    return reader


def _await_file(path: Path, process: Process) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        process.require_alive()
        if time.monotonic() > deadline:
            raise BenchError(f"{process.name} did not get ready:\n{process.tail()}")
        time.sleep(0.02)


def _point(phase: Phase, taken: Any) -> dict[str, Any]:
    arrived = taken[~np.isnan(taken)] * 1000
    p50, p99, p999 = np.percentile(arrived, [50, 99, 99.9]).round(2).tolist() if len(arrived) else [None] * 3
    return {
        "rate": round(phase.rate),
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "samples": len(arrived),
        "missing": len(taken) - len(arrived),
    }


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Every point."""
    rows = [
        [
            f"{one['load']:.0%} ({number(one['rate'])}/s)",
            one["delivery"],
            number(one["commit_ms"]),
            *(number(one[key], 1) for key in ("p50_ms", "p99_ms", "p999_ms")),
            number(one["samples"]) + (f" ({one['missing']} missing)" if one["missing"] else ""),
        ]
        for one in report["result"]
    ]
    columns = ["load", "delivery", "commit ms", "p50 ms", "p99 ms", "p99.9 ms", "samples"]
    note = (
        f"Capacity {number(report['capacity'])} events/s. The first {report['warm_s']:.0f} s of each load are left out,"
        f" the next {report['measured_s']:.0f} s are measured."
    )
    over = [
        one["p99_ms"] - one["commit_ms"]
        for one in report["result"]
        if one["load"] == _GOAL_LOAD and one["delivery"] == DELIVERIES[0] and one["p99_ms"] is not None
    ]
    worst = round(max(over), 1) if over else None
    aim = goal("ms of p99 over the commit interval at half load, exactly once, the worst interval", worst, at_most=25)
    return [Table(TITLE, columns, rows, [note, aim])]
