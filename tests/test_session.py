"""Sessions on real ONNX Runtime: slices, poison rows, fixed batch axes."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_models
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from sessions import CPU, DOUBLING, contract, open_model, rows

from processors._contract import ModelError
from processors._rows import BrokenModelError, Rows
from processors._session import Session
from processors._slices import buckets, isolate, padded_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of this module are made."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def doubling(folder: Path) -> Path:
    """`y = 2 x`."""
    return onnx_models.doubling(folder / "doubling.onnx")


@pytest.fixture(scope="module")
def table(folder: Path) -> Session:
    """Looks indexes below 100 up; any other raises."""
    return open_model(onnx_models.table(folder / "table.onnx"), slice=16)


# Rows and slices


@given(n=st.integers(0, 60), size=st.integers(1, 70), pad=st.booleans())
@settings(max_examples=60, deadline=None)
def test_slices_equal_whole(doubling: Path, n: int, size: int, pad: bool) -> None:
    """Whatever the slice size, padded or not, rows get what one run of all would give."""
    runtime = onnxruntime.InferenceSession(doubling, providers=list(CPU))
    session = Session(runtime, DOUBLING, slice_size=size, pad=pad)
    x = rows(n)
    outputs, failed = session.run({"x": x})

    assert {} == failed
    assert ["y"] == list(outputs)
    np.testing.assert_array_equal(x + x, outputs["y"])


def test_no_rows_give_empty_outputs_of_the_right_shape_and_type(folder: Path) -> None:
    """An empty micro-batch is no special case for the caller."""
    session = open_model(onnx_models.perceptron(folder / "perceptron_empty.onnx"))
    outputs, failed = session.run({"features": np.zeros((0, 4), np.float32)})

    assert {} == failed
    assert {"label": ((0,), "int64"), "probabilities": ((0, 3), "float32")} == {
        name: (array.shape, array.dtype.name) for name, array in outputs.items()
    }


def test_outputs_that_somebody_holds_never_change(doubling: Path) -> None:
    """A result, or a view of one, outlives later calls; a buffer that nobody holds is used again."""
    session = open_model(doubling)
    first = rows(20)
    kept = session.run({"x": first})[0]["y"]
    view = session.run({"x": first})[0]["y"][3:5, 1:][1]
    for _ in range(5):
        session.run({"x": rows(20) + 1})

    np.testing.assert_array_equal(2 * first, kept)
    np.testing.assert_array_equal(2 * first[4, 1:], view)

    address = session.run({"x": first})[0]["y"].ctypes.data
    assert address == session.run({"x": first})[0]["y"].ctypes.data


def test_large_micro_batch_does_not_stay_in_memory(doubling: Path) -> None:
    """After a micro-batch much smaller than the last one, its large buffer is gone."""
    session = open_model(doubling, slice=4096)
    session.run({"x": rows(20_000)})
    assert 20_000 == len(session.run({"x": rows(20_000)})[0]["y"].base)
    outputs, _ = session.run({"x": rows(10)})

    assert outputs["y"].base is None
    assert [None] == [output._buffer for output in session._rows._kept._outputs]


def test_nan_and_infinity_pass_and_stay_in_their_rows(doubling: Path) -> None:
    """Missing values are the model's business; neighbours do not notice."""
    x = rows(20)
    x[3, 1], x[11, 0] = np.nan, np.inf
    outputs, failed = open_model(doubling).run({"x": x})

    assert {} == failed
    np.testing.assert_array_equal(2 * x, outputs["y"])


def test_views_and_foreign_strides_are_taken(doubling: Path) -> None:
    """Inputs need not lie in memory in their own order."""
    x = np.asfortranarray(rows(20))[::2]
    outputs, _ = open_model(doubling).run({"x": x})

    np.testing.assert_array_equal(2 * x, outputs["y"])


def test_strings_go_in_and_come_out(folder: Path) -> None:
    """Text is an array of objects."""
    text = (onnx_models.STRING, ["batch"])
    path = onnx_models.save(
        folder / "text.onnx", [helper.make_node("Identity", ["t"], ["u"])], {"t": text}, {"u": text}
    )
    outputs, _ = open_model(path, slice=2).run({"t": np.array(["a", "été", ""], dtype=object)})

    assert ["a", "été", ""] == outputs["u"].tolist()


def test_input_without_rows_goes_whole_to_every_run(folder: Path) -> None:
    """A scalar beside the rows, such as a sample rate, is not cut."""
    path = onnx_models.save(
        folder / "scaled.onnx",
        [helper.make_node("Mul", ["x", "by"], ["y"])],
        {"x": (onnx_models.FLOAT, ["batch"]), "by": (onnx_models.FLOAT, [])},
        {"y": (onnx_models.FLOAT, ["batch"])},
    )
    expects = contract([("x", "float32", ["batch"]), ("by", "float32", [])], [("y", "float32", ["batch"])])
    outputs, _ = open_model(path, expects=expects, slice=3).run(
        {"x": np.arange(10, dtype=np.float32), "by": np.array(3, np.float32)}
    )

    assert [3.0 * i for i in range(10)] == outputs["y"].tolist()


