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

# Runs of one size and pass: long enough together to outlast a time slice that another process took.
_WINDOW_S, _FEWEST_RUNS, _MOST_RUNS = 0.01, 3, 500


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
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Point, ...]:
    """Times runs of rising size until the sizes, the time or the gain is used up; always measures the first size.

    The sizes are gone through twice and the shortest run of each counts: noise only adds, and what disturbs one moment
    is gone the next time round. A larger size that raises, such as one that does not fit into a device's memory, ends
    the curve before it.

    Args:
        run: Runs the model once with so many rows.
        sizes: Numbers of rows, rising.
        budget_s: Time that all of it may take; kept to within about one run.
        clock: Seconds, rising.
    """
    end = clock() + budget_s
    shortest = _first_pass(run, sizes, end, clock)
    for left, size in zip(range(len(shortest), 0, -1), list(shortest), strict=True):
        remaining_s = end - clock()
        if 2 * shortest[size] > remaining_s:
            break
        shortest[size] = min(shortest[size], _shortest(run, size, remaining_s / left, clock))
    return tuple(Point(size, seconds * 1000) for size, seconds in shortest.items())


def _first_pass(
    run: Callable[[int], None], sizes: Sequence[int], end: float, clock: Callable[[], float]
) -> dict[int, float]:
    shortest: dict[int, float] = {}
    hopeless = 0
    for index, size in enumerate(sizes):
        remaining_s = end - clock()
        # Twice the rows take about twice the time; a size that cannot be run three times is not begun.
        if index and 3 * shortest[sizes[index - 1]] * size / sizes[index - 1] > remaining_s:
            break
        try:
            shortest[size] = _shortest(run, size, remaining_s / (2 * len(sizes) - index), clock)
        except Exception:
            if not index:
                raise
            break
        best = max(rows / seconds for rows, seconds in shortest.items())
        hopeless = hopeless + 1 if size / shortest[size] < _HOPELESS * best else 0
        if hopeless == 2:
            break
    return shortest


def pick(points: Sequence[Point]) -> int:
    """The smallest size whose rate is within 5 % of the best."""
    best = max(point.rows_per_s for point in points)
    return min(point.rows for point in points if point.rows_per_s >= (1 - _TOLERANCE) * best)


def _shortest(run: Callable[[int], None], size: int, share_s: float, clock: Callable[[], float]) -> float:
    """Seconds of the shortest of some runs, after one that is not timed."""
    run(size)
    begun = clock()
    shortest = float("inf")
    for done in range(1, _MOST_RUNS + 1):
        start = clock()
        run(size)
        now = clock()
        shortest = min(shortest, now - start)
        if now - begun > share_s or (done >= _FEWEST_RUNS and now - begun > _WINDOW_S):
            break
    # A clock that does not tick within a run would make a rate infinite.
    return max(shortest, 1e-9)
