"""The latency curve of a model: what a run costs by its number of rows, and the slice size that follows. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SIZES", "Point", "measure", "pick"]

SIZES = tuple(2**power for power in range(13))
"""1 to 4096 rows; above that no model measured got cheaper per row, and one run blocks the loop for longer."""

# A slice may cost up to this share more per row than the best one: less waiting and memory for the same rate.
_TOLERANCE = 0.05

# Rates that fall below this share of the best, twice in a row, will not come back: the caches are full.
_HOPELESS = 0.7


class Point(msgspec.Struct, frozen=True):
    """The shortest of some runs with this many rows."""

    rows: int
    ms: float

    @property
    def rows_per_s(self) -> float:
        """Rows in a second at this size."""
        return self.rows / self.ms * 1000


def measure(
    run: Callable[[int], None],
    sizes: Sequence[int] = SIZES,
    budget_s: float = 1.5,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Point, ...]:
    """Times runs of rising size until the sizes, the time or the gain is used up; always measures the first size.

    A larger size that raises, such as one that does not fit into a device's memory, ends the curve before it.

    Args:
        run: Runs the model once with so many rows.
        sizes: Numbers of rows, rising.
        budget_s: Time that all of it may take; kept to within about one run.
        repeats: Timed runs per size, after one that is not timed; their minimum counts, since noise only adds.
        clock: Seconds, rising.
    """
    points: list[Point] = []
    end = clock() + budget_s
    hopeless = 0
    for index, size in enumerate(sizes):
        # Twice the rows take about twice the time; a size that cannot be run three times is not begun.
        expected_s = points[-1].ms / 1000 * size / points[-1].rows if points else 0.0
        if index and clock() + 3 * expected_s > end:
            break
        share_s = (end - clock()) / (len(sizes) - index)
        try:
            shortest_s = _shortest(run, size, repeats, share_s, clock)
        except Exception:
            if not points:
                raise
            break
        points.append(Point(size, shortest_s * 1000))
        best = max(point.rows_per_s for point in points)
        hopeless = hopeless + 1 if points[-1].rows_per_s < _HOPELESS * best else 0
        if hopeless == 2:
            break
    return tuple(points)


def pick(points: Sequence[Point]) -> int:
    """The smallest size whose rate is within 5 % of the best."""
    best = max(point.rows_per_s for point in points)
    return min(point.rows for point in points if point.rows_per_s >= (1 - _TOLERANCE) * best)


def _shortest(run: Callable[[int], None], size: int, repeats: int, share_s: float, clock: Callable[[], float]) -> float:
    run(size)
    shortest = float("inf")
    stop = clock() + share_s
    for done in range(repeats):
        if done and clock() > stop:
            break
        start = clock()
        run(size)
        shortest = min(shortest, clock() - start)
    # A clock that does not tick within a run would make a rate infinite.
    return max(shortest, 1e-9)
