"""Rewrites a model to compute in half precision (float16), or refuses where its answers would move too far.

Theory: a float16 has 11 significant bits and ends at 65,504, so weights and activations are rounded to a thousandth and
large ones overflow. Inputs and outputs stay as they are, so that the contract does; operators that need the range
(sums over many values, tree ensembles) stay in float32. ONNX Runtime's own converter does the rewriting; what it did is
shown by running both models on the same rows. On a CPU, ONNX Runtime computes such a model in float32 and leaves the
rounding between operators out, so an overflow does not show there; `onnx`'s reference implementation, which is slow and
keeps to the types, runs some of the rows too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from processors._compare import moved
from processors._contract import Contract, ModelError
from processors._models import Manifest, sha256_of
from processors._rewriting import RewriteError, parsed, written
from processors._session import Session
from processors._slices import cut, reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processors import Arrays
    from processors._contract import Tensor

__all__ = ["TOLERANCE", "Halved", "make_half", "manifest_of", "read_rows"]

TOLERANCE = 0.01
"""Share of an output's largest value that a value may move, and of rows whose whole-number outputs may change."""

# Made-up rows that are compared where nobody gives real ones.
_ROWS = 256

# Of these, as many as the slow way is taken with.
_FEW_ROWS = 32

_CPU = ("CPUExecutionProvider",)
_QUIET = logging.Logger("headrace.half", logging.CRITICAL)


class Halved(msgspec.Struct, frozen=True):
    """What was changed, and how far the answers moved."""

    weights: int
    """Weights that are half precision now."""
    rows: int
    """Rows that were compared."""
    differences: dict[str, float]
    """Per output: the largest difference as a share of its largest value, or the share of rows that changed."""
    unchecked: str = ""
    """Why rounding between operators could not be checked; empty where it was."""


def make_half(
    source: Path,
    target: Path,
    *,
    rows: Arrays | None = None,
    expects: Contract | None = None,
    tolerance: float = TOLERANCE,
) -> Halved:
    """Writes a half-precision version of a model; the target appears only where its answers stay within the tolerance.

    Args:
        source: A model that computes in float32.
        target: Where the new one goes; may not be the source.
        rows: Inputs to compare with; made-up ones where None.
        expects: The model's contract; its own where None.
        tolerance: What may move.

    Raises:
        RewriteError: There is nothing to change, or an answer moves too far, or the rewritten model does not run.
    """
    model = parsed(source, target)
    before = _half_weights(model)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        halved = convert_float_to_float16(model, keep_io_types=True)
        # The converter puts its casts at the end, and only ONNX Runtime runs nodes that are out of order.
        OnnxModel(halved).topological_sort()
    except Exception as error:
        raise RewriteError(f"{source}: cannot be made half precision: {reason(error)}") from error
    weights = _half_weights(halved) - before
    if not weights:
        raise RewriteError(f"{source}: has no weights that half precision would change (tree ensembles have none)")
    with written(halved, target) as partial:
        compared, found, unchecked = _compare(source, partial, rows, expects)
        for name, apart in found.items():
            if not apart <= tolerance:
                raise RewriteError(
                    f"{source}: stays in float32: output {name!r} would move by {apart:.3g}, more than {tolerance:g}"
                )
    return Halved(weights, compared, found, unchecked)


def read_rows(path: Path) -> Arrays:
    """Inputs by name from a file that `numpy.savez` wrote.

    Raises:
        RewriteError: It is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise RewriteError(f"{path}: is no file of arrays as numpy.savez writes them: {reason(error)}") from error


def manifest_of(manifest: Manifest, target: Path) -> Path:
    """Writes the manifest of a model's half-precision version beside it; returns where."""
    halved = msgspec.structs.replace(
        manifest,
        version=f"{manifest.version}-half",
        file=target.name,
        sha256=sha256_of(target),
        size=target.stat().st_size,
        url="",
        source=f"{manifest.reference} in half precision",
    )
    path = target.with_name(f"{target.stem}.manifest.json")
    path.write_bytes(msgspec.json.format(msgspec.json.encode(halved)))
    return path


def _half_weights(model: Any) -> int:
    from onnx import TensorProto

    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)


def _compare(
    source: Path, target: Path, rows: Arrays | None, expects: Contract | None
) -> tuple[int, dict[str, float], str]:
    try:
        # Slices of one size, so that both run the same rows together.
        full = Session.open(source, expects=expects, providers=_CPU, threads=1, slice=_ROWS, log=_QUIET)
        half = Session.open(target, expects=full.contract, providers=_CPU, threads=1, slice=_ROWS, log=_QUIET)
        inputs = full.made_up(_ROWS) if rows is None else rows
        expected, wrong = full.run(inputs)
        actual, failed = half.run(inputs)
    except ModelError as error:
        raise RewriteError(f"{source}: cannot be compared: {error}") from error
    if lost := {row: why for row, why in failed.items() if row not in wrong}:
        row = min(lost)
        raise RewriteError(f"{source}: stays in float32: row {row} runs no more: {lost[row]}")
    found = moved(expected, actual)
    few = _first_rows(full.contract.inputs, inputs)
    try:
        rounded = _rounding_everywhere(target, full.contract, few)
    except Exception as error:  # an operator that the reference does not have, above all
        return len(next(iter(expected.values()))), found, reason(error)
    strictly = moved(_first_rows(full.contract.outputs, expected), rounded)
    found = {name: max(apart, strictly[name]) for name, apart in found.items()}
    return len(next(iter(expected.values()))), found, ""


def _rounding_everywhere(target: Path, contract: Contract, inputs: Arrays) -> Arrays:
    from onnx.reference import ReferenceEvaluator

    names = [tensor.name for tensor in contract.outputs]
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(str(target)).run(names, inputs)
    return dict(zip(names, map(np.asarray, results), strict=True))


def _first_rows(tensors: Sequence[Tensor], arrays: Arrays) -> Arrays:
    axes = {tensor.name: tensor.batch_axis for tensor in tensors}
    return {
        name: array if (axis := axes[name]) is None else cut(array, 0, _FEW_ROWS, axis)
        for name, array in arrays.items()
    }
