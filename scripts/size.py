"""How large a deployment has to be: the arithmetic of docs/sizing.md, from the figures in its first table.

python scripts/size.py --rate 10000                what a peak of 10,000 events/s takes, as a table
python scripts/size.py --rate 10000 --cards 2e6    with so many cards, and other choices of the page's
python scripts/size.py --write                     brings the page's results up to date with its figures
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
RATES = (1_000, 10_000, 100_000)
_RESULTS = re.compile(r"(<!-- scripts/size\.py(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROW = re.compile(r"^\| `(\w+)` \| ([\d.,]+) \|", re.MULTILINE)
_DAY_S = 86_400
_GB = 1e9


class FiguresError(Exception):
    """The page's table lacks a figure, or has one that nothing asks for."""


@dataclass(frozen=True)
class Figures:
    """What was measured, and what was chosen; docs/sizing.md says where each comes from."""

    worker_us: float
    worker_idle: float
    worker_base_mb: float
    store_us: float
    store_idle: float
    broker_us: float
    broker_idle: float
    key_bytes: float
    window_event_bytes: float
    id_bytes: float
    id_hours: float
    key_entries: float
    block_events: float
    entry_bytes: float
    restore_per_s: float
    input_bytes: float
    output_bytes: float
    changelog_bytes: float
    row_bytes: float
    load: float
    mean_share: float
    window_days: float
    card_events_day: float
    state_headroom: float
    worker_gb: float
    replication: float
    replica_cpu: float
    retention_days: float
    broker_cores: float


@dataclass(frozen=True)
class Size:
    """What a peak rate takes."""

    rate: int
    mean_rate: int
    cards: int
    state_gb: float
    """Of all workers together."""
    workers_for_cpu: int
    workers_for_memory: int
    workers: int
    worker_gb: float
    partitions: int
    restore_s: int
    """Until a worker that lost all of its state works again."""
    changelog_gb: float
    """Compacted, one copy."""
    stores: int
    brokers: int
    broker_cores: float
    """Of all brokers together, at the load that was chosen."""
    kafka_in_mb_s: float
    """At the peak, one copy: what producers and workers write."""
    kafka_out_mb_s: float
    """At the peak: what workers, store and other brokers read."""
    kafka_gb_day: float
    """On disk, all copies."""
    kafka_gb: float
    """With the retention that was chosen, the changelog included."""
    rows_day: int
    clickhouse_gb_day: float


def read_figures(page: str) -> Figures:
    """The figures in a page's tables: rows whose first cell is a name in code.

    Raises:
        FiguresError: One is missing, twice there, or unknown.
    """
    rows = _ROW.findall(page)
    found = {name: float(text.replace(",", "")) for name, text in rows}
    wanted = {field.name for field in fields(Figures)}
    if len(found) != len(rows) or found.keys() != wanted:
        missing, strange = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
        raise FiguresError(f"docs/sizing.md: missing {missing}, unknown {strange}, {len(rows) - len(found)} twice")
    return Figures(**found)


def size(figures: Figures, rate: int, cards: int = 0) -> Size:
    """What a peak of so many events/s takes.

    Args:
        figures: Of the page.
        rate: Events/s at the peak.
        cards: Keys; 0 takes as many as make the mean rate at their usual pace.
    """
    f = figures
    mean = rate * f.mean_share
    cards = cards or math.ceil(mean * _DAY_S / f.card_events_day)
    in_windows = mean * _DAY_S * f.window_days
    histories = (cards * f.key_bytes + in_windows * f.window_event_bytes) * f.state_headroom
    state_gb = (histories + rate * 3600 * f.id_hours * f.id_bytes) / _GB
    for_cpu = math.ceil(rate * f.worker_us / 1e6 / (f.load - f.worker_idle))
    for_memory = math.ceil(state_gb / (f.worker_gb - f.worker_base_mb / 1e3))
    # One more than are needed, since one may be on its way; two at least.
    workers = max(2, for_cpu + 1, for_memory + 1)
    entries = cards * f.key_entries + in_windows / f.block_events
    kept_bytes = f.input_bytes + f.output_bytes
    changelog_gb = entries * f.entry_bytes / _GB
    cpu = rate * f.broker_us / 1e6 * (1 + (f.replication - 1) * f.replica_cpu)
    brokers = max(3, math.ceil(cpu / (f.broker_cores * f.load - f.broker_idle)))
    day_gb = mean * _DAY_S * kept_bytes * f.replication / _GB
    return Size(
        rate=rate,
        mean_rate=round(mean),
        cards=cards,
        state_gb=state_gb,
        workers_for_cpu=for_cpu,
        workers_for_memory=for_memory,
        workers=workers,
        worker_gb=f.worker_base_mb / 1e3 + state_gb / max(1, workers - 1),
        # Room to double twice before keys have to move; a dozen at least.
        partitions=max(12, 2 ** math.ceil(math.log2(4 * for_cpu)), 2 ** math.ceil(math.log2(workers))),
        restore_s=math.ceil(entries / max(1, workers - 1) / f.restore_per_s),
        changelog_gb=changelog_gb,
        stores=math.ceil(rate * f.store_us / 1e6 / (f.load - f.store_idle)),
        brokers=brokers,
        broker_cores=cpu / f.load + brokers * f.broker_idle,
        kafka_in_mb_s=rate * (kept_bytes + f.changelog_bytes) / 1e6,
        kafka_out_mb_s=rate * (kept_bytes + (f.replication - 1) * (kept_bytes + f.changelog_bytes)) / 1e6,
        kafka_gb_day=day_gb,
        kafka_gb=day_gb * f.retention_days + changelog_gb * f.replication,
        rows_day=round(mean * _DAY_S),
        clickhouse_gb_day=mean * _DAY_S * f.row_bytes / _GB,
    )


