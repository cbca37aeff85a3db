"""What a session promises of its inputs and outputs, held against the file of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_models
import pytest
from onnx import helper
from sessions import DOUBLING, contract, open_model, rows

from processors._contract import Contract, ContractError, Tensor
from processors._session import Session


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
