"""The speed of a process that works off a backlog, measured in the same way for all, without its start.

The backlog lies on the input topic before the process starts. Fifty times a second the committed offsets of its
consumer group are asked for, which count what is answered for good. The clock starts at the first commit behind a tenth
of the backlog, or behind the first second of work where that comes later, and stops at the last commit: both ends are
moments of a commit, so neither start-up nor idling counts. CPU time is taken between the same two moments.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from scripts.bench import cards, kafka
from scripts.bench.services import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scripts.bench.services import Process, Stage

_POLL_S = 0.02
SILENCE_S = 60.0
# Who commits once a second has a few commits to measure between, whatever the limit.
_FEWEST = 4
_WARM_SHARE = 0.1
_WARM_S = 1.0


class Sample(NamedTuple):
    """How far everything was at a moment."""

    at: float
    done: int
    cpu_s: float


class Speed(NamedTuple):
    """What was measured between two commits."""

    events_per_s: float
    cpu_us: float
    """CPU of the process, all its threads, per event."""
    events: int
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to what it is worth."""
        return {
            "events_per_s": round(self.events_per_s),
            "cpu_us": round(self.cpu_us, 2),
            "events": self.events,
            "seconds": round(self.seconds, 2),
        }


def work_off(
    stage: Stage, process: Process, group: str, events: int, limit_s: float = float("inf"), topic: str = cards.TOPIC
) -> Speed:
    """The speed of a process that was just started on a backlog; it is stopped afterwards.

    Args:
        stage: Where the backlog lies.
        process: Who works.
        group: Its consumer group.
        events: How many there are.
        limit_s: For the slow ones, whose rate needs no more than a while of work.
        topic: The backlog.
    """
    progress = kafka.Progress(stage.bootstrap, group, topic)
    try:
        return speed(watch(progress.committed, process.cpu_s, process.require_alive, events, limit_s), events)
    finally:
        progress.close()
        process.stop()


def watch(
    done: Callable[[], int],
    cpu_s: Callable[[], float],
    check: Callable[[], None],
    target: int,
    limit_s: float = float("inf"),
) -> list[Sample]:
    """Samples at every step of progress until the target is reached, or the limit after the first step.

    Args:
        done: How many are answered for good.
        cpu_s: CPU seconds so far.
        check: Raises where waiting is pointless.
        target: Where to stop.
        limit_s: For the slow ones, whose rate needs no more than a while.
    """
    samples: list[Sample] = []
    quiet_since = time.monotonic()
    while not _enough(samples, target, limit_s):
        check()
        count, now = done(), time.monotonic()
        if count and (not samples or count > samples[-1].done):
            samples.append(Sample(now, count, cpu_s()))
            quiet_since = now
        elif now - quiet_since > SILENCE_S:
            raise BenchError(f"no progress for {SILENCE_S:.0f} s after {samples[-1].done if samples else 0} events")
        time.sleep(_POLL_S)
    return samples


def _enough(samples: Sequence[Sample], target: int, limit_s: float) -> bool:
    if not samples or samples[-1].done >= target:
        return bool(samples)
    return time.monotonic() - samples[0].at >= limit_s and len(samples) >= _FEWEST


def speed(samples: Sequence[Sample], target: int) -> Speed:
    """Events per second and CPU per event over the steady part of the samples.

    Raises:
        BenchError: There were too few commits to measure between.
    """
    last = samples[-1]
    warm = [s for s in samples if s.done >= min(target, last.done) * _WARM_SHARE]
    steady = [s for s in warm if s.at >= min(samples[0].at + _WARM_S, (samples[0].at + last.at) / 2)]
    if not steady or steady[0].done == last.done:
        raise BenchError(f"{last.done} events are too few to measure: all were answered at once")
    first = steady[0]
    events, seconds = last.done - first.done, last.at - first.at
    return Speed(events / seconds, (last.cpu_s - first.cpu_s) / events * 1e6, events, seconds)
