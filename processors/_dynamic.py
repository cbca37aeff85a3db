"""Rewrites a model whose batch axis is fixed to 1 so that it takes any number of rows, or refuses.

Theory: exporters write the batch of their example into the inputs, the outputs and the constants that shapes are made
of. Inputs and outputs are given a named axis. A constant shape with a leading 1 that data of the inputs is put into
(Reshape, Expand, Resize) gets the true number of rows there. Whether that was all is not argued but shown: rows run
together must equal the same rows run alone by the original.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from processors import _contract
from processors._compare import beyond_rounding, differences
from processors._contract import BATCH, Contract, ModelError
from processors._rewriting import RewriteError, parsed, written
from processors._session import Session
from processors._slices import reason

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Rewrite", "make_batch_dynamic"]


# The input that holds a shape, by the operator that takes one.
_SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "Resize": 3}

# Rows that are compared; odd, so that it is no multiple of anything in the graph.
_ROWS = 5

_QUIET = logging.Logger("headrace.dynamic", logging.CRITICAL)


class Rewrite(msgspec.Struct, frozen=True):
    """What was changed, and how far rows run together are from rows run alone."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: int
    """Constant shapes that now follow the number of rows."""
    max_difference: float


def make_batch_dynamic(source: Path, target: Path) -> Rewrite:
    """Writes a version of a model that takes any number of rows; the target appears only where it is right.

    Args:
        source: A model whose inputs have a first axis of 1.
        target: Where the new one goes; may not be the source.

    Raises:
        RewriteError: There is nothing to change, or the rewritten model does not run, or gives other outputs.
    """
    model = parsed(source, target)
    inputs, outputs = _open_ends(model.graph)
    if not inputs:
        raise RewriteError(f"{source}: no input has a fixed first axis of 1, so there is nothing to make dynamic")
    shapes = _open_shapes(model.graph, inputs)
    del model.graph.value_info[:]
    # From this version on, weights need not be listed among the inputs; some exporters did.
    model.ir_version = max(model.ir_version, 4)
    with written(model, target) as partial:
        difference = _compare(source, partial)
    return Rewrite(tuple(inputs), tuple(outputs), shapes, difference)


def _open_ends(graph: Any) -> tuple[list[str], list[str]]:
    """Names the first axis of inputs and outputs that was 1; weights stop being inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    given = [tensor for tensor in graph.input if tensor.name not in weights]
    del graph.input[:]
    graph.input.extend(given)
    return [t.name for t in graph.input if _open_axis(t)], [t.name for t in graph.output if _open_axis(t)]


def _open_axis(tensor: Any) -> bool:
    axes = tensor.type.tensor_type.shape.dim
    if len(axes) == 0 or axes[0].dim_value != 1:
        return False
    axes[0].dim_param = BATCH
    return True


def _open_shapes(graph: Any, inputs: list[str]) -> int:
    """Makes constant shapes of data that comes from the inputs follow their number of rows."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    flowing = set(inputs)
    opened = 0
    nodes = list(graph.node)
    for node in nodes:
        if not flowing.isdisjoint(node.input):
            flowing.update(node.output)
        place = _SHAPE_INPUTS.get(node.op_type)
        if place is None or len(node.input) <= place or node.input[0] not in flowing:
            continue
        constant = constants.get(node.input[place])
        if constant is None:
            continue
        shape = numpy_helper.to_array(constant)
        if shape.ndim != 1 or len(shape) == 0 or shape[0] != 1:
            continue
        rest = f"{node.output[0]}_rest_of_shape"
        full = f"{node.output[0]}_shape_of_batch"
        graph.initializer.append(numpy_helper.from_array(shape[1:].astype(np.int64), rest))
        position = next(i for i, other in enumerate(graph.node) if other.output[:1] == node.output[:1])
        graph.node.insert(position, helper.make_node("Concat", [_BATCH_SIZE, rest], [full], axis=0))
        node.input[place] = full
        opened += 1
    if opened:
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), f"{_BATCH_SIZE}_axis"))
        graph.node.insert(0, helper.make_node("Gather", [f"{_BATCH_SIZE}_axes", f"{_BATCH_SIZE}_axis"], [_BATCH_SIZE]))
        graph.node.insert(0, helper.make_node("Shape", [inputs[0]], [f"{_BATCH_SIZE}_axes"]))
    return opened


_BATCH_SIZE = "headrace_batch_size"


def _compare(source: Path, target: Path) -> float:
    """The largest difference between rows run together and rows run alone, relative to the output's largest value."""
    try:
        original = Session.open(source, log=_QUIET)
        contract = _with_varied_integers(original.contract)
        rewritten = Session.open(target, expects=contract, slice=1, log=_QUIET)
    except ModelError as error:
        raise RewriteError(f"{source}: cannot be made dynamic: {error}") from error
    rows = _contract.sample(contract, _ROWS)
    alone, failed = original.run(rows)
    if failed:
        raise RewriteError(f"{source}: does not run on made-up rows, so nothing can be shown: {failed[min(failed)]}")
    try:
        together = rewritten.run_together(rows)
    except Exception as error:
        raise RewriteError(f"{source}: cannot be made dynamic: {_ROWS} rows together fail: {reason(error)}") from error
    found = differences(alone, together)
    for name, apart in beyond_rounding(found, alone).items():
        raise RewriteError(
            f"{source}: cannot be made dynamic: output {name!r} of rows together differs from that of rows alone "
            f"by {apart:.3g} of its largest value"
        )
    return max(found.values())


def _with_varied_integers(contract: Contract) -> Contract:
    """Rows of equal integers would hide an exchange of rows; 0 and 1 are indexes that nearly every table has."""
    return msgspec.structs.replace(
        contract,
        inputs=tuple(
            msgspec.structs.replace(tensor, values=(0, 1)) if "int" in tensor.dtype else tensor
            for tensor in contract.inputs
        ),
    )
