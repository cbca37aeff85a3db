"""Buffers that are bound to a session, one set per shape and lane, and how slices go through two lanes at once. Pure.

Theory. A run on a device is four steps: copy rows in, launch, wait, copy results out. Each step has a function here, so
that one slice may be copied while another one runs: copies go through the default stream and kernels through the
session's own (ONNX Runtime makes it non-blocking), and the launch returns at once where the run is asked not to
synchronise. A lane owns its buffers, so what is copied is never what runs. Waiting waits for the whole device, so it
comes before the next launch; the order is fill(i+1), wait(i), launch(i+1), fetch(i).

A CUDA graph is recorded against addresses, so its inputs and outputs must be these buffers. Each bucket of each lane
has an id of its own: ONNX Runtime does not look whether a replay fits the shapes. Shapes that were not met before the
first event run without a graph. A graph belongs to the thread that recorded it, and so does a session.

On the CPU the same code runs on the same buffers, and every step is done when it returns.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from processors._contract import BATCH, ModelError
from processors._outputs import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from processors import Arrays
    from processors._contract import Contract, Tensor

__all__ = ["Lane", "Memory", "bindable", "lanes", "settled", "stream"]

# Shapes that a lane keeps buffers for; slices come in few shapes by design.
_SHAPES = 64

# ONNX Runtime's id of a run that neither records nor replays.
NO_GRAPH = -1

Span = tuple[int, int]


class Memory(Protocol):
    """Where buffers lie, and how a run is told what to do; `processors._runtime` has ONNX Runtime's."""

    device: str
    device_id: int

    def host(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """A buffer on the host's side."""

    def value(self, array: np.ndarray) -> Any:
        """A buffer on the device with this content."""

    def put(self, array: np.ndarray, value: Any) -> None:
        """Copies to the device."""

    def get(self, value: Any, array: np.ndarray) -> None:
        """Copies from the device."""

    def run_options(self, graph: int | None, *, wait: bool) -> Any:
        """Options of a run: the id of its graph, and whether it returns when its results are there."""


def bindable(contract: Contract) -> bool:
    """Whether buffers can be bound: ONNX Runtime binds no text."""
    return all(tensor.dtype != "string" for tensor in (*contract.inputs, *contract.outputs))


def settled(contract: Contract) -> bool:
    """Whether the shapes of the inputs settle those of the outputs, so that room for them can be kept."""
    known = {axis for tensor in contract.inputs for axis in tensor.shape} | {BATCH}
    return all(isinstance(axis, int) or axis in known for tensor in contract.outputs for axis in tensor.shape)


def lanes(runtime: Any, contract: Contract, memory: Memory, number: int, *, graphs: bool = False) -> tuple[Lane, ...]:
    """So many lanes of a session.

    Args:
        runtime: ONNX Runtime's session.
        contract: What is fed and read.
        memory: Where the buffers lie.
        number: Of lanes; with more than one, launches do not wait.
        graphs: Whether the session was made for CUDA graphs.
    """
    graph_ids = count(1) if graphs else None
    return tuple(Lane(runtime, contract, memory, graph_ids, wait=number == 1) for _ in range(number))


class Lane:
    """One set of buffers per shape; called with a feed it runs all four steps."""

    def __init__(
        self, runtime: Any, contract: Contract, memory: Memory, graph_ids: Iterator[int] | None, *, wait: bool
    ) -> None:
        self._runtime = runtime
        self._memory = memory
        self._names = [tensor.name for tensor in contract.inputs]
        self._tensors = contract.outputs
        self._settled = settled(contract)
        self._graph_ids = graph_ids
        self._wait = wait
        self._bound: OrderedDict[tuple[Any, ...], _Bound] = OrderedDict()
        self._at: _Bound | None = None
        self.recording = False
        """Whether shapes that come now get a graph; so during the warm-up, and never after it."""

    def __call__(self, feed: Arrays) -> list[np.ndarray]:
        """The results of one run; they stay until this lane's next one."""
        self.fill(feed)
        self.launch()
        self.wait()
        return self.fetch()

    def fill(self, feed: Arrays) -> None:
        """Copies rows to the device, while another lane may run."""
        key = tuple((feed[name].shape, feed[name].dtype.str) for name in self._names)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = _Bound(self._runtime, self._memory, self._tensors, feed, self._options(None))
            if len(self._bound) > _SHAPES:
                self._drop_oldest()
        else:
            self._bound.move_to_end(key)
            bound.fill(feed)
        self._at = bound

    def launch(self) -> None:
        """Starts the run."""
        self._current.launch()

    def wait(self) -> None:
        """Returns when the run is over; raises what went wrong in it."""
        self._current.wait()

    def fetch(self) -> list[np.ndarray]:
        """Copies results from the device, while another lane may run; they stay until this lane's next run."""
        bound = self._current
        results = bound.fetch()
        if self._settled and bound.results is None:
            graph = next(self._graph_ids) if self.recording and self._graph_ids is not None else None
            bound.keep_outputs(results, self._options(graph))
            bound.recorded = graph is not None
        return results

    def forget(self) -> None:
        """Lets go of all buffers but those that a graph was recorded with."""
        for key in [key for key, bound in self._bound.items() if not bound.recorded]:
            del self._bound[key]
        self._at = None

    @property
    def shapes(self) -> int:
        """Shapes that buffers are kept for."""
        return len(self._bound)

    def _drop_oldest(self) -> None:
        oldest = next((key for key, bound in self._bound.items() if not bound.recorded), None)
        if oldest is not None:
            del self._bound[oldest]

    @property
    def _current(self) -> _Bound:
        assert self._at is not None, "a lane is filled first"
        return self._at

    def _options(self, graph: int | None) -> Any:
        no_graph = None if self._graph_ids is None else NO_GRAPH
        return self._memory.run_options(no_graph if graph is None else graph, wait=self._wait)


class _Bound:
    """The buffers of one shape, bound once."""

    def __init__(self, runtime: Any, memory: Memory, tensors: Sequence[Tensor], feed: Arrays, run_options: Any) -> None:
        self._runtime = runtime
        self._memory = memory
        self._tensors = tensors
        self._options = run_options
        self._staging = {name: memory.host(array.shape, array.dtype) for name, array in feed.items()}
        for name, array in feed.items():
            np.copyto(self._staging[name], array)
        self._inputs = {name: memory.value(array) for name, array in self._staging.items()}
        self._outputs: list[Any] = []
        self.recorded = False
        """Whether its runs are replays of a graph."""
        self.results: list[np.ndarray] | None = None
        """Host buffers of the outputs, once a run has shown their shapes."""
        self._binding = runtime.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)

    def fill(self, feed: Arrays) -> None:
        for name, array in feed.items():
            np.copyto(self._staging[name], array)
            self._memory.put(self._staging[name], self._inputs[name])

    def launch(self) -> None:
        if self.results is None:
            # Bound anew each time: what a run allocated would be the room for the next one, whatever its shape.
            for tensor in self._tensors:
                self._binding.bind_output(tensor.name, self._memory.device, self._memory.device_id)
        self._runtime.run_with_iobinding(self._binding, self._options)

    def wait(self) -> None:
        self._binding.synchronize_outputs()

    def fetch(self) -> list[np.ndarray]:
        if self.results is None:
            copies: list[np.ndarray] = self._binding.copy_outputs_to_cpu()
            return copies
        for value, array in zip(self._outputs, self.results, strict=True):
            self._memory.get(value, array)
        return self.results

    def keep_outputs(self, shown: Sequence[np.ndarray], run_options: Any) -> None:
        """Room for outputs of the shapes that a run has shown; with a graph's id, the next run records it."""
        # All room is made before any of it is bound: a device that is full leaves things as they were.
        arrays = [
            self._memory.host(result.shape, dtype_of(tensor))
            for tensor, result in zip(self._tensors, shown, strict=True)
        ]
        values = [self._memory.value(array) for array in arrays]
        for tensor, value in zip(self._tensors, values, strict=True):
            self._binding.bind_ortvalue_output(tensor.name, value)
        self.results, self._outputs, self._options = arrays, values, run_options