def test_rows_may_be_counted_on_another_axis(folder: Path) -> None:
    """Recurrent states have their batch axis in the middle."""
    end = (onnx_models.FLOAT, [2, "batch", 3])
    path = onnx_models.save(folder / "state.onnx", [helper.make_node("Neg", ["h"], ["g"])], {"h": end}, {"g": end})
    shape = [2, "batch", 3]
    session = open_model(path, expects=contract([("h", "float32", shape)], [("g", "float32", shape)]), slice=4)
    h = np.random.default_rng(0).standard_normal((2, 11, 3), dtype=np.float32)

    np.testing.assert_array_equal(-h, session.run({"h": h})[0]["g"])


def test_slices_that_do_not_fit_together_are_an_error_of_ours(folder: Path) -> None:
    """Rows whose length depends on their slice cannot become one array, and no row is blamed for it."""
    path = onnx_models.as_wide_as_values_differ(folder / "unique.onnx")
    session = Session(
        onnxruntime.InferenceSession(path, providers=list(CPU)),
        contract([("x", "float32", ["batch"])], [("y", "float32", ["batch", "different"])]),
        slice_size=2,
    )

    with pytest.raises(ModelError, match=r"'y' have shape \[2\] in one slice and \[1\] in another"):
        session.run({"x": np.array([1, 1, 2, 3], np.float32)})


# Poison rows


@pytest.mark.parametrize(
    "poison", [{0}, {39}, {0, 39}, {7, 8}, {15, 16}, {3, 4, 5, 6}, set(range(16)), set(range(40)), set()]
)
def test_poison_rows_fail_alone(table: Session, poison: set[int]) -> None:
    """Exactly the rows that the model cannot run fail, with a reason; they hold zeros, all others their outputs."""
    index = np.arange(40)
    index[list(poison)] = 5000
    outputs, failed = table.run({"index": index})

    assert sorted(poison) == list(failed)
    assert all("indices element out of data bounds" in why for why in failed.values())
    assert [0.0 if i in poison else float(i * i) for i in range(40)] == outputs["square"].tolist()


