"""Half-precision versions of models: written where answers stay, refused where they move."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from onnx import helper
from typer.testing import CliRunner

from processors._contract import Contract, Tensor
from processors._half import make_half, read_rows
from processors._models import Registry
from processors._rewriting import RewriteError
from processors._session import Session
from streams.cli._app import app

CPU = ("CPUExecutionProvider",)


def dense(path: Path, scale: float = 1.0) -> Path:
    """Two layers from 4 columns to 3, with weights of this size."""
    rng = np.random.default_rng(0)
    return onnx_models.save(
        path,
        [
            helper.make_node("MatMul", ["features", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["y"]),
        ],
        {"features": (onnx_models.FLOAT, ["batch", 4])},
        {"y": (onnx_models.FLOAT, ["batch", 3])},
        {
            "w1": (scale * rng.normal(size=(4, 64))).astype(np.float32),
            "w2": (scale * rng.normal(size=(64, 3))).astype(np.float32),
        },
    )


def test_half_precision_keeps_contract_and_answers(tmp_path: Path) -> None:
    """Weights take half the room, inputs and outputs stay float32, and what moved is told."""
    source, target = dense(tmp_path / "full.onnx"), tmp_path / "half.onnx"
    halved = make_half(source, target)
    full, half = (Session.open(path, providers=CPU, threads=1, slice=64) for path in (source, target))
    x = {"features": np.random.default_rng(1).standard_normal((100, 4), dtype=np.float32)}
    expected, actual = full.run(x)[0]["y"], half.run(x)[0]["y"]

    assert (4 * 64 + 64 * 3, 256, "") == (halved.weights, halved.rows, halved.unchecked)
    assert full.contract == half.contract
    assert 0 < halved.differences["y"] < 0.01
    assert 0 < np.abs(expected - actual).max() < 0.01 * np.abs(expected).max()


def test_answers_that_move_too_far_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """What overflows in half precision is found by running it."""
    target = tmp_path / "half.onnx"

    with pytest.raises(
        RewriteError, match=r"full\.onnx: stays in float32: output 'y' would move by inf, more than 0.01"
    ):
        make_half(dense(tmp_path / "full.onnx", scale=3000), target)
    with pytest.raises(RewriteError, match=r"would move by .*, more than 1e-06"):
        make_half(dense(tmp_path / "full.onnx"), target, tolerance=1e-6)
    assert ["full.onnx"] == [path.name for path in tmp_path.iterdir()]


def test_rows_of_ones_own_decide(tmp_path: Path) -> None:
    """Made-up rows are small; real ones may be large enough to overflow."""
    source, target = dense(tmp_path / "full.onnx"), tmp_path / "half.onnx"
    np.savez(tmp_path / "rows.npz", features=np.full((10, 4), 70_000, np.float32))

    with pytest.raises(RewriteError, match="would move by inf"):
        make_half(source, target, rows=read_rows(tmp_path / "rows.npz"))
    with pytest.raises(RewriteError, match=r"cannot be compared: .*declared are features float32\[batch, 4\]"):
        make_half(source, target, rows={"other": np.zeros((3, 4), np.float32)})
    with pytest.raises(RewriteError, match="no file of arrays"):
        read_rows(source)


def test_labels_may_change_in_few_rows(tmp_path: Path) -> None:
    """A whole number does not move by a share; how many rows have another one counts."""
    halved = make_half(onnx_models.perceptron(tmp_path / "full.onnx"), tmp_path / "half.onnx")

    assert {"label", "probabilities"} == halved.differences.keys()
    assert 0 <= halved.differences["label"] <= 0.01


def test_model_without_float_weights_is_refused(tmp_path: Path) -> None:
    """There is nothing to halve."""
    with pytest.raises(RewriteError, match="has no weights that half precision would change"):
        make_half(onnx_models.doubling(tmp_path / "full.onnx"), tmp_path / "half.onnx")


def test_rounding_between_operators_is_seen(tmp_path: Path) -> None:
    """Trees stay in float32 behind inputs that are rounded: rows go other ways, which ONNX Runtime's CPU hides."""
    model = Registry().resolve("fraud")
    columns = model.manifest.contract.inputs[0].shape[1]
    rows = {"features": np.random.default_rng(0).uniform(0, 4000, (64, columns)).astype(np.float32)}

    with pytest.raises(RewriteError, match="would move by"):
        make_half(model.path, tmp_path / "half.onnx", rows=rows, expects=model.manifest.contract, tolerance=1e-3)


def test_command_writes_a_manifest_for_a_known_model(tmp_path: Path) -> None:
    """The half version is a model of its own, found by its version; without one, the full version stays the highest."""
    models = tmp_path / "models"
    models.mkdir()
    source = dense(models / "dense.onnx")
    ends = {
        "contract.inputs": '[{name = "features", dtype = "float32", shape = ["batch", 4]}]',
        "contract.outputs": '[{name = "y", dtype = "float32", shape = ["batch", 3]}]',
    }
    onnx_models.manifest(source, "dense", "1.2.0", ends)
    target = models / "dense-half.onnx"
    done = CliRunner().invoke(app, ["--data", str(tmp_path), "models", "half", "dense", str(target), "--json"])

    assert 0 == done.exit_code, done.output
    told = json.loads(done.stdout)
    half = Registry(tmp_path).resolve("dense@1.2.0-half")
    assert (told["sha256"], str(target), "dense@1.2.0 in half precision") == (
        half.manifest.sha256, str(half.path), half.manifest.source,
    )  # fmt: skip
    assert "1.2.0" == Registry(tmp_path).resolve("dense").manifest.version
    expected = Contract((Tensor("features", "float32", ("batch", 4)),), (Tensor("y", "float32", ("batch", 3)),))
    assert expected == half.manifest.contract
