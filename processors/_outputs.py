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

# All of a call's rows in one slice of up to this many bytes are cheaper to copy than to find room for: allocators keep
# such sizes at hand. It is the size from which they ask the system (M_MMAP_THRESHOLD of malloc).
_SMALL = 128 * 1024


class OutputsError(ModelError, RuntimeError):
    """Slices of one call whose rows do not fit into one array."""


class Outputs:
    """The outputs of a model, as many rows as the call has.

    A buffer is reused only where its reference count shows that no array handed out earlier, nor any view of one,
    is still alive; so a result never changes under whoever kept it.
    """

    def __init__(self, name: str, tensors: Sequence[Tensor]) -> None:
        self._outputs = [_Output(name, tensor) for tensor in tensors]

    def begin(self, rows: int) -> None:
        """Starts a call with so many rows."""
        for output in self._outputs:
            output.rows, output.array = rows, None

    def keep(self, start: int, results: Sequence[np.ndarray]) -> None:
        """Copies the results of a slice to the rows from `start` on."""
        for output, result in zip(self._outputs, results, strict=True):
            # Spelt out for the first axis: a call per output and slice would be a share of small models' time.
            if output.array is not None and output.axis == 0 and result.shape[1:] == output.row_shape:
                output.array[start : start + result.shape[0]] = result
            else:
                output.keep(start, result)

    def finish(self, failed: Iterable[int]) -> Arrays:
        """The outputs of the call, with zeros (empty strings) in the rows that failed."""
        return {output.name: output.finish(failed) for output in self._outputs}


class _Output:
    """One output of a call, and the buffer that the next call may use again."""

    def __init__(self, model: str, tensor: Tensor) -> None:
        self.name = tensor.name
        self.axis = axis_of(tensor)
        self.rows = 0
        self.array: np.ndarray | None = None
        """The rows of the call; None until the first slice."""
        # Until a run has shown them, free axes count as empty.
        self.row_shape = _row_shape(tensor)
        self._model = model
        self._dtype = dtype_of(tensor)
        self._buffer: np.ndarray | None = None

    def keep(self, start: int, result: np.ndarray) -> None:
        """Copies a slice; the first one of a call shows the shape of a row."""
        axis = self.axis
        shape = (*result.shape[:axis], *result.shape[axis + 1 :]) if axis else result.shape[1:]
        if self.array is None:
            self.row_shape = shape
            if result.shape[axis] == self.rows and result.nbytes <= _SMALL:
                self.array = result.copy()
                if self._buffer is not None and not self._fits(len(self._buffer)):
                    self._buffer = None
                return
            self.array = self._room()
        elif shape != self.row_shape:
            raise OutputsError(
                f"{self._model}: rows of output {self.name!r} have shape {list(shape)} in one slice and "
                f"{list(self.row_shape)} in another, so they fit into no array; "
                "pad the inputs of a micro-batch to one length, or give the output a fixed shape in the model"
            )
        cut(self.array, start, start + result.shape[axis], axis)[...] = result

    def finish(self, failed: Iterable[int]) -> np.ndarray:
        """Hands the rows out."""
        array = self._room() if self.array is None else self.array
        self.array = None
        for row in failed:
            cut(array, row, row + 1, self.axis)[...] = "" if self._dtype.kind == "O" else 0
        return array

    def _room(self) -> np.ndarray:
        buffer, self._buffer = self._buffer, None
        # Two references: the variable here and getrefcount's argument. Each array made from it is one more.
        free = buffer is not None and self.axis == 0 and sys.getrefcount(buffer) == 2
        if buffer is None or not free or buffer.shape[1:] != self.row_shape or not self._fits(len(buffer)):
            axis = self.axis
            buffer = np.zeros((*self.row_shape[:axis], self.rows, *self.row_shape[axis:]), self._dtype)
        self._buffer = buffer
        return cut(buffer, 0, self.rows, self.axis)

    def _fits(self, room: int) -> bool:
        return self.rows <= room <= _SPARE * self.rows


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
