"""Room for the outputs of one call: filled slice by slice, reused by the next call where nobody holds it. Pure."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from processors._contract import BATCH, ContractError, ModelError, Tensor
from processors._slices import cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from processors import Arrays

__all__ = ["Outputs", "OutputsError", "axis_of", "dtype_of"]

# A buffer this many times larger than needed is let go, so that one large micro-batch does not stay for ever.
_SPARE = 4


class OutputsError(ModelError, RuntimeError):
    """Slices of one call whose rows do not fit into one array."""


class Outputs:
    """The outputs of a model, as many rows as the call has.

    A buffer is reused only where its reference count shows that no array handed out earlier, nor any view of one,
    is still alive; so a result never changes under whoever kept it.
    """

    def __init__(self, name: str, tensors: Sequence[Tensor]) -> None:
        self._name = name
        self._tensors = [(tensor.name, axis_of(tensor), dtype_of(tensor)) for tensor in tensors]
        # Until a run has shown them, free axes count as empty.
        self._row_shapes = {tensor.name: _row_shape(tensor) for tensor in tensors}
        self._buffers: Arrays = {}
        self._arrays: Arrays = {}
        self._rows = 0

    def begin(self, rows: int) -> None:
        """Starts a call with so many rows."""
        self._rows = rows
        self._arrays = {}

    def keep(self, start: int, results: Sequence[np.ndarray]) -> None:
        """Copies the results of a slice to the rows from `start` on."""
        for (name, axis, dtype), result in zip(self._tensors, results, strict=True):
            shape = result.shape[1:] if axis == 0 else (*result.shape[:axis], *result.shape[axis + 1 :])
            if name not in self._arrays:
                self._row_shapes[name] = shape
                self._arrays[name] = self._room(name, axis, dtype)
            elif shape != self._row_shapes[name]:
                raise OutputsError(
                    f"{self._name}: rows of output {name!r} have shape {list(shape)} in one slice and "
                    f"{list(self._row_shapes[name])} in another, so they fit into no array; "
                    "pad the inputs of a micro-batch to one length, or give the output a fixed shape in the model"
                )
            cut(self._arrays[name], start, start + result.shape[axis], axis)[...] = result

    def finish(self, failed: Iterable[int]) -> Arrays:
        """The outputs of the call, with zeros (empty strings) in the rows that failed."""
        arrays, self._arrays = self._arrays, {}
        for name, axis, dtype in self._tensors:
            if name not in arrays:
                arrays[name] = self._room(name, axis, dtype)
            for row in failed:
                cut(arrays[name], row, row + 1, axis)[...] = "" if dtype.kind == "O" else 0
        return arrays

    def _room(self, name: str, axis: int, dtype: np.dtype) -> np.ndarray:
        buffer = self._buffers.pop(name, None)
        row_shape = self._row_shapes[name]
        # Two references: the variable here and getrefcount's argument. Each array made from it is one more.
        free = buffer is not None and axis == 0 and sys.getrefcount(buffer) == 2
        if buffer is None or not free or buffer.shape[1:] != row_shape or not self._fits(len(buffer)):
            buffer = np.zeros((*row_shape[:axis], self._rows, *row_shape[axis:]), dtype)
        self._buffers[name] = buffer
        return cut(buffer, 0, self._rows, axis)

    def _fits(self, room: int) -> bool:
        return self._rows <= room <= _SPARE * self._rows


def axis_of(tensor: Tensor) -> int:
    """The axis of an output that counts rows."""
    axis = tensor.batch_axis
    if axis is None:
        raise ContractError(f"output {tensor.name!r} has no {BATCH!r} axis")
    return axis


def dtype_of(tensor: Tensor) -> np.dtype:
    """NumPy's type of a tensor; strings are objects."""
    return np.dtype(object if tensor.dtype == "string" else tensor.dtype)


def _row_shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else 0 for axis in tensor.shape if axis != BATCH)
