"""Which way slices run on bound memory: with CUDA graphs, with overlapped copies, or neither. Pure.

A graph that was recorded wrongly, or a copy that comes too early, gives wrong numbers and raises nothing. So a way is
not believed: before the first event it has to give what plain runs give, on rows that it was not recorded with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from processors._compare import beyond_rounding, differences
from processors._contract import ModelError
from processors._slices import reason
from processors._warmup import sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from processors import Arrays
    from processors._lanes import Lane
    from processors._rows import Rows

__all__ = ["PLAIN", "Way", "settle_way"]

# The first run shows the shapes of the outputs, the second is bound to room for them (and recorded), the third is what
# all later ones are.
_RUNS = 3


class Way(msgspec.Struct, frozen=True):
    """How slices are run."""

    cuda_graphs: bool = False
    overlap: bool = False
    bound: bool = True
    """Whether on bound memory at all."""

    def __str__(self) -> str:
        words = [*(["CUDA graphs"] if self.cuda_graphs else []), *(["overlapped copies"] if self.overlap else [])]
        return " and ".join(words) or ("bound memory" if self.bound else "plain runs")


PLAIN = Way()
UNBOUND = Way(bound=False)


def settle_way(
    rows: Rows,
    wanted: Way,
    make: Callable[[Way], Sequence[Lane]],
    plain: Callable[[Arrays], list[np.ndarray]],
    warn: Callable[[str], None],
) -> Way:
    """Takes the first way that gives what plain runs give, the wanted one first, and runs every size on each lane.

    Args:
        rows: What runs the model, warm; it uses that way from now on.
        wanted: The way that is asked for.
        make: The lanes of a way.
        plain: A run without bound memory, which is the last resort.
        warn: Takes what the user should know.
    """
    # More than two slices, so that a lane comes around again; the last one is short.
    inputs = rows.made_up(2 * rows.slice + 1)
    rows.use_plain(plain)
    try:
        expected, _ = rows.run(inputs)
    except ModelError as error:
        warn(f"bound memory not used: made-up rows do not run, so nothing can be compared ({reason(error)})")
        return UNBOUND
    for way in _ways(wanted):
        lanes = make(way)
        try:
            _record(rows, lanes, way)
            rows.use_lanes(lanes)
            actual, failed = rows.run(inputs)
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            warn(f"{way} not used: {reason(error)}")
            continue
        found = beyond_rounding(differences(expected, actual), expected)
        if not failed and not found:
            return way
        apart = ", ".join(f"{name} by {share:.2g} of its largest value" for name, share in found.items())
        apart = next(iter(failed.values()), apart)
        warn(f"{way} not used: rows get other outputs than in plain runs ({apart})")
    rows.use_plain(plain)
    return UNBOUND


def _ways(wanted: Way) -> list[Way]:
    """The wanted way, then each half of it, then neither."""
    halves = [Way(cuda_graphs=True), Way(overlap=True)] if wanted.cuda_graphs and wanted.overlap else []
    return list(dict.fromkeys([wanted, *halves, PLAIN]))


def _record(rows: Rows, lanes: Sequence[Lane], way: Way) -> None:
    """Runs every size on every lane, graphs being recorded only here."""
    for lane in lanes:
        lane.recording = way.cuda_graphs
        for size in sizes(rows):
            feed = rows.made_up(size)
            for _ in range(_RUNS):
                lane(feed)
        lane.recording = False
