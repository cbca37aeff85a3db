"""`bench scale`: two workers against one, for the fraud domain and for a perceptron of a million parameters.

All workers start on the same backlog. The clock runs from when all of them are ready until the first partition is
done: so long as everybody has work. On two cores the broker has its share too.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scripts.bench import cards, kafka
from scripts.bench.machine import ROOT
from scripts.bench.models import mlp
from scripts.bench.report import Table, goal, spread_text
from scripts.bench.rounds import alternating, ratios, say, spread
from scripts.bench.services import BenchError, Stage
from scripts.bench.steady import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scripts.bench.options import Options

TITLE = "Scale: two workers against one"
WORKERS = (1, 2)
_SETTLE_S = 0.5
_POLL_S = 0.02
_HERE = Path(__file__).parent
_MANIFEST = """\
name = "perceptron"
version = "1.0.0"
file = "perceptron.onnx"
sha256 = "{sha256}"
size = {size}
licence = "Apache-2.0"
processor = "perceptron"

[contract]
inputs = [{{ name = "x", dtype = "float32", shape = ["batch", 64] }}]
outputs = [{{ name = "y", dtype = "float32", shape = ["batch", 1] }}]
"""


class _Rate(NamedTuple):
    events_per_s: float
    cpu_us: float


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has the rates of one and two workers and their ratio per domain."""
    events, rounds = options.size(full=800_000, quick=150_000), options.rounds(full=3, quick=1)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        packages = Path(folder)
        copy_packages(packages)
        with Stage(options.settings, packages) as stage:
            kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT, "questions", "replies")
            say(f"scale: writing twice {events:,} events")
            kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(events, cards=10_000, days=60))
            kafka.preload(stage.bootstrap, "questions", _questions(events))
            domains = {
                domain: _domain(stage, domain, topic, rounds)
                for domain, topic in ((cards.DOMAIN, cards.TOPIC), ("perceptron", "questions"))
            }
    result = {
        domain: {
            "one_per_s": one["events_per_s"]["1"]["median"],
            "two_per_s": one["events_per_s"]["2"]["median"],
            "ratio": one["ratio"]["median"],
        }
        for domain, one in domains.items()
    }
    return {"result": result, "domains": domains}


def copy_packages(folder: Path) -> None:
    """A copy of headrace's packages with the perceptron domain and its model among them."""
    for package in ("schemas", "processors", "streams"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    home = folder / "processors" / "perceptron"
    (home / "models").mkdir(parents=True)
    shutil.copy(_HERE / "perceptron" / "messages.py", folder / "schemas" / "perceptron.py")
    shutil.copy(_HERE / "perceptron" / "domain.py", home / "__init__.py")
    content = mlp(home / "models" / "perceptron.onnx").read_bytes()
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (home / "models" / "perceptron.toml").write_text(_MANIFEST.format(**facts))


def _questions(count: int) -> Iterator[tuple[bytes | None, bytes]]:
    for at in range(count):
        yield b"k%d" % (at % 1000), b'{"event_id":"q-%010d","x":%d.5}' % (at, at % 100)


def _domain(stage: Stage, domain: str, topic: str, rounds: int) -> dict[str, Any]:
    found: dict[int, list[_Rate]] = {count: [] for count in WORKERS}
    for turn, count in alternating([str(count) for count in WORKERS], rounds):
        say(f"scale: {domain}, round {turn + 1} of {rounds}, {count} at work")
        found[int(count)].append(_rate(stage, domain, topic, f"scale-{domain}-{count}-{turn}", int(count)))
    return {
        "events_per_s": {str(n): spread([one.events_per_s for one in rates], 0) for n, rates in found.items()},
        "cpu_us": {str(n): spread([one.cpu_us for one in rates], 2) for n, rates in found.items()},
        "ratio": spread(ratios([r.events_per_s for r in found[2]], [r.events_per_s for r in found[1]])),
    }


def _rate(stage: Stage, domain: str, topic: str, group: str, count: int) -> _Rate:
    workers = [stage.worker(domain, group, str(slot)) for slot in range(count)]
    progress = kafka.Progress(stage.bootstrap, group, topic)
    ends = kafka.ends(stage.bootstrap, topic)

    def moment() -> tuple[float, list[int], float]:
        return time.monotonic(), progress.offsets(), sum(worker.cpu_s() for worker in workers)

    try:
        for worker in workers:
            worker.wait_ready()
        time.sleep(_SETTLE_S)
        first = last = moment()
        while not any(done >= end for done, end in zip(last[1], ends, strict=True)):
            for worker in workers:
                worker.require_alive()
            time.sleep(_POLL_S)
            last = moment()
            if last[1] == first[1] and last[0] - first[0] > SILENCE_S:
                raise BenchError(f"no progress for {SILENCE_S:.0f} s:\n{workers[0].tail()}")
    finally:
        progress.close()
        for worker in workers:
            worker.stop()
    events, seconds = sum(last[1]) - sum(first[1]), last[0] - first[0]
    if events <= 0:
        raise BenchError(
            f"{sum(ends):,} events are too few to measure: they were answered before all workers were ready"
        )
    return _Rate(events / seconds, (last[2] - first[2]) / events * 1e6)


def tables(report: Mapping[str, Any]) -> list[Table]:
    """A row per domain."""
    rows = [
        [
            domain,
            spread_text(one["events_per_s"]["1"], 0),
            spread_text(one["events_per_s"]["2"], 0),
            spread_text(one["ratio"], 2),
            spread_text(one["cpu_us"]["1"], 1),
            spread_text(one["cpu_us"]["2"], 1),
        ]
        for domain, one in report["domains"].items()
    ]
    columns = ["domain", "one worker/s", "two workers/s", "two / one", "CPU µs/event, one", "CPU µs/event, two"]
    aim = goal("times one worker on the perceptron", report["result"]["perceptron"]["ratio"], at_least=1.5)
    return [Table(TITLE, columns, rows, [aim])]
