"""Sessions on real ONNX Runtime: slices, poison rows, contracts, providers."""

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

from processors import _hardware, _runtime, _session
from processors._contract import Contract, ContractError, ModelError, Tensor
from processors._curve import Point, measure, pick
from processors._rows import BrokenModelError, Rows
from processors._session import Session, SessionError
from processors._slices import buckets, isolate, padded_size

CPU = ("CPUExecutionProvider",)


def contract(inputs: list[tuple[str, str, list]], outputs: list[tuple[str, str, list]]) -> Contract:
    """A contract from (name, type, shape)."""
    return Contract(
        tuple(Tensor(name, dtype, tuple(shape)) for name, dtype, shape in inputs),
        tuple(Tensor(name, dtype, tuple(shape)) for name, dtype, shape in outputs),
    )


DOUBLING = contract([("x", "float32", ["batch", 3])], [("y", "float32", ["batch", 3])])


def rows(n: int, columns: int = 3) -> np.ndarray:
    """N rows that differ."""
    return np.random.default_rng(n).standard_normal((n, columns), dtype=np.float32)


def open_model(path: Path, **options: object) -> Session:
    """A session on the CPU with one thread and slices of 8, unless said otherwise."""
    return Session.open(path, **{"providers": CPU, "threads": 1, "slice": 8, **options})


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


# Contracts


def test_every_difference_is_named_at_once_with_the_nearest_name(folder: Path) -> None:
    """Wrong names, types, ranks and sizes, and inputs left out, are one error that says both sides."""
    end = (onnx_models.FLOAT, ["batch", 3])
    path = onnx_models.save(
        folder / "many.onnx",
        [helper.make_node("Sum", ["features", "offsets", "scale"], ["scores"])],
        {"features": end, "offsets": end, "scale": end},
        {"scores": end},
    )
    expects = contract(
        [("feature", "float32", ["batch", 3]), ("offsets", "float64", ["batch", 4])],
        [("score", "float32", ["batch", 3]), ("scores", "float32", ["batch"])],
    )

    with pytest.raises(ContractError) as error:
        open_model(path, expects=expects)

    assert [
        "many.onnx differs from its contract:",
        "  input 'feature' is not in the model; did you mean 'features'?",
        "  input 'offsets' is declared float64[batch, 4], but the model has float32[batch, 3]",
        "  output 'score' is not in the model; did you mean 'scores'?",
        "  output 'scores' is declared float32[batch], but the model has float32[batch, 3]",
        "  the model needs input 'features' (float32[batch, 3]), which is not declared",
        "  the model needs input 'scale' (float32[batch, 3]), which is not declared",
    ] == str(error.value).splitlines()


def test_swapped_outputs_are_refused(folder: Path) -> None:
    """Label and probabilities cannot be taken for each other."""
    path = onnx_models.perceptron(folder / "perceptron_swapped.onnx")
    expects = contract(
        [("features", "float32", ["batch", 4])],
        [("probabilities", "int64", ["batch"]), ("label", "float32", ["batch", 3])],
    )

    with pytest.raises(ContractError, match=r"'probabilities' is declared int64\[batch\].* has float32\[batch, 3\]"):
        open_model(path, expects=expects)


def test_what_comes_out_counts_where_the_file_declares_little(folder: Path) -> None:
    """A file may leave its outputs' shapes open; the first run shows them."""
    import onnx

    path = onnx_models.perceptron(folder / "open.onnx")
    model = onnx.load(path)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    inputs = [("features", "float32", ["batch", 4])]

    assert 3 == open_model(path, expects=contract(inputs, [("probabilities", "float32", ["batch", 3])])).slice - 5
    with pytest.raises(ContractError, match="probabilities"):
        open_model(path, expects=contract(inputs, [("probabilities", "float32", ["batch", 2])]))


def test_output_that_does_not_count_rows_is_refused(folder: Path) -> None:
    """An output of one row for all of them is found at warm-up."""
    path = onnx_models.save(
        folder / "mean.onnx",
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)],
        {"x": (onnx_models.FLOAT, ["batch", 3])},
        {"y": (onnx_models.FLOAT, [1, 3])},
    )

    with pytest.raises(ContractError, match="axis 0 is declared `batch` and does not count rows"):
        open_model(path, expects=DOUBLING)