def stream(
    lanes: Sequence[Lane],
    spans: Iterable[Span],
    feed_of: Callable[[Span], Arrays],
    keep: Callable[[Span, list[np.ndarray]], None],
) -> list[Span]:
    """Sends slices through the lanes in turn, so that copying one overlaps running another.

    Args:
        lanes: At least two.
        spans: The slices.
        feed_of: The inputs of a slice.
        keep: Takes the results of a slice; they are the lane's own buffers.

    Returns:
        The slices in which something was raised, for another way of running them.

    Raises:
        ModelError: What is no row's fault; nothing runs any more then.
    """
    failed: list[Span] = []
    running: _Step | None = None
    try:
        for turn, span in enumerate(spans):
            coming = _Step(span, lanes[turn % len(lanes)])
            coming.fill(feed_of)
            if running is not None:
                running.wait()
            coming.launch()
            finished, running = running, coming
            if finished is not None and not finished.fetch(keep):
                failed.append(finished.span)
        if running is not None:
            finished, running = running, None
            finished.wait()
            if not finished.fetch(keep):
                failed.append(finished.span)
    finally:
        if running is not None:
            running.wait()
    return failed


class _Step:
    """A slice on its way through a lane; after a step that raised, the others are left out."""

    def __init__(self, span: Span, lane: Lane) -> None:
        self.span = span
        self._lane = lane
        self._fine = True

    def fill(self, feed_of: Callable[[Span], Arrays]) -> None:
        self._attempt(lambda: self._lane.fill(feed_of(self.span)))

    def launch(self) -> None:
        self._attempt(self._lane.launch)

    def wait(self) -> None:
        self._attempt(self._lane.wait)

    def fetch(self, keep: Callable[[Span, list[np.ndarray]], None]) -> bool:
        """Whether the slice got through."""
        self._attempt(lambda: keep(self.span, self._lane.fetch()))
        return self._fine

    def _attempt(self, step: Callable[[], None]) -> None:
        if not self._fine:
            return
        try:
            step()
        except ModelError:
            raise
        except Exception:  # ONNX Runtime's errors have no base of their own.
            self._fine = False
