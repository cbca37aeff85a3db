"""Models of several kinds with random weights, made here: what they answer does not matter, what they cost does."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

FLOAT = TensorProto.FLOAT
Shape = list[int | str]

_rng = np.random.default_rng(0)


def mlp(path: Path, sizes: Sequence[int] = (64, 512, 1024, 384, 1)) -> Path:
    """A multi-layer perceptron; by default of a million parameters."""
    weights: dict[str, np.ndarray] = {}
    nodes, last = [], "x"
    for at, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights |= {f"w{at}": _weights(rows, columns), f"b{at}": _weights(columns)}
        nodes.append(helper.make_node("Gemm", [last, f"w{at}", f"b{at}"], [f"h{at}"]))
        last = f"h{at}"
        if at < len(sizes) - 2:
            nodes.append(helper.make_node("Relu", [last], [f"r{at}"]))
            last = f"r{at}"
    nodes.append(helper.make_node("Sigmoid", [last], ["y"]))
    return _save(path, nodes, {"x": ["batch", sizes[0]]}, {"y": ["batch", sizes[-1]]}, weights)


def trees(path: Path, count: int = 200, depth: int = 5, features: int = 20) -> Path:
    """Gradient-boosted trees: full ones, of 32 leaves each."""
    inner, leaves = 2**depth - 1, 2**depth
    nodes = inner + leaves
    ids = np.tile(np.arange(nodes), count)
    is_leaf = ids >= inner
    attributes: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": np.repeat(np.arange(count), nodes).tolist(),
        "nodes_nodeids": ids.tolist(),
        "nodes_featureids": np.where(is_leaf, 0, _rng.integers(0, features, len(ids))).tolist(),
        "nodes_values": np.where(is_leaf, 0, _rng.normal(size=len(ids))).astype(np.float32).tolist(),
        "nodes_modes": np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_truenodeids": np.where(is_leaf, 0, 2 * ids + 1).tolist(),
        "nodes_falsenodeids": np.where(is_leaf, 0, 2 * ids + 2).tolist(),
        "nodes_missing_value_tracks_true": [0] * len(ids),
        "target_treeids": np.repeat(np.arange(count), leaves).tolist(),
        "target_nodeids": np.tile(np.arange(inner, nodes), count).tolist(),
        "target_ids": [0] * (count * leaves),
        "target_weights": _rng.normal(size=count * leaves).astype(np.float32).tolist(),
    }
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    return _save(path, [node], {"x": ["batch", features]}, {"y": ["batch", 1]}, {}, ml=True)


def cnn(path: Path) -> Path:
    """Two convolutions and a classifier over pictures of 32 by 32."""
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weights = {"k0": _weights(16, 3, 3, 3), "k1": _weights(32, 16, 3, 3), "w": _weights(32, 10)}
    return _save(path, nodes, {"x": ["batch", 3, 32, 32]}, {"y": ["batch", 10]}, weights)


def recurrent(path: Path, inputs: int = 64, hidden: int = 256) -> Path:
    """One step of a gated recurrent unit with its state as input and output (Cho et al., 2014), written out."""
    weights = {
        name: _weights(rows, hidden) for gate in "zrn" for name, rows in ((f"w{gate}", inputs), (f"u{gate}", hidden))
    }
    nodes = [helper.make_node("MatMul", ["x", f"w{gate}"], [f"x{gate}"]) for gate in "zrn"]
    for gate in "zr":
        nodes += [
            helper.make_node("MatMul", ["state", f"u{gate}"], [f"s{gate}"]),
            helper.make_node("Add", [f"x{gate}", f"s{gate}"], [f"a{gate}"]),
            helper.make_node("Sigmoid", [f"a{gate}"], [gate]),
        ]
    nodes += [
        helper.make_node("Mul", ["r", "state"], ["kept"]),
        helper.make_node("MatMul", ["kept", "un"], ["sn"]),
        helper.make_node("Add", ["xn", "sn"], ["an"]),
        helper.make_node("Tanh", ["an"], ["n"]),
        helper.make_node("Sub", ["state", "n"], ["difference"]),
        helper.make_node("Mul", ["z", "difference"], ["part"]),
        helper.make_node("Add", ["n", "part"], ["next"]),
    ]
    ends: dict[str, Shape] = {"x": ["batch", inputs], "state": ["batch", hidden]}
    return _save(path, nodes, ends, {"next": ["batch", hidden]}, weights)


def transformer(path: Path, tokens: int = 16, width: int = 64) -> Path:
    """One block of attention and feed-forward over 16 tokens (Vaswani et al., 2017), a single head."""
    nodes = [helper.make_node("MatMul", ["x", f"w{part}"], [part]) for part in "qkv"]
    nodes += [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "v"], ["mixed"]),
        helper.make_node("Add", ["x", "mixed"], ["a"]),
        helper.make_node("MatMul", ["a", "up"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "down"], ["narrow"]),
        helper.make_node("Add", ["a", "narrow"], ["y"]),
    ]
    weights = {f"w{part}": _weights(width, width) for part in "qkv"}
    weights |= {"up": _weights(width, 4 * width), "down": _weights(4 * width, width)}
    weights["scale"] = np.array(width**-0.5, np.float32)
    return _save(path, nodes, {"x": ["batch", tokens, width]}, {"y": ["batch", tokens, width]}, weights)


KINDS: dict[str, Callable[[Path], Path]] = {
    "trees": trees,
    "mlp": mlp,
    "cnn": cnn,
    "recurrent": recurrent,
    "transformer": transformer,
}


def _weights(*shape: int) -> np.ndarray:
    return np.asarray(_rng.normal(size=shape) / max(1, shape[0]) ** 0.5, np.float32)


def _save(
    path: Path,
    nodes: list[Any],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, np.ndarray],
    *,
    ml: bool = False,
) -> Path:
    takes, gives = (
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    )
    graph = helper.make_graph(
        nodes, path.stem, takes, gives, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="headrace-bench"), path)
    return path