_LINES = (
    ("events/s, mean over days", "mean_rate"),
    ("cards", "cards"),
    ("state of all workers, GB", "state_gb"),
    ("workers for CPU", "workers_for_cpu"),
    ("workers for memory", "workers_for_memory"),
    ("**workers**, one more than needed", "workers"),
    ("memory of each, GB", "worker_gb"),
    ("**partitions**", "partitions"),
    ("restore of a lost worker, s", "restore_s"),
    ("changelog, compacted, one copy, GB", "changelog_gb"),
    ("**stores**", "stores"),
    ("**brokers**", "brokers"),
    ("cores of all brokers", "broker_cores"),
    ("into Kafka at the peak, one copy, MB/s", "kafka_in_mb_s"),
    ("out of Kafka at the peak, MB/s", "kafka_out_mb_s"),
    ("Kafka's disks, all copies, GB a day", "kafka_gb_day"),
    ("Kafka's disks with retention, GB", "kafka_gb"),
    ("rows in ClickHouse a day", "rows_day"),
    ("ClickHouse's disk, GB a day", "clickhouse_gb_day"),
)


def table(sizes: list[Size]) -> str:
    """The results as a table in Markdown, a column per rate."""
    head = ["events/s at the peak", *(f"{one.rate:,}" for one in sizes)]
    lines = [head, ["---", *["---:"] * len(sizes)]]
    lines += [[label, *(_shown(getattr(one, name)) for one in sizes)] for label, name in _LINES]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}" if value < 1e6 else f"{value / 1e6:,.1f} M"
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def with_results(page: str) -> str:
    """The page with its tables of results brought up to date: each names the choices that it is made with."""
    figures = read_figures(page)

    def made(found: re.Match[str]) -> str:
        options = {name.replace("-", "_"): float(value) for name, value in re.findall(r"--([\w-]+) (\S+)", found[2])}
        rate, cards = int(options.pop("rate", 0)), int(options.pop("cards", 0))
        changed = replace(figures, **options)
        sizes = [size(changed, one, cards) for one in ([rate] if rate else RATES)]
        return f"{found[1]}\n{table(sizes)}\n{found[3]}"

    return _RESULTS.sub(made, page)


def main() -> None:
    """Prints, or writes the page."""
    page = PAGE.read_text(encoding="utf-8")
    figures = read_figures(page)
    arguments = _arguments(figures)
    if arguments.write:
        PAGE.write_text(with_results(page), encoding="utf-8")
        return
    chosen = {name: value for name, value in vars(arguments).items() if name in asdict(figures) and value is not None}
    sizes = [size(replace(figures, **chosen), int(rate), int(arguments.cards)) for rate in arguments.rate or RATES]
    print(
        json.dumps([asdict(one) for one in sizes]) if arguments.json else table(sizes),
        end="\n" if arguments.json else "",
    )


def _arguments(figures: Figures) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="How large a deployment has to be, from the figures of docs/sizing.md."
    )
    parser.add_argument("--rate", type=float, action="append", help="Events/s at the peak; more than once for more.")
    parser.add_argument("--cards", type=float, default=0, help="Keys; else as many as make the rate.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="Bring the results on the page up to date.")
    for name, value in asdict(figures).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=f"Instead of {value:g}.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