def test_maps_of_classifiers_are_explained(folder: Path) -> None:
    """scikit-learn's exporter makes a list of maps by default, which is no array."""
    import onnx

    graph = helper.make_graph(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])],
        "zipmap",
        [helper.make_tensor_value_info("x", onnx_models.FLOAT, ["batch", 3])],
        [
            helper.make_value_info(
                "y",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(onnx_models.INT64, helper.make_tensor_type_proto(onnx_models.FLOAT, []))
                ),
            )
        ],
    )
    path = folder / "zipmap.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)

    with pytest.raises(ContractError, match="zipmap=False"):
        open_model(path, expects=DOUBLING)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": rows(2).astype(np.float64)},
        {"x": rows(2, columns=4)},
        {"x": rows(2)[0]},
        {"z": rows(2)},
        {"x": rows(2), "z": rows(2)},
        {"x": rows(2).tolist()},
    ],
)
def test_arrays_that_were_not_declared_are_a_bug_of_the_processor(
    doubling: Path, inputs: dict[str, np.ndarray]
) -> None:
    """They raise with both sides named, instead of becoming dead letters of good events."""
    with pytest.raises(ContractError, match=r"declared are x float32\[batch, 3\]. This is a bug of the processor."):
        open_model(doubling).run(inputs)


def test_only_declared_outputs_are_computed(folder: Path) -> None:
    """What a contract leaves out is not asked for."""
    path = onnx_models.perceptron(folder / "perceptron_one.onnx")
    inputs = [("features", "float32", ["batch", 4])]
    session = open_model(path, expects=contract(inputs, [("probabilities", "float32", ["batch", 3])]))

    assert ["probabilities"] == list(session.run({"features": rows(3, 4)})[0])


def test_output_that_lies_about_its_shape_stays_quiet_when_not_asked_for(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """LightGBM's `label` is declared [1]; asking for probabilities only, nothing is printed for any batch."""
    path = onnx_models.perceptron(folder / "lying.onnx")
    import onnx

    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    inputs = [("features", "float32", ["batch", 4])]
    session = open_model(path, expects=contract(inputs, [("probabilities", "float32", ["batch", 3])]))
    session.run({"features": rows(30, 4)})

    assert ("", "") == tuple(capfd.readouterr())


def test_poison_prints_nothing(table: Session, capfd: pytest.CaptureFixture[str]) -> None:
    """Rows that fail are answered, not printed by the runtime."""
    table.run({"index": np.full(16, 5000)})

    assert ("", "") == tuple(capfd.readouterr())


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([("x", "float32", [3])], [("y", "float32", ["batch"])], "no input has a"),
        ([("x", "float32", ["batch"])], [("y", "float32", [3])], "'y' has no"),
        ([("x", "float32", ["batch"]), ("x", "int64", ["batch"])], [("y", "float32", ["batch"])], "'x' is declared tw"),
    ],
)
def test_contracts_that_rows_cannot_be_cut_by_are_refused(inputs: list, outputs: list, message: str) -> None:
    """Rows must come in, come out, and have one meaning."""
    with pytest.raises(ValueError, match=message):
        contract(inputs, outputs)


def test_processor_declares_and_manifest_completes() -> None:
    """Sizes and ranges of made-up rows belong to the weights; what the processor says itself stays."""
    mine = Contract((Tensor("ids", "int64", ("batch", "seq")),), DOUBLING.outputs, axes={"seq": 4})
    theirs = Contract((Tensor("ids", "int64", ("batch", "seq"), values=(0, 99)),), DOUBLING.outputs, axes={"seq": 64})

    assert Contract(theirs.inputs, mine.outputs, axes={"seq": 4}) == mine.completed_by(theirs)


# Providers and threads


