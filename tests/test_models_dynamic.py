"""The rewrite of a model to a dynamic batch axis, and what the head of its file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_models
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from processors._contract import sample
from processors._dynamic import make_batch_dynamic
from processors._onnx_header import read_header
from processors._rewriting import RewriteError
from processors._session import Session

CPU = ("CPUExecutionProvider",)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with an empty folder for models."""
    (tmp_path / "data" / "models").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def doubling(data: Path) -> Path:
    """The file of `doubling@1.0.0`, beside its manifest in the data directory."""
    path = onnx_models.doubling(data / "models" / "doubling.onnx")
    onnx_models.manifest(path)
    return path


# A dynamic batch axis


def test_perceptron_becomes_dynamic(tmp_path: Path) -> None:
    """Rows together equal rows alone, and metadata and names stay."""
    source = onnx_models.perceptron(tmp_path / "one.onnx", batch=1)
    rewrite = make_batch_dynamic(source, tmp_path / "any.onnx")
    alone = Session.open(source, providers=CPU)
    together = Session.open(tmp_path / "any.onnx", providers=CPU, slice=7)
    rows = sample(alone.contract, 20)

    assert (("features",), ("label", "probabilities"), 0) == (rewrite.inputs, rewrite.outputs, rewrite.shapes)
    assert together.fixed_batch is None
    expected, actual = alone.run(rows)[0], together.run(rows)[0]
    np.testing.assert_array_equal(expected["label"], actual["label"])
    np.testing.assert_allclose(expected["probabilities"], actual["probabilities"], atol=1e-6)


def test_convolution_with_its_batch_in_constants_becomes_dynamic(tmp_path: Path) -> None:
    """Reshape, Resize and Expand with a leading 1 follow the number of rows."""
    source = onnx_models.convolution(tmp_path / "one.onnx")
    rewrite = make_batch_dynamic(source, tmp_path / "any.onnx")

    assert 3 == rewrite.shapes
    outputs, failed = Session.open(tmp_path / "any.onnx", providers=CPU, slice=4).run(
        {"picture": np.random.default_rng(1).standard_normal((6, 3, 8, 8), dtype=np.float32)}
    )
    assert ({}, (6, 5)) == (failed, outputs["logits"].shape)


def test_weights_listed_as_inputs_stop_being_inputs(tmp_path: Path) -> None:
    """Old exporters list every weight among the inputs; one with a leading 1 is no batch."""
    source = onnx_models.perceptron(tmp_path / "old.onnx", batch=1)
    model = onnx.load(source)
    model.graph.input.extend(
        helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in model.graph.initializer
    )
    onnx.save(model, source)
    rewrite = make_batch_dynamic(source, tmp_path / "any.onnx")

    assert ("features",) == rewrite.inputs
    assert ["features"] == [tensor.name for tensor in onnx.load(tmp_path / "any.onnx").graph.input]


def test_model_that_mixes_rows_is_refused(tmp_path: Path) -> None:
    """Where rows together give something else, no file appears, not even in part."""
    source = onnx_models.row_mixer(tmp_path / "mixer.onnx")

    with pytest.raises(RewriteError, match="'y' of rows together differs from that of rows alone by"):
        make_batch_dynamic(source, tmp_path / "any.onnx")
    assert [source] == list(tmp_path.iterdir())


def test_graph_that_insists_on_one_row_is_refused(tmp_path: Path) -> None:
    """A row that is flattened into a constant shape without a batch axis cannot be helped."""
    source = onnx_models.save(
        tmp_path / "flattened.onnx",
        [
            helper.make_node("Reshape", ["x", "three"], ["flat"]),
            helper.make_node("Relu", ["flat"], ["r"]),
            helper.make_node("Reshape", ["r", "one_by_three"], ["y"]),
        ],
        {"x": (onnx_models.FLOAT, [1, 3])},
        {"y": (onnx_models.FLOAT, [1, 3])},
        {"three": np.array([3]), "one_by_three": np.array([1, 3])},
    )

    with pytest.raises(RewriteError, match="cannot be made dynamic"):
        make_batch_dynamic(source, tmp_path / "any.onnx")
    assert [source] == list(tmp_path.iterdir())


def test_nothing_to_rewrite_is_said(doubling: Path, tmp_path: Path) -> None:
    """A dynamic model, a file that is no model, and overwriting the source are refused."""
    with pytest.raises(RewriteError, match="nothing to make dynamic"):
        make_batch_dynamic(doubling, tmp_path / "any.onnx")
    with pytest.raises(RewriteError, match="a file of its own"):
        make_batch_dynamic(doubling, doubling)
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(RewriteError, match="not a readable ONNX model"):
        make_batch_dynamic(tmp_path / "text.onnx", tmp_path / "any.onnx")


@pytest.mark.parametrize(
    "file",
    ["classification/squeezenet_fp16.onnx", "detection/yolox_nano.onnx", "face/MobileFaceNet.onnx",
     "face/version-RFB-320.onnx"],
)  # fmt: skip
def test_public_picture_models_become_dynamic(data_dir: Path, tmp_path: Path, file: str) -> None:
    """Exports with a batch of 1 from four frameworks and four opsets take several rows."""
    source = data_dir / "domains" / file
    if not source.exists():
        pytest.skip(f"no {source}")
    rewrite = make_batch_dynamic(source, tmp_path / "any.onnx")

    assert 1 == len(rewrite.inputs)
    assert rewrite.max_difference < 1e-5
    assert Session.open(tmp_path / "any.onnx", providers=CPU, slice=2).fixed_batch is None


# The head of a file


def test_header_agrees_with_the_onnx_package(doubling: Path) -> None:
    """Versions are read without the package as the package reads them."""
    model = onnx.load(doubling)
    header = read_header(doubling.read_bytes())

    assert (model.ir_version, model.producer_name) == (header.ir_version, header.producer)
    assert {opset.domain or "ai.onnx": opset.version for opset in model.opset_import} == header.opsets


@given(st.binary(max_size=200))
def test_header_of_anything_is_read_without_error(content: bytes) -> None:
    """Bytes that are no model have an empty or partial header."""
    assert read_header(content).ir_version >= 0
