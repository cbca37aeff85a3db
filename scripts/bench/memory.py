"""`bench memory`: resident memory of a worker as events and cards grow.

Each card has 2.2 transactions a day, so events and cards decide how many days pass, and with them how full the 30-day
windows are. 10 million events of 100,000 cards are 45 days: the last third of them shows whether memory stays flat.
The load waits for the worker, so that no backlog fills the client's queues meanwhile.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from scripts.bench import cards, kafka
from scripts.bench.report import Table, goal, number
from scripts.bench.rounds import say, thinned
from scripts.bench.services import BenchError, Stage
from scripts.bench.steady import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.bench.options import Options

TITLE = "Memory of a worker"
_POLL_S = 0.25
_LAST_THIRD = 0.7
# So few wait at most: `bench overload` is about what a backlog takes in the client's queues, this is about state.
_AHEAD = 50_000
_GOAL_CARDS = 100_000


class _Case(NamedTuple):
    cards: int
    events: int
    seen_at: tuple[int, ...]


_FULL = (
    _Case(100_000, 10_000_000, (1_000_000, 7_000_000, 10_000_000)),
    _Case(10_000, 1_000_000, (1_000_000,)),
    _Case(1_000_000, 2_000_000, (1_000_000, 2_000_000)),
)
_QUICK = (_Case(2_000, 150_000, (50_000, 105_000, 150_000)), _Case(20_000, 100_000, (100_000,)))


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has a point per number of cards and events."""
    cases = _QUICK if options.quick else _FULL
    series: list[dict[str, Any]] = []
    for case in cases:
        say(f"memory: {case.events:,} events of {case.cards:,} cards")
        # A broker of its own each, so that the page cache and the disk hold one backlog at a time.
        with Stage(options.settings) as stage:
            series.append({"cards": case.cards, "samples": _one(stage, case)})
    points = [
        {"cards": case.cards, **_at(one["samples"], events)}
        for case, one in zip(cases, series, strict=True)
        for events in case.seen_at
    ]
    return {
        "result": {"points": points, "growth": growth(series[0]["samples"])},
        "series": [{**one, "samples": thinned(one["samples"])} for one in series],
    }


def _one(stage: Stage, case: _Case) -> list[dict[str, float]]:
    """Memory at every step of progress, the first with nothing in the state."""
    kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT)
    worker = stage.worker(cards.DOMAIN, "memory")
    worker.wait_ready()
    samples = [{"events": 0, "rss_mb": round(worker.rss_mb(), 1), "peak_mb": round(worker.peak_mb(), 1)}]
    load = stage.script(
        "fill",
        {
            "bootstrap": stage.bootstrap,
            "topic": cards.TOPIC,
            "group": "memory",
            "ahead": _AHEAD,
            "events": case.events,
            "cards": case.cards,
            "days": cards.days_of(case.events, case.cards),
            "seed": 1,
        },
    )
    progress = kafka.Progress(stage.bootstrap, "memory", cards.TOPIC)
    quiet_since = time.monotonic()
    while samples[-1]["events"] < case.events:
        worker.require_alive()
        if samples[-1]["events"] == 0:
            load.require_alive()
        done = progress.committed()
        if done > samples[-1]["events"]:
            quiet_since = time.monotonic()
            samples.append({"events": done, "rss_mb": round(worker.rss_mb(), 1), "peak_mb": round(worker.peak_mb(), 1)})
        elif time.monotonic() - quiet_since > SILENCE_S:
            raise BenchError(
                f"no progress for {SILENCE_S:.0f} s after {done:,} events:\n{load.tail()}\n{worker.tail()}"
            )
        time.sleep(_POLL_S)
    progress.close()
    worker.stop()
    return samples


def _at(samples: list[dict[str, float]], events: int) -> dict[str, float]:
    """The first sample with so many events."""
    found = next(one for one in samples if one["events"] >= events)
    return {**found, "events": events}


def growth(samples: list[dict[str, float]]) -> float:
    """Memory at the end over memory when seven tenths were done."""
    last = samples[-1]
    before = next(one for one in samples if one["events"] >= _LAST_THIRD * last["events"])
    return round(last["rss_mb"] / before["rss_mb"], 3)


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Every point."""
    rows = [
        [number(one["cards"]), number(one["events"]), number(one["rss_mb"]), number(one["peak_mb"])]
        for one in report["result"]["points"]
    ]
    empty = report["series"][0]["samples"][0]["rss_mb"]
    note = (
        f"With an empty state: {number(empty)} MB. Over the last third of the first run memory grew by"
        f" {report['result']['growth'] - 1:+.1%}."
    )
    largest = max((one["rss_mb"] for one in report["result"]["points"] if one["cards"] == _GOAL_CARDS), default=None)
    aim = goal(f"MB with {_GOAL_CARDS:,} cards", largest, at_most=400)
    return [Table(TITLE, ["cards", "events", "RSS MB", "peak MB"], rows, [note, aim])]
