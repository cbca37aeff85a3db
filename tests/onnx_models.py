"""Small ONNX models for tests, each made to behave in one way, and manifests for them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    weights: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a graph; inputs and outputs are (element type, shape) by name."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, *end) for name, end in inputs.items()],
        [helper.make_tensor_value_info(name, *end) for name, end in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="headrace-tests"
    )
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def doubling(path: Path, batch: int | str = "batch", columns: int = 3) -> Path:
    """`y = 2 x`: the simplest model with rows."""
    end = (FLOAT, [batch, columns])
    return save(path, [helper.make_node("Add", ["x", "x"], ["y"])], {"x": end}, {"y": end}, metadata={"colour": "blue"})


def table(path: Path, size: int = 100) -> Path:
    """Looks `index` up in a table of `size` squares: an index outside raises, and so poisons its run."""
    return save(
        path,
        [helper.make_node("Gather", ["squares", "index"], ["square"])],
        {"index": (INT64, ["batch"])},
        {"square": (FLOAT, ["batch"])},
        {"squares": np.arange(size, dtype=np.float32) ** 2},
    )


def perceptron(path: Path, batch: int | str = "batch") -> Path:
    """Two outputs of different shape from 4 columns: `label` and `probabilities`."""
    rng = np.random.default_rng(0)
    return save(
        path,
        [
            helper.make_node("Gemm", ["features", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        ],
        {"features": (FLOAT, [batch, 4])},
        {"label": (INT64, [batch]), "probabilities": (FLOAT, [batch, 3])},
        {
            "w1": rng.normal(size=(4, 16)).astype(np.float32),
            "b1": rng.normal(size=16).astype(np.float32),
            "w2": rng.normal(size=(16, 3)).astype(np.float32),
        },
    )


def convolution(path: Path) -> Path:
    """A picture classifier with its batch of 1 in a Reshape, a Resize and an Expand, as exporters leave it."""
    rng = np.random.default_rng(0)
    return save(
        path,
        [
            helper.make_node("Conv", ["picture", "kernel"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Resize", ["r", "", "", "sizes"], ["small"], mode="nearest"),
            helper.make_node("Expand", ["small", "same"], ["expanded"]),
            helper.make_node("Reshape", ["expanded", "flat"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["logits"]),
        ],
        {"picture": (FLOAT, [1, 3, 8, 8])},
        {"logits": (FLOAT, [1, 5])},
        {
            "kernel": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
            "sizes": np.array([1, 4, 4, 4], np.int64),
            "same": np.array([1, 4, 4, 4], np.int64),
            "flat": np.array([1, -1], np.int64),
            "w": rng.normal(size=(64, 5)).astype(np.float32),
        },
    )


def row_mixer(path: Path) -> Path:
    """Takes the mean over its batch axis of 1 away: right for one row, wrong for several together."""
    return save(
        path,
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        {"x": (FLOAT, [1, 3])},
        {"y": (FLOAT, [1, 3])},
    )


def as_wide_as_values_differ(path: Path) -> Path:
    """Zeros with a column for each different value of a run: a shape that values decide."""
    return save(
        path,
        [
            helper.make_node("Unique", ["x"], ["u"]),
            helper.make_node("Shape", ["u"], ["n"]),
            helper.make_node("Shape", ["x"], ["b"]),
            helper.make_node("Concat", ["b", "n"], ["both"], axis=0),
            helper.make_node("ConstantOfShape", ["both"], ["y"]),
        ],
        {"x": (FLOAT, ["batch"])},
        {"y": (FLOAT, ["batch", "different"])},
    )


def manifest(
    model: Path, name: str = "doubling", version: str = "1.0.0", keys: Mapping[str, str | None] | None = None
) -> Path:
    """Writes a manifest of a doubling model beside it; `keys` replace, add or (None) leave out lines of TOML."""
    content = model.read_bytes()
    lines: dict[str, str | None] = {
        "name": f'"{name}"',
        "version": f'"{version}"',
        "file": f'"{model.name}"',
        "sha256": f'"{hashlib.sha256(content).hexdigest()}"',
        "size": str(len(content)),
        "licence": '"Apache-2.0"',
        "contract.inputs": '[{name = "x", dtype = "float32", shape = ["batch", 3]}]',
        "contract.outputs": '[{name = "y", dtype = "float32", shape = ["batch", 3]}]',
        **(keys or {}),
    }
    path = model.parent / f"{name}-{version}.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None))
    return path
