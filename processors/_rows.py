"""Any number of rows through a model that is only seen as a function of one slice. Pure.

A run that raises is halved until each poison row is alone. Whether rows or the runtime are at fault is settled by
running a row that is known to work: a device that died would otherwise turn every event into a dead letter.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from processors import _contract, _slices
from processors._contract import Contract, ContractError, Declared, ModelError, Tensor
from processors._lanes import Lane, stream
from processors._outputs import Outputs, axis_of, dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from processors import Arrays

__all__ = ["BrokenModelError", "Rows"]

# Made-up rows may be refused by a model (an index that is out of its table); then zeros and ones are tried.
_FILLS = (None, 0.0, 1.0)


class BrokenModelError(ModelError, RuntimeError):
    """The model fails on rows that it ran before: no row is at fault."""


class Rows:
    """Cuts rows into slices, runs them, and puts their outputs together.

    Args:
        run_once: One run of the model on a feed of inputs; the outputs in the order of the contract, or an exception.
        contract: What is fed and read.
        name: What errors call the model.
        slice_size: Rows of one run.
        fixed: Rows that the model insists on, if it does.
        pad: Whether short slices are padded to one of few sizes.
    """

    def __init__(
        self,
        run_once: Callable[[Arrays], list[np.ndarray]],
        contract: Contract,
        *,
        name: str,
        slice_size: int,
        fixed: int | None = None,
        pad: bool = False,
    ) -> None:
        self.slice = fixed or slice_size
        self.pad = pad or fixed is not None
        self.last_run_ms = 0.0
        self.failed_runs = 0
        """Runs that raised since the start, whole slices and their parts."""
        self.known_good: Arrays | None = None
        """One row that the model ran."""
        self.fixed = fixed
        """Rows that the model insists on, if it does."""
        self._fill: float | None = None
        self.run_once = run_once
        """One run, without a check of what is fed or comes out; what it returns may be used again by the next run."""
        self.lanes: Sequence[Lane] = ()
        """Where there are several, slices go through them in turn, one copied while another one runs."""
        self._contract = contract
        self._name = name
        self._inputs = [_Input(tensor) for tensor in contract.inputs]
        # Of the first input that counts rows: its name and the axis that does.
        self._counted = next((given.name, given.axis) for given in self._inputs if given.axis is not None)
        self._outputs = [(tensor.name, axis_of(tensor)) for tensor in contract.outputs]
        self._kept = Outputs(name, contract.outputs)

    def run(self, inputs: Arrays) -> tuple[Arrays, dict[int, str]]:
        """Runs n rows; see `Session.run`."""
        started = perf_counter()
        rows = self._count(inputs)
        self._kept.begin(rows)
        failed: dict[int, str] = {}
        spans: Iterable[tuple[int, int]] = _slices.spans(rows, self.slice)
        if len(self.lanes) > 1 and rows > self.slice:
            spans = self._stream(inputs, spans)
        for start, stop in spans:
            try:
                self._kept.keep(start, self._run_slice(inputs, start, stop))
            except ModelError:
                raise
            except Exception as error:  # ONNX Runtime's errors have no base of their own.
                self.failed_runs += 1
                failed |= self._isolate(inputs, start, stop, error)
        outputs = self._kept.finish(failed)
        if failed:
            self._settle()
        elif rows and self.known_good is None:
            self.known_good = {given.name: given.cut(inputs, 0, 1).copy() for given in self._inputs}
        self.last_run_ms = (perf_counter() - started) * 1000
        return outputs, failed

    def use_lanes(self, lanes: Sequence[Lane]) -> None:
        """Runs slices on these lanes from now on."""
        self.run_once, self.lanes = lanes[0], lanes

    def use_plain(self, run_once: Callable[[Arrays], list[np.ndarray]]) -> None:
        """Runs slices without lanes from now on."""
        self.run_once, self.lanes = run_once, ()

    def find_good(self) -> list[str]:
        """Looks for one made-up row that the model runs; the reasons against those tried, empty where one runs."""
        reasons = []
        for fill in _FILLS:
            row = _contract.sample(self._contract, 1, fill)
            try:
                results = self._run_slice(row, 0, 1)
            except ModelError:
                raise
            except Exception as error:
                reasons.append(_slices.reason(error))
                continue
            self._check(results)
            self.known_good, self._fill = row, fill
            return []
        return reasons

    def run_good(self, run_once: Callable[[Arrays], list[np.ndarray]]) -> None:
        """Runs the row that is known to work, if there is one; raises what the model raises."""
        if self.known_good is not None:
            run_once(self._feed(self.known_good, 0, 1))

    def made_up(self, rows: int) -> Arrays:
        """So many made-up rows of the kind that `find_good` found to run."""
        return _contract.sample(self._contract, rows, self._fill)

    def run_together(self, inputs: Arrays) -> Arrays:
        """One run of all rows as they are, neither cut nor padded; raises what the model raises."""
        results = self._checked(self.run_once(inputs), self._count(inputs))
        return {name: result.copy() for (name, _), result in zip(self._outputs, results, strict=True)}

    def run_slice(self, inputs: Arrays, start: int, stop: int) -> Arrays:
        """Some rows as one slice, with all that `run` does for one; raises what the model raises."""
        usual, self.slice = self.slice, self.fixed or stop - start
        try:
            self._kept.begin(stop - start)
            self._kept.keep(0, self._run_slice(inputs, start, stop))
            return self._kept.finish(())
        finally:
            self.slice = usual

    def run_alone(self, inputs: Arrays) -> Arrays:
        """Runs row by row, whatever the slice size; rows that fail hold zeros."""
        usual, self.slice = self.slice, self.fixed or 1
        try:
            return self.run(inputs)[0]
        finally:
            self.slice = usual

    def _isolate(self, inputs: Arrays, start: int, stop: int, raised: Exception) -> dict[int, str]:
        """Which rows of a slice fail also alone, and why; the others get their outputs."""

        def run_rows(first: int, last: int) -> None:
            try:
                self._kept.keep(first, self._run_slice(inputs, first, last))
            except Exception:
                self.failed_runs += 1
                raise

        return _slices.isolate(run_rows, start, stop, raised)

    def _stream(self, inputs: Arrays, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Runs slices through the lanes; those that raised, to be run one by one."""

        def keep(span: tuple[int, int], results: list[np.ndarray]) -> None:
            rows = span[1] - span[0]
            self._kept.keep(span[0], self._trimmed(results, rows, self._size(rows)))

        failed = stream(self.lanes, spans, lambda span: self._feed(inputs, *span), keep)
        self.failed_runs += len(failed)
        return failed

    def _run_slice(self, inputs: Arrays, start: int, stop: int) -> list[np.ndarray]:
        rows = stop - start
        results = self.run_once(self._feed(inputs, start, stop))
        return self._trimmed(results, rows, self._size(rows)) if self.pad else self._checked(results, rows)

    def _size(self, rows: int) -> int:
        """Rows that a run of so many has, those that only fill it up included."""
        return (self.fixed or _slices.padded_size(rows, self.slice)) if self.pad else rows

    def _feed(self, inputs: Arrays, start: int, stop: int) -> Arrays:
        name, axis = self._counted
        if start == 0 and not self.pad and stop == inputs[name].shape[axis]:
            return inputs
        # Spelt out for the first axis: a call per input and slice would be a share of small models' time.
        feed = {
            given.name: inputs[given.name][start:stop] if given.axis == 0 else given.cut(inputs, start, stop)
            for given in self._inputs
        }
        if self.pad:
            size = self._size(stop - start)
            feed = {given.name: given.padded(feed[given.name], size) for given in self._inputs}
        return feed

    def _trimmed(self, results: list[np.ndarray], rows: int, size: int) -> list[np.ndarray]:
        """The results of the rows, without those that only filled the run up."""
        self._checked(results, size)
        if size == rows:
            return results
        return [_slices.cut(result, 0, rows, axis) for (_, axis), result in zip(self._outputs, results, strict=True)]

    def _checked(self, results: list[np.ndarray], rows: int) -> list[np.ndarray]:
        for (name, axis), result in zip(self._outputs, results, strict=True):
            shape = result.shape
            if len(shape) <= axis or shape[axis] != rows:
                raise ContractError(
                    f"{self._name}: output {name!r} has shape {list(shape)} for {rows} rows: "
                    f"its axis {axis} is declared `batch` and does not count rows"
                )
        return results

    def _settle(self) -> None:
        """Raises where a row that ran before fails too."""
        try:
            self.run_good(self.run_once)
        except Exception as error:
            raise BrokenModelError(
                f"{self._name}: the model fails also on a row that it ran before, so no row is at fault: "
                f"{_slices.reason(error)}; restart this process, and see `headrace doctor` if that does not help"
            ) from error

    def _count(self, inputs: Arrays) -> int:
        """The number of rows, where the arrays are those declared."""
        rows = -1
        for given in self._inputs:
            array = inputs.get(given.name)
            if not isinstance(array, np.ndarray) or not given.fits(array):
                raise ContractError(self._bad(inputs))
            if given.axis is not None:
                if rows not in (-1, array.shape[given.axis]):
                    raise ContractError(self._bad(inputs))
                rows = array.shape[given.axis]
        if len(inputs) != len(self._inputs):
            raise ContractError(self._bad(inputs))
        return rows

    def _bad(self, inputs: Arrays) -> str:
        got = ", ".join(f"{name} {_described(array)}" for name, array in inputs.items())
        wanted = ", ".join(f"{tensor.name} {tensor.describe()}" for tensor in self._contract.inputs)
        return f"{self._name}: inputs are {got or 'missing'}; declared are {wanted}. This is a bug of the processor."

    def _check(self, results: list[np.ndarray]) -> None:
        """A file may declare nothing, or not the truth: what counts is what comes out."""
        got = [_seen(*pair) for pair in zip(self._contract.outputs, results, strict=True)]
        found = _contract.differences("output", self._contract.outputs, got)
        if found:
            raise ContractError(f"a run of {self._name} differs from its contract:\n  " + "\n  ".join(found))


