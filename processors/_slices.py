"""Rows in slices: how many at a time, what a remainder gets, and how a failing row is found. Pure.

Theory: a run that raises tells nothing about which of its rows did it. Halving the rows until one is alone needs
about 2 log2(n) runs for one poison row and never more than 2n - 1 for any number of them; every other row gets its
outputs on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors._contract import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["buckets", "cut", "isolate", "padded", "padded_size", "reason", "spans"]


def spans(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each slice, in order; the last one may be shorter."""
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def isolate(run: Callable[[int, int], None], start: int, stop: int, raised: Exception | None = None) -> dict[int, str]:
    """Runs the rows from start to stop, in halves where they fail; returns why for each that fails alone, by row.

    Args:
        run: Runs rows start to stop and keeps their outputs, or raises.
        start: First row.
        stop: One past the last row.
        raised: What a run of all of them has raised already, if there was one.

    Raises:
        ModelError: What run raises as such is no row's fault and goes on to the caller.
    """
    failed: dict[int, str] = {}
    waiting = [(start, stop)]
    while waiting:
        first, last = waiting.pop()
        try:
            if raised is not None:
                error, raised = raised, None
                raise error
            run(first, last)
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            if last - first == 1:
                failed[first] = reason(error)
            else:
                middle = (first + last) // 2
                # The left half is popped first, so that rows come out in order.
                waiting += [(middle, last), (first, middle)]
    return failed


def reason(error: Exception) -> str:
    """The message of an error in one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:499] + "…"


def buckets(slice_size: int) -> tuple[int, ...]:
    """The sizes that padded slices come in: powers of two below the slice size, and the slice size itself.

    Every new shape costs a device an algorithm search and memory that it does not give back, so there are few.
    """
    sizes = []
    size = 1
    while size < slice_size:
        sizes.append(size)
        size *= 2
    return (*sizes, slice_size)


def padded_size(rows: int, slice_size: int) -> int:
    """The smallest bucket that holds so many rows."""
    return min(1 << (rows - 1).bit_length(), slice_size)


def padded(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The array with its first row repeated at the end until the axis has this size."""
    missing = size - array.shape[axis]
    if missing == 0:
        return array
    return np.concatenate([array, np.repeat(cut(array, 0, 1, axis), missing, axis=axis)], axis=axis)


def cut(array: np.ndarray, start: int, stop: int, axis: int) -> np.ndarray:
    """Rows start to stop along an axis, without a copy."""
    return array[start:stop] if axis == 0 else array[(slice(None),) * axis + (slice(start, stop),)]
