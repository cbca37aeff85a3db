"""A steady load without an end in sight, `python -m scripts.bench.pour JSON`: events are made as they are sent."""

from __future__ import annotations

import json
import sys
import time

from scripts.bench import cards, kafka

# Fewer at once would cost more in looking at the clock; so many are milliseconds of any load that matters here.
_AT_ONCE = 200


def main() -> None:
    """Sends so many events at a rate; a full queue or a slow machine makes it late, which is made up for."""
    given = json.loads(sys.argv[1])
    writer = kafka.producer(given["bootstrap"])
    began = time.monotonic()
    load = cards.transactions(given["events"], given["cards"], given["days"], given["seed"], given["ends_days_ago"])
    for sent, (key, value) in enumerate(load):
        if sent % _AT_ONCE == 0:
            writer.poll(0)
            time.sleep(max(0.0, began + sent / given["rate"] - time.monotonic()))
        kafka.send(writer, given["topic"], key, value)
    writer.flush(120)


if __name__ == "__main__":
    main()
