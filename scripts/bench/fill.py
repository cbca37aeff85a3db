"""Writes simulated transactions as fast as a group takes them, `python -m scripts.bench.fill JSON`.

It stays a little ahead of the group and no further, so that what waits in the client's queues is little, too.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from scripts.bench import cards, kafka

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOOK_EVERY = 5000


def main() -> None:
    """Writes so many."""
    given = json.loads(sys.argv[1])
    progress = kafka.Progress(given["bootstrap"], given["group"], given["topic"])
    load = cards.transactions(given["events"], given["cards"], given["days"], given["seed"])
    kafka.preload(given["bootstrap"], given["topic"], _held_back(load, progress, given["ahead"]))
    progress.close()


def _held_back(
    load: Iterable[tuple[bytes | None, bytes]], progress: kafka.Progress, ahead: int
) -> Iterator[tuple[bytes | None, bytes]]:
    for sent, message in enumerate(load):
        if sent % _LOOK_EVERY == 0:
            while sent - progress.committed() > ahead:
                time.sleep(0.01)
        yield message


if __name__ == "__main__":
    main()
