"""The models that are checked: those of the repository by their manifests, and a few kinds made here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from processors._contract import Contract, ModelError, Tensor
from processors._models import Registry
from scripts.bench.models import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STEPS, _INPUTS, _HIDDEN = 20, 40, 128


class Case(msgspec.Struct, frozen=True):
    """One model."""

    name: str
    path: Path
    contract: Contract | None = None
    """None takes the file's own."""


def cases(folder: Path, data: Path | None, only: Sequence[str]) -> Iterator[Case]:
    """Every model whose file is here, then the made ones; `only` names some of them.

    Args:
        folder: Where models are made.
        data: The data directory, whose models count as the repository's do.
        only: Names without versions; all where empty.
    """
    registry = Registry(data)
    for entry in registry.entries():
        if not only or entry.manifest.name in only:
            try:
                model = registry.resolve(entry.manifest.reference)
            except ModelError as error:
                print(f"{entry.manifest.reference}: left out: {error}", flush=True)
            else:
                yield Case(entry.manifest.reference, model.path, entry.manifest.contract)
    for name, make in KINDS.items():
        if not only or name in only:
            yield Case(name, make(folder / f"{name}.onnx"))
    if not only or "gru" in only:
        yield Case("gru", _gru(folder / "gru.onnx"), _GRU)


_GRU = Contract(
    (Tensor("x", "float32", (_STEPS, "batch", _INPUTS)),),
    (Tensor("y", "float32", (_STEPS, 1, "batch", _HIDDEN)), Tensor("last", "float32", (1, "batch", _HIDDEN))),
)


def _gru(path: Path) -> Path:
    """A recurrent layer as one operator, whose rows are counted on its second axis."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(1, 3 * _HIDDEN, _INPUTS)) / _INPUTS**0.5,
        "r": rng.normal(size=(1, 3 * _HIDDEN, _HIDDEN)) / _HIDDEN**0.5,
    }
    node = helper.make_node("GRU", ["x", "w", "r"], ["y", "last"], hidden_size=_HIDDEN, linear_before_reset=1)
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_STEPS, "batch", _INPUTS])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [_STEPS, 1, "batch", _HIDDEN]),
            helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, "batch", _HIDDEN]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
