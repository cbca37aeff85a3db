"""`bench sink`: rows per second of the real store process, against a raw Arrow insert of the same rows.

The store works off a topic of real results: reads, decodes, makes columns, inserts, exactly once. The raw insert gets
the very rows back from the store's table as Arrow, already in memory, and inserts them into a copy of that table, in
the same engine, in blocks of `store.flush_rows`: once as any client would, once with the settings of the sink's own
inserts, which leave out work of the engine that the sink's rows do not need.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson

from scripts.bench import cards, kafka
from scripts.bench.machine import ROOT
from scripts.bench.report import Table, goal, number, spread_text
from scripts.bench.rounds import ratios, say, spread
from scripts.bench.services import BenchError, Headrace, Stage
from scripts.bench.steady import speed, watch, work_off
from streams.local import endpoints
from streams.settings import Settings
from streams.store.status import fetch_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.bench.options import Options

TITLE = "Sink: rows into ClickHouse"
# The clock stops here, while there is still something to read: it starts with what was read ahead by then, too, and the
# last rows wait for `store.flush_interval_ms`.
_STEADY_SHARE = 0.8
TABLE = "fraud_scores"


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has rows per second of both and their ratio."""
    events, rounds = options.size(full=500_000, quick=200_000), options.rounds(full=5, quick=2)
    with Stage(options.settings) as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT)
        say(f"sink: {events:,} results to store")
        kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(events, cards=10_000, days=60))
        work_off(stage, stage.worker(cards.DOMAIN, "sink"), "sink", events)
        ours, cpu = [], []
        raw: dict[str, list[float]] = {"raw": [], "raw_tuned": []}
        for turn in range(rounds):
            say(f"sink: round {turn + 1} of {rounds}")
            store = stage.store()
            rate, cpu_us = _stored(stage, store, events)
            store.stop()
            ours.append(rate)
            cpu.append(cpu_us)
            for way, rate in _raw(stage, store, turn).items():
                raw[way].append(rate)
    compared, stored, bare = spread(ratios(ours, raw["raw"])), spread(ours, 0), spread(raw["raw"], 0)
    assert compared, "there was a round"
    assert stored, "there was a round"
    assert bare, "there was a round"
    return {
        "result": {"rows_per_s": stored["median"], "raw_rows_per_s": bare["median"], "ratio": compared["median"]},
        "rows_per_s": stored,
        "raw_rows_per_s": bare,
        "ratio": compared,
        "tuned_rows_per_s": spread(raw["raw_tuned"], 0),
        "tuned_ratio": spread(ratios(ours, raw["raw_tuned"])),
        "cpu_us": spread(cpu, 2),
    }


def _stored(stage: Stage, store: Headrace, events: int) -> tuple[float, float]:
    data = stage.data_of(store)
    url = endpoints.wait_for(data, "clickhouse", 60, store.require_alive)

    def rows() -> int:
        found = fetch_status(url)["partitions"]
        return sum(int(one["rows"]) for one in found if one["table"] == TABLE)

    samples = watch(rows, store.cpu_s, store.require_alive, events)
    measured = speed([sample for sample in samples if sample.done <= _STEADY_SHARE * events], events)
    return measured.events_per_s, measured.cpu_us


def _raw(stage: Stage, store: Headrace, turn: int) -> dict[str, float]:
    """Rows per second of `rawinsert` on what the store left; in a process of its own, since one owns the engine."""
    settings = Settings()
    arguments = {
        "store": str(stage.data_of(store) / "store" / "db"),
        "table": f"{settings.clickhouse.database}.{TABLE}",
        "block": settings.store.flush_rows,
        "turn": turn,
    }
    command = [sys.executable, "-m", "scripts.bench.rawinsert", orjson.dumps(arguments).decode()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the raw insert failed: {done.stderr.strip().splitlines()[-1]}")
    rates = orjson.loads(done.stdout)
    return {way: float(rates[way]) for way in ("raw", "raw_tuned")}


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Both, and their ratio."""
    rows = [
        ["the store: Kafka to table, exactly once", spread_text(report["rows_per_s"], 0)],
        ["raw Arrow insert of the same rows", spread_text(report["raw_rows_per_s"], 0)],
        ["the same with the settings of the sink's inserts", spread_text(report.get("tuned_rows_per_s"), 0)],
        ["store / raw", spread_text(report["ratio"], 2)],
        ["store / raw with the sink's settings", spread_text(report.get("tuned_ratio"), 2)],
    ]
    note = f"The store takes {number((report['cpu_us'] or {}).get('median'), 1)} µs of CPU a row."
    aim = goal("of raw Arrow", report["result"]["ratio"], at_least=0.7)
    return [Table(TITLE, ["", "rows/s (range)"], rows, [note, aim])]
