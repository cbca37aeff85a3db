"""A consumer that notes when each committed result arrives: `python -m scripts.bench.arrivals JSON`.

Reads from the end of the topic on until SIGTERM, then writes numbers of events and times of arrival to a file.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from array import array
from pathlib import Path

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from scripts.bench import kafka

_DIGITS = 10


def main() -> None:
    """Reads until it is told to stop."""
    given = json.loads(sys.argv[1])
    prefix = f'"event_id":"t{given["seed"]}-'.encode()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    reader = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": "bench-arrivals",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "log_level": 2,
        }
    )
    reader.assign([TopicPartition(given["topic"], p, OFFSET_END) for p in range(kafka.PARTITIONS)])
    folder = Path(given["folder"])
    numbers, times = array("q"), array("d")
    began = time.monotonic()
    while not stopping:
        first = reader.poll(0.05)
        found = [] if first is None else [first, *reader.consume(10_000, 0)]
        now = time.monotonic()
        for message in found:
            value = message.value() or b""
            at = value.find(prefix)
            if at >= 0:
                numbers.append(int(value[at + len(prefix) : at + len(prefix) + _DIGITS]))
                times.append(now)
        if now - began > 1:
            (folder / "reader-ready").touch()
            began = float("inf")
    reader.close()
    np.savez(folder / "arrivals.npz", numbers=np.array(numbers), times=np.array(times))


if __name__ == "__main__":
    main()