@given(st.lists(st.integers(-300, 300), max_size=80), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_poison_is_found(table: Session, indexes: list[int], size: int) -> None:
    """For any rows and slice, those fail that the model refuses alone."""
    session = Session(table._runtime, table.contract, slice_size=size)
    outputs, failed = session.run({"index": np.array(indexes, np.int64)})

    good = [-100 <= index < 100 for index in indexes]
    assert [row for row, fine in enumerate(good) if not fine] == list(failed)
    assert [float((i % 100) ** 2) if fine else 0.0 for i, fine in zip(indexes, good, strict=True)] == outputs[
        "square"
    ].tolist()


def test_zeros_of_failed_rows_are_not_what_an_earlier_call_left(table: Session) -> None:
    """A reused buffer does not shine through a failed row."""
    table.run({"index": np.full(10, 9)})
    outputs, failed = table.run({"index": np.array([1, 5000, 2] + [3] * 7)})

    assert [1] == list(failed)
    assert 0.0 == outputs["square"][1]


@pytest.mark.parametrize(("size", "poison"), [(1024, 1), (1024, 1024)])
def test_finding_poison_takes_few_runs(size: int, poison: int) -> None:
    """One poison row costs about two runs per halving; all of them never more than 2 n - 1."""
    runs = 0

    def run(start: int, stop: int) -> None:
        nonlocal runs
        runs += 1
        if start < poison:
            raise ValueError("poison")

    failed = isolate(run, 0, size)

    assert poison == len(failed)
    assert runs == (2 * 10 + 1 if poison == 1 else 2 * size - 1)


def test_model_that_breaks_blames_no_row() -> None:
    """Where a row that ran before fails too, the device or the runtime is gone: no event becomes a dead letter."""
    broken = False

    def run_once(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        if broken:
            raise RuntimeError("CUDA error 700: an illegal memory access was encountered")
        return [feed["x"]]

    executed = Rows(run_once, DOUBLING, name="m@1", slice_size=4)
    executed.run({"x": rows(5)})
    broken = True

    with pytest.raises(BrokenModelError, match=r"m@1: .* no row is at fault: CUDA error 700"):
        executed.run({"x": rows(5)})


def test_reasons_are_one_line_of_bounded_length() -> None:
    """What becomes part of a dead letter does not grow with what the model was fed."""

    def run(start: int, stop: int) -> None:
        raise ValueError("first\n  second " + "x" * 5000)

    why = isolate(run, 0, 1)[0]

    assert why.startswith("first second xxx")
    assert 500 == len(why)


# Batch axes that are fixed


def test_batch_of_one_runs_one_by_one_and_says_how_to_change_that(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that declares a batch of 1 works for any number of rows, slowly, and the warning names the tool."""
    session = open_model(onnx_models.doubling(folder / "one.onnx", batch=1), slice=0)
    x = rows(5)
    outputs, failed = session.run({"x": x})

    assert ({}, 1, 1) == (failed, session.slice, session.fixed_batch)
    np.testing.assert_array_equal(2 * x, outputs["y"])
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 1 == len(warnings)
    assert "one.onnx" in warnings[0]
    assert "headrace models dynamic" in warnings[0]


def test_batch_of_four_is_filled_up(folder: Path) -> None:
    """A file that declares a batch of 4 gets 4 rows each time, and gives back those that were asked for."""
    session = open_model(onnx_models.doubling(folder / "four.onnx", batch=4))
    x = rows(10)
    outputs, failed = session.run({"x": x})

    assert ({}, 4) == (failed, session.slice)
    np.testing.assert_array_equal(2 * x, outputs["y"])


def test_padding_comes_in_few_sizes() -> None:
    """Devices see powers of two below the slice size, and the slice size."""
    assert (1, 2, 4, 8, 16, 24) == buckets(24)
    assert (1,) == buckets(1)
    assert {padded_size(n, 24) for n in range(1, 25)} == set(buckets(24))
    assert all(padded_size(n, 24) >= n for n in range(1, 25))


def test_file_that_promises_any_number_of_rows_and_fails_runs_one_by_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that hides in a constant is found at the start, not by halving every micro-batch."""
    path = onnx_models.save(
        folder / "promise.onnx",
        [helper.make_node("Reshape", ["x", "three"], ["f"]), helper.make_node("Reshape", ["f", "one_by_three"], ["y"])],
        {"x": (onnx_models.FLOAT, ["batch", 3])},
        {"y": (onnx_models.FLOAT, ["batch", 3])},
        {"three": np.array([3]), "one_by_three": np.array([1, 3])},
    )
    session = open_model(path)
    x = rows(7)
    outputs, failed = session.run({"x": x})

    assert (1, {}, 0) == (session.slice, failed, session.failed_runs)
    np.testing.assert_array_equal(x, outputs["y"])
    assert any("rows together fail although its file promises" in record.getMessage() for record in caplog.records)


def test_rows_that_influence_each_other_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where an answer depends on which events share a run, an auditor would ask; we say it first."""
    end = (onnx_models.FLOAT, ["batch", 3])
    path = onnx_models.save(
        folder / "normalised.onnx",
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        {"x": end},
        {"y": end},
    )
    open_model(path)

    assert any("a row's output depends on the rows that share its run (y by" in r.getMessage() for r in caplog.records)
    caplog.clear()
    open_model(path, slice=1)
    assert [] == caplog.records


def test_session_tells_metadata_and_time(doubling: Path) -> None:
    """What exporters put into `metadata_props` is there, and so is what the last call took."""
    session = open_model(doubling)

    assert {"colour": "blue"} == session.metadata
    assert "headrace-tests" == session.producer
    assert 0.0 == session.last_run_ms
    session.run({"x": rows(100)})
    assert session.last_run_ms > 0
    assert {"CPUExecutionProvider": 1} == session.placement()


@pytest.mark.parametrize(
    ("file", "fixed"),
    [
        ("sentiment/sst2_cnn.onnx", None),
        ("sensors/skab_ae.onnx", None),
        ("recommendation/puresvd64.onnx", None),
        ("face/version-RFB-320.onnx", 1),
        ("detection/yolox_nano.onnx", 1),
    ],
)
def test_real_models_give_the_same_rows_together_and_alone(data_dir: Path, file: str, fixed: int | None) -> None:
    """Public models load by what they declare themselves, and slices do not change their outputs."""
    from processors._contract import sample

    path = data_dir / "domains" / file
    if not path.exists():
        pytest.skip(f"no {path}")
    session = open_model(path, slice=4)
    inputs = sample(session.contract, 5)
    together, failed = session.run(inputs)

    assert ({}, fixed) == (failed, session.fixed_batch)
    for row in range(5):
        alone, _ = session.run({name: array[row : row + 1] for name, array in inputs.items()})
        for name, array in alone.items():
            np.testing.assert_allclose(array[0], together[name][row], rtol=1e-4, atol=1e-5)


def test_only_the_session_imports_the_runtime() -> None:
    """Everything else about models works without ONNX Runtime in the process."""
    code = "import sys, processors._models, processors._pull, processors._rows; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
