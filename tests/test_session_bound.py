"""Sessions on bound memory: the way of a GPU, walked on the CPU with ONNX Runtime's own buffers."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_models
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from processors._contract import Contract, Tensor
from processors._cuda import Driver
from processors._lanes import bindable, settled
from processors._rows import BrokenModelError
from processors._runtime import DeviceMemory
from processors._session import Session
from processors._slices import buckets
from processors._ways import PLAIN, UNBOUND, Way

if TYPE_CHECKING:
    from collections.abc import Callable

PERCEPTRON = Contract(
    (Tensor("features", "float32", ("batch", 4)),),
    (Tensor("label", "int64", ("batch",)), Tensor("probabilities", "float32", ("batch", 3))),
)
TABLE = Contract((Tensor("index", "int64", ("batch",), values=(0, 99)),), (Tensor("square", "float32", ("batch",)),))

GRAPHS, OVERLAP, BOTH = Way(cuda_graphs=True), Way(overlap=True), Way(cuda_graphs=True, overlap=True)


class HostDriver(Driver):
    """Stands in for NVIDIA's driver on a machine without one: "device" addresses are the host's own."""

    def __init__(self) -> None:
        super().__init__(None)
        self.copies = 0

    def pinned(self, shape: Any, dtype: np.dtype) -> np.ndarray | None:
        return np.full(shape, 7, dtype)

    def to_device(self, array: np.ndarray, address: int) -> None:
        self.copies += 1
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def to_host(self, address: int, array: np.ndarray) -> None:
        self.copies += 1
        ctypes.memmove(array.ctypes.data, address, array.nbytes)


class TellingMemory(DeviceMemory):
    """The CPU's memory, which keeps what runs were told."""

    def __init__(self) -> None:
        super().__init__("cpu", shared=False)
        self.told: list[tuple[int | None, bool]] = []

    def run_options(self, graph: int | None, *, wait: bool) -> onnxruntime.RunOptions:
        self.told.append((graph, wait))
        return super().run_options(graph, wait=wait)


class StaleMemory(DeviceMemory):
    """Memory whose copies to the device do not arrive, as with a graph that was recorded at another address."""

    def __init__(self) -> None:
        super().__init__("cpu", shared=False)

    def put(self, array: np.ndarray, value: onnxruntime.OrtValue) -> None:
        pass


class RefusingMemory(DeviceMemory):
    """Memory of a device that has room for so many buffers."""

    def __init__(self, room: int) -> None:
        super().__init__("cpu", shared=False)
        self.left = room

    def value(self, array: np.ndarray) -> onnxruntime.OrtValue:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("Failed to allocate memory for requested buffer")
        return super().value(array)


