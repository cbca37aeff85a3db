"""Before the first event: does the model run, do rows run together, at which size, and every size once. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors import _contract, _curve, _slices
from processors._compare import beyond_rounding, differences
from processors._contract import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from processors import Arrays
    from processors._contract import Contract
    from processors._rows import Rows

__all__ = ["largest_measured", "measure", "sizes", "warm_up"]

# Rows of one measured run stay under this: pictures and long sequences get big before they get to 4,096 rows.
_MEASURED_BYTES = 128_000_000

# Small runs go round in this many bytes of rows: a core learns a tree model's branches by heart where the same 32 rows
# come again and again, and shows half of their cost (200 trees: 2.0 us a row instead of 3.7).
_POOL_BYTES = 8_000_000

# Rows that are run together and alone.
_NEIGHBOURS = 3


def warm_up(
    rows: Rows, *, measure_curve: bool, warn: Callable[[str], None], forget: Callable[[], None] = lambda: None
) -> tuple[_curve.Point, ...]:
    """Settles the slice size, runs every size that slices will come in, and returns the curve if it was measured.

    Args:
        rows: What runs the model.
        measure_curve: Whether the slice size is measured.
        warn: Takes what the user should know.
        forget: Gives back the memory of sizes that were only tried.

    Raises:
        ModelError: What comes out is not what was declared.
    """
    curve: tuple[_curve.Point, ...] = ()
    refused = rows.find_good()
    if refused:
        warn(
            f"no made-up row runs, so slices of {rows.slice} are not measured; "
            f"give `axes` or `values` in its contract ({refused[0]})"
        )
        return curve
    if rows.fixed == 1:
        warn(
            "its file fixes the batch axis to 1, so rows run one by one; "
            "`headrace models dynamic SRC DST` makes a file that takes any number"
        )
    elif rows.fixed is None:
        if failure := _failure_together(rows):
            rows.slice = 1
            warn(f"rows together fail although its file promises any number, so rows run one by one ({failure})")
        elif measure_curve:
            curve = measure(rows)
            rows.slice = _curve.pick(curve)
        if rows.slice > 1:
            _warn_of_neighbours(rows, warn)
    forget()
    for size in sizes(rows):
        rows.run(rows.made_up(size))
    rows.last_run_ms = 0.0
    return curve


def sizes(rows: Rows) -> tuple[int, ...]:
    """The numbers of rows that runs will have, as far as that is known."""
    return _slices.buckets(rows.slice) if rows.pad and not rows.fixed else tuple(sorted({1, rows.slice}))


def measure(rows: Rows, budget_s: float = 1.5) -> tuple[_curve.Point, ...]:
    """The latency curve on made-up rows; empty where none of them runs."""
    if rows.known_good is None:
        return ()
    row_bytes = _bytes(rows.known_good)
    most = max(1, _MEASURED_BYTES // row_bytes)
    pool_rows = max(1, min(_curve.SIZES[-1], _POOL_BYTES // row_bytes))
    pool = rows.made_up(pool_rows)
    large: dict[int, Arrays] = {}
    at = 0

    def run(size: int) -> None:
        nonlocal at
        if size <= pool_rows:
            at = at + size if at + 2 * size <= pool_rows else 0
            rows.run_slice(pool, at, at + size)
            return
        if size not in large:
            large.clear()
            large[size] = rows.made_up(size)
        rows.run_slice(large[size], 0, size)

    sizes = (rows.fixed,) if rows.fixed else tuple(size for size in _curve.SIZES if size <= most)
    return _curve.measure(run, sizes, budget_s)


def largest_measured(contract: Contract) -> int:
    """The most rows that a curve is measured with."""
    most = _MEASURED_BYTES // _bytes(_contract.sample(contract, 1))
    return max((size for size in _curve.SIZES if size <= most), default=1)


def _bytes(row: Arrays) -> int:
    return max(1, sum(array.nbytes for array in row.values()))


def _failure_together(rows: Rows) -> str:
    """Why some rows do not run together, although one does; empty where they do."""
    try:
        rows.run_together(rows.made_up(_NEIGHBOURS))
    except ModelError:
        raise
    except Exception as error:
        return _slices.reason(error)
    return ""


def _warn_of_neighbours(rows: Rows, warn: Callable[[str], None]) -> None:
    """Dynamic quantization, for one, scales by the largest value of a run: the same event gets other answers."""
    inputs = rows.made_up(_NEIGHBOURS)
    alone = rows.run_alone(inputs)
    found = beyond_rounding(differences(alone, rows.run_together(inputs)), alone)
    if found:
        warn(
            "a row's output depends on the rows that share its run "
            f"({', '.join(f'{name} by {apart:.2g}' for name, apart in found.items())} of the largest value); "
            "where the same event must always get the same answer, set model.slice = 1 or export it anew"
        )
