"""An open loop, `python -m scripts.bench.openloop JSON`: sends events when they are due, whatever became of others.

Events are made before the first is due, so that making them delays none. The plan says when each is due: event n of a
phase at its start plus n over the rate, on the clock that all processes of a machine share (CLOCK_MONOTONIC). The
reader holds the time of arrival against the same plan: an event that was sent late counts as late.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scripts.bench import cards, kafka

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_TICK_S = 0.001


class Phase(NamedTuple):
    """A steady load."""

    begin_s: float
    """From the start of the plan."""
    rate: float
    seconds: float

    @property
    def events(self) -> int:
        """Events of the phase."""
        return int(self.rate * self.seconds)


def phases_of(rates: Sequence[float], seconds: float, pause_s: float) -> list[Phase]:
    """Phases one after the other, with a pause between."""
    return [Phase(at * (seconds + pause_s), rate, seconds) for at, rate in enumerate(rates)]


def due_times(phases: Sequence[Phase]) -> NDArray[np.float64]:
    """When each event is due, from the start of the plan, in their order."""
    return np.concatenate([phase.begin_s + np.arange(phase.events) / phase.rate for phase in phases])


def main() -> None:
    """Makes the events, says so, waits for the start, sends."""
    given = json.loads(sys.argv[1])
    due = due_times([Phase(*phase) for phase in given["phases"]])
    events = list(cards.transactions(len(due), given["cards"], given["days"], given["seed"]))
    gc.freeze()
    gc.disable()
    folder = Path(given["folder"])
    (folder / "load-ready").touch()
    start = float(_await(folder / "start"))
    # As Java's producers wait since Kafka 4, in one process that stands for many.
    writer = kafka.producer(given["bootstrap"], linger_ms=5)
    sent = 0
    for upto in _ticks(due, start):
        for key, value in events[sent:upto]:
            kafka.send(writer, given["topic"], key, value)
        sent = upto
        writer.poll(0)
    writer.flush(60)


def _ticks(due: NDArray[np.float64], start: float) -> Iterator[int]:
    """How many are due, again and again until all are."""
    upto = 0
    while upto < len(due):
        now = time.monotonic() - start
        upto = int(np.searchsorted(due, now, side="right"))
        yield upto
        time.sleep(_TICK_S)


def _await(path: Path) -> str:
    while not path.exists():
        time.sleep(0.005)
    return path.read_text()


if __name__ == "__main__":
    main()