MEMORIES: dict[str, Callable[[], DeviceMemory]] = {
    "shared": lambda: DeviceMemory("cpu"),
    "copied by the runtime": lambda: DeviceMemory("cpu", shared=False),
    "copied by the driver": lambda: DeviceMemory("cpu", shared=False, driver=HostDriver()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of this module are made."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def perceptron(folder: Path) -> onnxruntime.InferenceSession:
    """Two outputs of different type and shape."""
    return runtime(onnx_models.perceptron(folder / "perceptron.onnx"))


@pytest.fixture(scope="module")
def table(folder: Path) -> onnxruntime.InferenceSession:
    """Looks indexes below 100 up; any other raises."""
    return runtime(onnx_models.table(folder / "table.onnx"))


def runtime(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime's session on one thread, quiet."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def features(n: int) -> np.ndarray:
    """N rows that differ."""
    return np.random.default_rng(n).standard_normal((n, 4), dtype=np.float32)


# The same outputs


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    size=st.integers(1, 24),
    way=st.sampled_from([PLAIN, GRAPHS, OVERLAP, BOTH]),
    memory=st.sampled_from(sorted(MEMORIES)),
    pad=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_bound_runs_give_plain_runs_to_the_bit(
    perceptron: onnxruntime.InferenceSession, counts: list[int], size: int, way: Way, memory: str, pad: bool
) -> None:
    """Whatever the way, the memory and the micro-batches that came before, rows get what plain runs give them."""
    plain = Session(perceptron, PERCEPTRON, slice_size=size, pad=pad)
    bound = Session(perceptron, PERCEPTRON, slice_size=size, pad=pad, memory=MEMORIES[memory](), way=way)

    assert way == bound.way
    for n in counts:
        expected, _ = plain.run({"features": features(n)})
        actual, failed = bound.run({"features": features(n)})
        assert {} == failed
        for name, array in expected.items():
            np.testing.assert_array_equal(array, actual[name])


@given(
    indexes=st.lists(st.integers(-300, 300), max_size=80),
    size=st.integers(1, 24),
    way=st.sampled_from([PLAIN, OVERLAP]),
)
@settings(max_examples=40, deadline=None)
def test_poison_in_any_slice_stays_there(
    table: onnxruntime.InferenceSession, indexes: list[int], size: int, way: Way
) -> None:
    """Slices beside one that fails get their own outputs, also those that were under way with it."""
    session = Session(table, TABLE, slice_size=size, pad=True, memory=DeviceMemory("cpu", shared=False), way=way)
    outputs, failed = session.run({"index": np.array(indexes, np.int64)})

    good = [-100 <= index < 100 for index in indexes]
    assert [row for row, fine in enumerate(good) if not fine] == list(failed)
    expected = [float((i % 100) ** 2) if fine else 0.0 for i, fine in zip(indexes, good, strict=True)]
    assert expected == outputs["square"].tolist()


def test_results_that_somebody_holds_do_not_change(perceptron: onnxruntime.InferenceSession) -> None:
    """Neither what `run` returned nor what `run_together` did is a buffer that the next run writes to."""
    session = Session(perceptron, PERCEPTRON, slice_size=8, memory=DeviceMemory("cpu"), way=OVERLAP)
    first = {"features": features(30)}
    together, kept = session.run_together(first), session.run(first)[0]
    copies = {name: array.copy() for name, array in kept.items()}
    for n in (30, 31, 30):
        session.run({"features": features(n) + 1})
        session.run_together({"features": features(30) + n})

    for name, array in copies.items():
        np.testing.assert_array_equal(array, kept[name])
        np.testing.assert_array_equal(array, together[name])


def test_inputs_with_foreign_strides_and_without_rows_are_bound_too(folder: Path) -> None:
    """A view, and a scalar that goes whole to every run, arrive on the device as they are."""
    path = onnx_models.save(
        folder / "scaled.onnx",
        [helper.make_node("Mul", ["x", "by"], ["y"])],
        {"x": (onnx_models.FLOAT, ["batch", 4]), "by": (onnx_models.FLOAT, [])},
        {"y": (onnx_models.FLOAT, ["batch", 4])},
    )
    contract = Contract(
        (Tensor("x", "float32", ("batch", 4)), Tensor("by", "float32", ())), (Tensor("y", "float32", ("batch", 4)),)
    )
    session = Session(runtime(path), contract, slice_size=3, memory=DeviceMemory("cpu", shared=False), way=OVERLAP)
    x = np.asfortranarray(features(20))[::2]
    for by in (3, 4):
        outputs, _ = session.run({"x": x, "by": np.array(by, np.float32)})
        np.testing.assert_array_equal(by * x, outputs["y"])


def test_outputs_whose_shape_depends_on_values_are_not_given_fixed_room(folder: Path) -> None:
    """Where values decide the shape of an output, each run makes room anew, and no graph is recorded."""
    path = onnx_models.as_wide_as_values_differ(folder / "unique.onnx")
    contract = Contract((Tensor("x", "float32", ("batch",)),), (Tensor("y", "float32", ("batch", "different")),))
    session = Session(runtime(path), contract, slice_size=1, memory=DeviceMemory("cpu"), way=GRAPHS)

    assert not settled(contract)
    assert PLAIN == session.way
    assert (4, 2) == session.run_together({"x": np.array([1, 1, 2, 2], np.float32)})["y"].shape
    assert (4, 4) == session.run_together({"x": np.array([1, 3, 2, 4], np.float32)})["y"].shape
    assert UNBOUND == Session(runtime(path), contract, slice_size=4, memory=DeviceMemory("cpu")).way


def test_text_is_not_bound(folder: Path) -> None:
    """ONNX Runtime binds no strings; such a model runs unbound, also beside a GPU."""
    text = (onnx_models.STRING, ["batch"])
    path = onnx_models.save(
        folder / "text.onnx", [helper.make_node("Identity", ["t"], ["u"])], {"t": text}, {"u": text}
    )
    contract = Contract((Tensor("t", "string", ("batch",)),), (Tensor("u", "string", ("batch",)),))
    session = Session(runtime(path), contract, slice_size=2, memory=DeviceMemory("cpu"), way=BOTH)
    outputs, _ = session.run({"t": np.array(["a", "été", ""], dtype=object)})

    assert not bindable(contract)
    assert (UNBOUND, ["a", "été", ""]) == (session.way, outputs["u"].tolist())


# Ways


def test_every_bucket_of_every_lane_has_a_graph_of_its_own(perceptron: onnxruntime.InferenceSession) -> None:
    """ONNX Runtime would replay a graph for another shape; shapes that were not met at the start run without one."""
    memory = TellingMemory()
    session = Session(perceptron, PERCEPTRON, slice_size=8, pad=True, memory=memory, way=BOTH)
    recorded = [graph for graph, _ in memory.told if graph not in (None, -1)]

    assert BOTH == session.way
    assert 2 * len(buckets(8)) == len(recorded) == len(set(recorded))
    assert 0 not in recorded

    memory.told.clear()
    session.run({"features": features(20)})
    assert [] == memory.told
    session.run_together({"features": features(100)})
    session.run_together({"features": features(100)})
    assert {-1} == {graph for graph, _ in memory.told}


def test_the_order_of_the_inputs_makes_no_new_shape(folder: Path) -> None:
    """A processor that names its inputs in another order than the contract still gets the graphs of the warm-up."""
    end = (onnx_models.FLOAT, ["batch"])
    path = onnx_models.save(
        folder / "minus.onnx", [helper.make_node("Sub", ["a", "b"], ["c"])], {"a": end, "b": end}, {"c": end}
    )
    one = Tensor("a", "float32", ("batch",))
    contract = Contract((one, Tensor("b", "float32", ("batch",))), (Tensor("c", "float32", ("batch",)),))
    memory = TellingMemory()
    session = Session(runtime(path), contract, slice_size=8, memory=memory, way=GRAPHS)
    memory.told.clear()
    x = np.arange(8, dtype=np.float32)
    outputs, _ = session.run({"b": x, "a": 3 * x})

    assert [] == memory.told
    np.testing.assert_array_equal(2 * x, outputs["c"])


def test_only_overlapped_runs_return_before_they_are_done(perceptron: onnxruntime.InferenceSession) -> None:
    """Without overlap, every run waits for its results, as ONNX Runtime does by itself."""
    memory = TellingMemory()
    Session(perceptron, PERCEPTRON, slice_size=8, memory=memory, way=PLAIN)
    assert {(None, True)} == set(memory.told)

    Session(perceptron, PERCEPTRON, slice_size=8, memory=memory, way=OVERLAP)
    assert (None, False) in memory.told


def test_way_that_gives_other_outputs_is_not_used(
    perceptron: onnxruntime.InferenceSession, caplog: pytest.LogCaptureFixture
) -> None:
    """What raises nothing and is wrong is found before the first event; the log says what was not used and why."""
    session = Session(perceptron, PERCEPTRON, slice_size=8, memory=StaleMemory(), way=BOTH)
    outputs, _ = session.run({"features": features(20)})
    plain, _ = Session(perceptron, PERCEPTRON, slice_size=8).run({"features": features(20)})

    assert UNBOUND == session.way
    np.testing.assert_array_equal(plain["probabilities"], outputs["probabilities"])
    messages = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert [
        "model: CUDA graphs and overlapped copies not used: rows get other outputs than in plain runs",
        "model: CUDA graphs not used: rows get other outputs than in plain runs",
        "model: overlapped copies not used: rows get other outputs than in plain runs",
        "model: bound memory not used: rows get other outputs than in plain runs",
    ] == [message.partition(" (")[0] for message in messages]


def test_device_that_is_full_does_not_stop_the_start(
    perceptron: onnxruntime.InferenceSession, caplog: pytest.LogCaptureFixture
) -> None:
    """A second lane that there is no room for is a warning, and one lane does."""
    enough = RefusingMemory(1000)
    Session(perceptron, PERCEPTRON, slice_size=4, memory=enough)
    session = Session(perceptron, PERCEPTRON, slice_size=4, memory=RefusingMemory(1000 - enough.left), way=OVERLAP)

    assert UNBOUND == session.way
    assert any("overlapped copies not used: Failed to allocate" in record.getMessage() for record in caplog.records)
    assert {} == session.run({"features": features(20)})[1]


def test_device_that_fills_up_later_costs_no_row(perceptron: onnxruntime.InferenceSession) -> None:
    """A shape that there is no room for any more is run in smaller ones, whose buffers are there."""
    memory = RefusingMemory(1000)
    session = Session(perceptron, PERCEPTRON, slice_size=8, pad=True, memory=memory)
    plain = Session(perceptron, PERCEPTRON, slice_size=8, pad=True)
    session._rows.slice = plain._rows.slice = 32
    for left in range(5):
        memory.left = left
        outputs, failed = session.run({"features": features(90)})
        expected, _ = plain.run({"features": features(90)})

        assert {} == failed
        np.testing.assert_allclose(expected["probabilities"], outputs["probabilities"], rtol=1e-5)


def test_model_that_breaks_under_way_blames_no_row(table: onnxruntime.InferenceSession) -> None:
    """Where overlapped slices fail and a row that ran before does too, the device is gone."""
    session = Session(table, TABLE, slice_size=4, memory=DeviceMemory("cpu"), way=OVERLAP)

    def broken(feed: object) -> None:
        raise RuntimeError("CUDA error 700: an illegal memory access was encountered")

    for lane in session._rows.lanes:
        lane.fill = broken

    with pytest.raises(BrokenModelError, match="no row is at fault: CUDA error 700"):
        session.run({"index": np.arange(20)})


def test_buffers_are_few_and_those_of_the_measuring_are_given_back(perceptron: onnxruntime.InferenceSession) -> None:
    """One set per bucket and lane; shapes that come by later push the oldest out."""
    session = Session(perceptron, PERCEPTRON, slice_size=0, pad=True, memory=DeviceMemory("cpu"), way=OVERLAP)
    assert [len(buckets(session.slice))] * 2 == [lane.shapes for lane in session._rows.lanes]

    for n in range(1, 130):
        session.run_together({"features": features(n)})
    assert 64 == session._rows.lanes[0].shapes
