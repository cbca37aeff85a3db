"""What an event costs in a deployment: CPU time of each process, bytes on topics and per row, for docs/sizing.md.

    python scripts/bench/footprint.py [--events 300000] [--rate 0] [--workers 1]

Starts the embedded services, sends simulated transactions (at a rate, or as a backlog), waits until each is a row, and
prints one JSON object. CPU seconds per event hold on a loaded machine too; events per second do not.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from processors.fraud.demo import simulate
from scripts.bench import cards, kafka
from streams.local.connection import kafka_config
from streams.local.services import Services
from streams.settings import load_settings
from streams.store.asking import ask_over_http

_PATIENCE_S = 300.0
_ROWS = "SELECT count() FROM fraud_scores"
_BYTES_PER_ROW = (
    "SELECT table, sum(rows), sum(data_compressed_bytes), sum(data_uncompressed_bytes) FROM system.parts"
    " WHERE active AND database = 'headrace' AND table IN ('fraud_scores', 'transaction_labels') GROUP BY table"
)
_CARDS = "SELECT uniqExact(card_token) FROM fraud_scores"


def main() -> None:
    """Measures and prints."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(overrides={"data": folder, "kafka.partitions": str(arguments.partitions)}).settings
        overrides = {"kafka.partitions": str(arguments.partitions)}
        with Services(settings, "fraud", arguments.workers, overrides=overrides) as services:
            services.start(lambda said: print(said, file=sys.stderr))
            before = _processes(services)
            sent_s = _send(kafka_config(settings)["bootstrap.servers"], arguments.events, arguments.rate)
            url = services.endpoints()["clickhouse"]
            _await_rows(url, arguments.events)
            after = _processes(services)
            found = {
                "events": arguments.events,
                "rate": round(arguments.events / sent_s) if arguments.rate else 0,
                "cpu_us_per_event": {
                    name: round(1e6 * (after[name][0] - before[name][0]) / arguments.events, 2) for name in before
                },
                "resident_mb": {name: round(after[name][1] / 1e6) for name in after},
                "resident_mb_before": {name: round(before[name][1] / 1e6) for name in before},
                "log_bytes_per_event": _log_bytes(Path(folder), arguments.events),
                "clickhouse": _clickhouse(url),
                "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
            }
    print(json.dumps(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rate", type=float, default=0, help="Events per second; 0 sends a backlog.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=12)
    return parser.parse_args()


def _processes(services: Services) -> dict[str, tuple[float, int]]:
    """CPU seconds so far and resident bytes of each service, its children included."""
    found = {}
    for state in services.supervisor.states():
        if state.pid is not None:
            root = psutil.Process(state.pid)
            family = [root, *root.children(recursive=True)]
            cpu = sum(sum(one.cpu_times()[:2]) for one in family)
            found[state.name] = (cpu, sum(one.memory_info().rss for one in family))
    return found


def _send(bootstrap: str, events: int, rate: float) -> float:
    """Sends simulated transactions and their labels; returns the seconds that it took."""
    writer = kafka.producer(bootstrap)
    began, sent = time.monotonic(), 0
    for batch in simulate(events, seed=7):
        for key, value in zip(batch.keys, batch.values, strict=True):
            kafka.send(writer, cards.TOPIC, key, value)
        for side in batch.side:
            kafka.send(writer, side.topic, side.key, side.value)
        sent += len(batch.keys)
        writer.poll(0)
        if rate:
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
    writer.flush(60)
    return time.monotonic() - began


def _await_rows(url: str, events: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (rows := int(_ask(url, _ROWS)[0][0])) < events:
        if time.monotonic() > deadline:
            raise SystemExit(f"{rows} of {events} rows after {_PATIENCE_S:.0f} s")
        time.sleep(0.5)


def _log_bytes(data: Path, events: int) -> dict[str, float]:
    """Bytes that each topic takes on one broker's disk, indexes left out, per event."""
    sizes: dict[str, int] = {}
    for log in data.rglob("*.log"):
        topic, _, partition = log.parent.name.rpartition("-")
        if partition.isdigit():
            sizes[topic] = sizes.get(topic, 0) + log.stat().st_size
    return {topic: round(size / events, 1) for topic, size in sorted(sizes.items())}


def _clickhouse(url: str) -> dict[str, Any]:
    """Rows, and bytes of a row as it lies on the disk and before compression."""
    figures: dict[str, Any] = {
        table: {"rows": int(rows), "bytes_per_row": round(int(packed) / int(rows), 1), "plain": int(plain) // int(rows)}
        for table, rows, packed, plain in _ask(url, _BYTES_PER_ROW)
    }
    return {**figures, "cards": int(_ask(url, _CARDS)[0][0])}


def _ask(url: str, sql: str) -> list[list[str]]:
    answer = ask_over_http(url, "", "headrace", sql, "TabSeparated")
    return [line.split("\t") for line in answer.body.decode().splitlines()]


if __name__ == "__main__":
    main()
