"""`bench restore`: how long a worker takes to read its state back.

The changelog is a real one: a worker answered so many transactions of so many cards before. Then one starts again and
again, and its log says when it was given its partitions, when the state of the last one was there, and how many live
entries that was. The events behind the entries are not read again.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from scripts.bench import cards, kafka
from scripts.bench.report import Table, goal, number, spread_text
from scripts.bench.rounds import say, spread
from scripts.bench.services import BenchError, Headrace, Stage
from scripts.bench.steady import work_off

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.bench.options import Options

TITLE = "Restore of keyed state"
_GROUP = "restore"
_RESTORED = re.compile(r"restored partition \d+: (\d+) entries")


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has seconds per million entries and entries per second."""
    events, count = options.size(full=1_000_000, quick=150_000), options.size(full=500_000, quick=75_000)
    rounds = options.rounds(full=5, quick=3)
    with Stage(options.settings) as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT)
        say(f"restore: a changelog of {count:,} cards")
        kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(events, count, days=30))
        work_off(stage, stage.worker(cards.DOMAIN, _GROUP), _GROUP, events)
        found = []
        for turn in range(rounds):
            say(f"restore: round {turn + 1} of {rounds}")
            worker = stage.worker(cards.DOMAIN, _GROUP, log__format="json")
            worker.wait_ready()
            worker.stop()
            found.append(restored(worker))
    entries = found[0][0]
    per_million = spread([seconds / entries * 1e6 for entries, seconds in found])
    assert per_million is not None, "there was a round"
    rate = round(1e6 / per_million["median"])
    return {
        "result": {"s_per_million": per_million["median"], "entries_per_s": rate, "entries": entries},
        "s_per_million": per_million,
        "seconds": spread([seconds for _, seconds in found]),
    }


def restored(worker: Headrace) -> tuple[int, float]:
    """Entries, and seconds from the assignment until the last partition was there."""
    lines = [orjson.loads(line) for line in worker.log.read_bytes().splitlines() if line.startswith(b"{")]
    assigned = [line for line in lines if line["message"].startswith("assigned ")]
    restored = [(line, int(match[1])) for line in lines if (match := _RESTORED.search(line["message"]))]
    entries = sum(count for _, count in restored)
    if not assigned or not entries:
        raise BenchError(f"{worker.name} does not say that it restored anything:\n{worker.tail()}")
    seconds = (_time(restored[-1][0]) - _time(assigned[0])).total_seconds()
    return entries, max(seconds, 0.001)


def _time(line: Mapping[str, str]) -> datetime:
    return datetime.fromisoformat(line["time"])


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Seconds per million entries."""
    rows = [
        ["entries", number(report["result"]["entries"])],
        ["seconds", spread_text(report["seconds"], 2)],
        ["seconds per million entries", spread_text(report["s_per_million"], 2)],
        ["entries/s", number(report["result"]["entries_per_s"])],
    ]
    aim = goal("entries a second", report["result"]["entries_per_s"], at_least=300_000)
    return [Table(TITLE, ["", "median (range)"], rows, [aim])]
