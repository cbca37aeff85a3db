"""`bench report`: writes docs/benchmarks.md and its plots from the JSON files of a folder; nobody types a figure."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scripts.bench import plots, report
from scripts.bench.machine import ROOT
from scripts.bench.services import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BENCHES = ("pipeline", "latency", "stages", "memory", "restore", "sink", "scale", "model", "overload")
PAGE = ROOT / "docs" / "benchmarks.md"
STORED = ROOT / "docs" / "benchmarks"
"""The JSON files that the page was made from."""
IMAGES = ROOT / "docs" / "images"

_HEAD = """\
# Benchmarks

Written by `headrace bench report` from the JSON files of the last run, which lie in `docs/benchmarks/`; no figure here
is typed by hand. To measure on your own machine:

    uv run headrace bench pipeline              # or latency, stages, memory, restore, sink, scale, model, overload
    uv run headrace bench pipeline --quick      # under a minute; the figures say little more than that it works
    uv run headrace bench all --out bench       # everything, half an hour, then this page

Contenders run side by side on the same broker and messages, in alternating order; a figure is the median of the
rounds, with the range behind it. Everything (load, broker, worker, readers) shares the cores of the one machine.

"""

TEXTS = {
    "pipeline": """\
Simulated card transactions (about 300 bytes of JSON) lie on a topic of four partitions; every contender answers them
with the same features and the same model (boosted trees) and writes the same fields, each into a topic of its own. One
process each. Speed is counted in committed offsets of the input (and no more than there are answers), from the first
commit behind a tenth of the backlog and a second of work until the last: start-up does not count. Slow contenders get
a limit of time, not all messages.

What only headrace does besides: it refuses duplicates, writes card tokens instead of cards, gives reasons, tallies and
dead letters, and keeps its state in a changelog. Quix Streams keeps histories in its state with a changelog, too, and
commits once a second, as does Faust, whose output is not transactional whatever its settings (faust-streaming issue
177). The loop of one event at a time keeps histories in memory and loses them with the process. All scores are compared
with ours, event by event, so that nobody wins by not working. The loop batched by hand has no state, so its scores
differ: it lacks {missing}. The short answers are id, probability and decision alone.""",
    "latency": """\
Open loop: events are sent when they are due, whatever became of those before, and an event that was sent late counts
as late; so does the time that the load's producer waits for a batch, 5 ms as in Java's clients since Kafka 4. The clock
stops when a read_committed consumer has the result.""",
    "stages": """\
The worker's own metrics under full load, and the same code in a loop without Kafka. `poll` includes waiting for the
client's threads; `commit` includes state changes, tallies and the transaction.""",
    "memory": """\
Resident memory of the worker process while events come in, 2.2 transactions a day and card. The load waits for the
worker: what a backlog takes in the client's queues is in the section on overload.""",
    "restore": "A worker starts with a changelog that another one wrote: from its assignment until all state is there.",
    "sink": "The store process works off a topic of results; the limit is the same rows as Arrow blocks in memory.",
    "scale": """\
One and two workers on the same backlog. `perceptron` is a domain that costs nothing but its model of a million
parameters (64-512-1024-384-1).""",
    "model": "The same rows in the same slices, one thread: what cutting, checking and copying cost. Random weights.",
    "overload": """\
A light load, then twice the measured capacity, then a light load again. How long the next event to be answered has
waited in Kafka is the age of the message at the committed offset; the queues are the worker's own metrics, and hold
what its client has read ahead and not yet sent.""",
}


def write(out: Path) -> Path:
    """Writes the page and draws its plots.

    Raises:
        BenchError: The folder has no results.
    """
    found = {name: one for name in BENCHES if (one := report.read(out, name)) is not None}
    if not found:
        raise BenchError(f"there are no results in {out}: run `headrace bench all --out {out.name}` first")
    PAGE.write_text(page(found), encoding="utf-8")
    for name, one in found.items():
        report.write(STORED, name, one)
        plots.draw(name, one, IMAGES)
    return PAGE


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the page."""
    parts = [_HEAD, _machine(reports), *(_section(name, one) for name, one in reports.items())]
    return "\n".join(parts).rstrip() + "\n"


def _machine(reports: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(reports.values()))
    facts = first["machine"]
    lines = [
        "| | |\n|---|---|",
        f"| machine | {facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB |",
        f"| system | {facts['os']} |",
        *(f"| {name} | {value} |" for name, value in first["versions"].items()),
        f"| started | {first['started_at']} |",
    ]
    quick = [name for name, one in reports.items() if one["quick"]]
    if quick:
        lines.append(f"\n**{', '.join(quick)}: a quick run. Those figures say little more than that it works.**")
    return "\n".join(lines) + "\n"


def _section(name: str, found: Mapping[str, Any]) -> str:
    module = importlib.import_module(f"scripts.bench.{name}")
    text = TEXTS[name].format(missing=", ".join(f"`{one}`" for one in found.get("missing_features", ())))
    tables = module.tables(found)
    parts = [f"## {module.TITLE}\n", text + "\n", f"![{module.TITLE}](images/bench-{name}.svg)\n"]
    for table in tables:
        parts += [f"**{table.title}**\n"] * (len(tables) > 1)
        parts.append(report.markdown(table))
    settings = f", with {', '.join(f'`{one}`' for one in found['settings'])}" if found["settings"] else ""
    load, commit = found["machine"]["load_before"], found["versions"].get("commit", "unknown")
    parts.append(
        f"{found['started_at']}, {found['took_s']:.0f} s, commit {commit}, load {load} before it began{settings}.\n"
    )
    return "\n".join(parts)