def _described(value: object) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


class _Input:
    """One declared input, with what a call needs of it at hand."""

    def __init__(self, tensor: Tensor) -> None:
        self.name = tensor.name
        self.axis = tensor.batch_axis
        self._dtype = dtype_of(tensor)
        self._rank = len(tensor.shape)
        self._fixed = [(axis, size) for axis, size in enumerate(tensor.shape) if isinstance(size, int)]

    def fits(self, array: np.ndarray) -> bool:
        """Whether the array has the declared type, rank and fixed axes."""
        if array.ndim != self._rank or (array.dtype != self._dtype and not self._both_strings(array)):
            return False
        return all(array.shape[axis] == size for axis, size in self._fixed)

    def cut(self, inputs: Arrays, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, or the whole of what has no rows."""
        array = inputs[self.name]
        return array if self.axis is None else _slices.cut(array, start, stop, self.axis)

    def padded(self, array: np.ndarray, size: int) -> np.ndarray:
        """As many rows as asked for, the first one repeated."""
        return array if self.axis is None else _slices.padded(array, size, self.axis)

    def _both_strings(self, array: np.ndarray) -> bool:
        return self._dtype.kind == "O" and array.dtype.kind == "U"


def _seen(tensor: Tensor, result: np.ndarray) -> Declared:
    """What a run gave, with the words of the declaration for the axes that it leaves free."""
    dtype = "string" if result.dtype.kind in "OU" else result.dtype.name
    words = tensor.shape if result.ndim == len(tensor.shape) else (0,) * result.ndim
    shape = [word if isinstance(word, str) else size for word, size in zip(words, result.shape, strict=True)]
    return Declared(tensor.name, dtype, tuple(shape))
