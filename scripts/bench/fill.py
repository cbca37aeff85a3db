"""Writes simulated transactions as fast as it goes, in a process of its own. `python -m scripts.bench.fill JSON`."""

from __future__ import annotations

import json
import sys

from scripts.bench import cards, kafka

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    load = cards.transactions(given["events"], given["cards"], given["days"], given["seed"])
    kafka.preload(given["bootstrap"], given["topic"], load)