def test_fallback_is_said_once_with_both_names_and_the_reason(doubling: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A provider that was asked for and is not here is named with the one used instead, once a process."""
    wanted = ("MIGraphXExecutionProvider", "CPUExecutionProvider")
    _runtime._said.clear()
    for _ in range(3):
        open_model(doubling, providers=wanted)

    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 1 == len(messages)
    assert "wanted MIGraphXExecutionProvider, got CPUExecutionProvider: this build" in messages[0]


@pytest.mark.skipif(_hardware.gpu_visible(), reason="this machine has a GPU")
def test_default_order_on_a_machine_without_gpu_does_not_warn(doubling: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A laptop is no reason to warn."""
    _runtime._said.clear()
    open_model(doubling, providers=_session.PROVIDERS)

    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.skipif(_hardware.gpu_visible(), reason="this machine has a GPU")
def test_required_gpu_fails_at_start_and_says_what_to_do(doubling: Path) -> None:
    """Nobody finds out from the bill that a GPU was not used."""
    with pytest.raises(SessionError, match=r"a GPU is required, .*uv sync --extra gpu.*nvidia-smi.*require_gpu"):
        open_model(doubling, providers=_session.PROVIDERS, require_gpu=True)


def test_file_that_is_no_model_is_named(folder: Path) -> None:
    """Neither a missing nor a broken file gives a bare error of the runtime."""
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no protobuf")

    with pytest.raises(SessionError, match=r"broken\.onnx: cannot be loaded: .*protobuf"):
        open_model(broken)
    with pytest.raises(SessionError, match=r"absent\.onnx: cannot be read"):
        open_model(folder / "absent.onnx")


def test_plan_keeps_the_wanted_order_and_ends_with_the_cpu() -> None:
    """Providers that are not installed are left out with a reason."""
    plan = _hardware.plan(
        ("TensorrtExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("CUDAExecutionProvider", "CPUExecutionProvider"),
    )

    assert ("CUDAExecutionProvider", "CPUExecutionProvider") == plan.providers
    assert ["TensorrtExecutionProvider"] == [name for name, _ in plan.missing]


@pytest.mark.parametrize(
    ("threads", "workers", "cores", "expected"),
    [(0, 1, 8, 8), (0, 3, 8, 2), (0, 16, 8, 1), (4, 16, 8, 4), (0, 0, 2, 2)],
)
def test_threads_share_the_cores_among_workers(threads: int, workers: int, cores: int, expected: int) -> None:
    """As asked, else an equal share, at least one."""
    assert expected == _hardware.threads_for(threads, workers, cores)


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 1), ("max 100000", 10**6), ("rubbish", 10**6)])
def test_container_quota_bounds_the_cores(tmp_path: Path, quota: str, most: int) -> None:
    """A container that may use 1.5 cores of a large machine gets one thread, not 64."""
    (tmp_path / "cpu.max").write_text(quota)

    assert 1 <= _hardware.available_cores(tmp_path) <= most


def test_gpu_that_has_no_kernel_for_the_model_is_not_taken_for_one_that_runs_it() -> None:
    """A tree ensemble beside an idle GPU provider does not count as running on a GPU."""
    message = _hardware.no_gpu("trees@1", ("CUDAExecutionProvider", "CPUExecutionProvider"), (), ())

    assert "CUDAExecutionProvider has no kernel for any node of this model" in message


# Warm-up and curve


def test_warm_up_measures_and_picks_a_slice(folder: Path) -> None:
    """Without a given slice, the curve is there for reports and the slice is one of its sizes."""
    session = open_model(onnx_models.perceptron(folder / "perceptron_curve.onnx"), slice=0)

    assert session.slice in [point.rows for point in session.curve]
    assert [2**i for i in range(len(session.curve))] == [point.rows for point in session.curve]
    assert all(point.ms > 0 for point in session.curve)


def test_given_slice_is_not_measured(doubling: Path) -> None:
    """Who sets a slice gets it, and a faster start."""
    session = open_model(doubling, slice=7)

    assert (7, ()) == (session.slice, session.curve)


def test_model_that_takes_no_made_up_rows_works_unmeasured(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that needs two inputs to fit each other still runs; the warning says what to declare."""
    path = onnx_models.save(
        folder / "fitting.onnx",
        [
            helper.make_node("Concat", ["x", "x"], ["xx"], axis=1),
            helper.make_node("Sub", ["xx", "z"], ["y"]),
        ],
        {"x": (onnx_models.FLOAT, ["batch", "half"]), "z": (onnx_models.FLOAT, ["batch", "full"])},
        {"y": (onnx_models.FLOAT, ["batch", "full"])},
    )
    session = open_model(path, slice=0)
    outputs, failed = session.run({"x": rows(300, 2), "z": np.zeros((300, 4), np.float32)})

    assert ({}, (300, 4)) == (failed, outputs["y"].shape)
    assert any("give `axes` or `values` in its contract" in record.getMessage() for record in caplog.records)

    with_axes = Contract(session.contract.inputs, session.contract.outputs, axes={"half": 2, "full": 4})
    assert open_model(path, slice=0, expects=with_axes).curve


def test_declared_values_bound_made_up_rows(folder: Path) -> None:
    """Token ids stay inside the table where the contract says its range."""
    index = Tensor("index", "int64", ("batch",), values=(50, 99))
    path = onnx_models.table(folder / "values.onnx")
    session = open_model(path, expects=Contract((index,), (Tensor("square", "float32", ("batch",)),)), slice=0)

    assert session.curve


def test_curve_prefers_the_smallest_slice_within_a_twentieth_of_the_best() -> None:
    """Larger slices have to earn their latency."""
    points = [Point(1, 1.0), Point(64, 2.1), Point(128, 3.9), Point(256, 7.6), Point(512, 30.0)]

    assert 128 == pick(points)
    assert 1 == pick([Point(1, 7.4), Point(8, 69.0)])


def test_curve_keeps_to_its_time() -> None:
    """A slow model is measured at the sizes that fit the budget, and always at the first."""
    now = 0.0

    def run(size: int) -> None:
        nonlocal now
        now += 0.1 * size

    points = measure(run, budget_s=1.5, clock=lambda: now)

    assert [1, 2] == [point.rows for point in points][:2]
    assert now < 2.5
    now = 0.0
    slow = measure(lambda size: run(100 * size), budget_s=1.5, clock=lambda: now)
    assert [1] == [point.rows for point in slow]


def test_curve_ends_before_a_size_that_fails() -> None:
    """Memory that runs out at some size does not stop the start."""

    def run(size: int) -> None:
        if size > 8:
            raise MemoryError

    assert [1, 2, 4, 8] == [point.rows for point in measure(run)]


def test_measuring_does_not_repeat_the_same_rows(folder: Path) -> None:
    """Branches that a core has learnt by heart would make small slices of trees look twice as fast as they are."""
    session = open_model(onnx_models.perceptron(folder / "perceptron_rows.onnx"))
    seen: set[bytes] = set()
    runs = 0
    inner = session._rows.run_once

    def run_once(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        nonlocal runs
        if len(feed["features"]) == 8:
            runs += 1
            seen.add(feed["features"].tobytes())
        return inner(feed)

    session._rows.run_once = run_once
    session.measure()

    assert runs > 10
    assert len(seen) >= min(runs, 400) - 1


def test_memory_of_the_measuring_is_given_back(folder: Path) -> None:
    """What the largest size of the curve took is not held for as long as the worker lives."""
    path = onnx_models.save(
        folder / "wide.onnx",
        [
            helper.make_node("Tile", ["x", "times"], ["wide"]),
            helper.make_node("Tanh", ["wide"], ["t"]),
            helper.make_node("ReduceMax", ["t"], ["y"], axes=[1], keepdims=1),
        ],
        {"x": (onnx_models.FLOAT, ["batch", 1])},
        {"y": (onnx_models.FLOAT, ["batch", 1])},
        {"times": np.array([1, 16_384])},
    )
    code = f"""
import pathlib
from processors._session import Session
session = Session.open(pathlib.Path({str(path)!r}), providers=("CPUExecutionProvider",), threads=1, slice=1)
session.run_together(session.made_up(1024))
session.measure(budget_s=0.01)
fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Vm"))
print(*(int(fields[name].split()[0]) // 1000 for name in ("VmHWM", "VmRSS")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    peak_mb, now_mb = map(int, done.stdout.split())

    # One of the two intermediates of 1,024 rows, 67 MB each.
    assert peak_mb - now_mb > 67


def test_curve_gives_up_where_larger_slices_only_get_worse() -> None:
    """Two sizes far below the best end the measuring."""
    now = 0.0

    def run(size: int) -> None:
        nonlocal now
        now += 1e-4 * size * (1 if size < 32 else 4)

    points = measure(run, budget_s=60, clock=lambda: now)

    assert 64 == points[-1].rows


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
