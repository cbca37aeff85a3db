"""What a model takes and gives: names, types and shapes, and how a declaration is held against a file. Pure.

A shape names its axes by number or by word. The word `batch` is the axis that rows are counted on, usually the
first; any other word is a free axis, such as a sequence length. An input without `batch` goes whole to every run.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from processors import Arrays

__all__ = [
    "BATCH",
    "Contract",
    "ContractError",
    "Declared",
    "Dtype",
    "ModelError",
    "Tensor",
    "derive",
    "differences",
    "fixed_batch",
    "mismatches",
    "nearest",
    "sample",
]

BATCH = "batch"

Dtype = Literal[
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "string", "uint8", "uint16", "uint32", "uint64",
]  # fmt: skip

# A free axis without a size in `axes` gets this many entries in made-up rows: about a short sentence.
_FREE_AXIS = 16


class ModelError(Exception):
    """A model that cannot be used as asked: its description, its file or its contract is at fault."""


class ContractError(ModelError, ValueError):
    """Names, types or shapes of a model, or of arrays meant for it, differ from what was declared."""


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output, as a processor or manifest declares it."""

    name: Annotated[str, Meta(min_length=1)]
    dtype: Dtype
    shape: tuple[int | str, ...]
    """Axes in order, such as `["batch", 18]`; empty for a scalar."""
    values: tuple[float, float] | None = None
    """Lowest and highest value of made-up rows; standard normal floats and ones for integers where left out."""

    @property
    def batch_axis(self) -> int | None:
        """The axis that counts rows, or None."""
        return self.shape.index(BATCH) if BATCH in self.shape else None

    def describe(self) -> str:
        """The type and shape in one word, such as `float32[batch, 18]`."""
        return _describe(self.dtype, self.shape)


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a processor feeds to a model and reads from it; outputs that it leaves out are not computed."""

    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    axes: dict[str, int] = {}
    """Sizes of the free axes in made-up rows, for warm-up and measuring."""

    def __post_init__(self) -> None:
        """Refuses a contract that rows cannot be cut by."""
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is declared twice")
        if all(tensor.batch_axis is None for tensor in self.inputs):
            raise ValueError('no input has a "batch" axis: name the axis that counts rows, as in ["batch", 18]')
        for tensor in self.outputs:
            if tensor.batch_axis is None:
                raise ValueError(f'output {tensor.name!r} has no "batch" axis: its rows could not be told apart')

    def completed_by(self, other: Contract) -> Contract:
        """This contract, with the made-up sizes and values that only the other one names."""
        theirs = {tensor.name: tensor for tensor in other.inputs}
        return msgspec.structs.replace(
            self,
            axes={**other.axes, **self.axes},
            inputs=tuple(
                msgspec.structs.replace(tensor, values=theirs[tensor.name].values)
                if tensor.values is None and tensor.name in theirs
                else tensor
                for tensor in self.inputs
            ),
        )


class Declared(msgspec.Struct, frozen=True):
    """One input or output as the model file declares it; an axis that it leaves open is a word or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    def describe(self) -> str:
        """The type and shape in one word, such as `float32[?, 18]`."""
        return _describe(self.dtype, self.shape)


def mismatches(contract: Contract, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> list[str]:
    """Everything in which a model file differs from a contract, one sentence each; empty where they agree.

    A batch axis may be declared with a fixed size: the session deals with that.
    """
    found = differences("input", contract.inputs, inputs) + differences("output", contract.outputs, outputs)
    known = {tensor.name for tensor in contract.inputs}
    found += [
        f"the model needs input {given.name!r} ({given.describe()}), which is not declared"
        for given in inputs
        if given.name not in known
    ]
    return found


def differences(kind: str, declared: Sequence[Tensor], given: Sequence[Declared]) -> list[str]:
    """What is declared and not given so, one sentence each; what is given beyond that does not matter here."""
    by_name = {tensor.name: tensor for tensor in given}
    found = []
    for tensor in declared:
        model = by_name.get(tensor.name)
        if model is None:
            found.append(f"{kind} {tensor.name!r} is not in the model; {nearest(tensor.name, by_name)}")
        elif model.dtype.startswith(("seq(", "map(", "optional(", "sparse_tensor(")):
            found.append(
                f"{kind} {tensor.name!r} is {model.dtype} in the model, which is no array "
                f"(a classifier from scikit-learn or LightGBM: export it with zipmap=False)"
            )
        elif model.dtype != tensor.dtype or not _fits(tensor, model, unknown_rank=kind == "output"):
            found.append(
                f"{kind} {tensor.name!r} is declared {tensor.describe()}, but the model has {model.describe()}"
            )
    return found


def fixed_batch(contract: Contract, inputs: Sequence[Declared]) -> int | None:
    """The number of rows that the model file insists on, or None where it takes any."""
    given = {tensor.name: tensor for tensor in inputs}
    sizes = {
        size
        for tensor in contract.inputs
        if (axis := tensor.batch_axis) is not None and isinstance(size := given[tensor.name].shape[axis], int)
    }
    if len(sizes) > 1:
        raise ContractError(f"the model fixes its batch axis to different sizes: {sorted(sizes)}")
    return sizes.pop() if sizes else None


def derive(inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Contract:
    """The contract that a model file declares by itself: the first axis of every tensor counts rows."""
    try:
        return msgspec.convert(
            {
                "inputs": [_derived(tensor) for tensor in inputs],
                "outputs": [_derived(tensor) for tensor in outputs],
            },
            Contract,
        )
    except msgspec.ValidationError as error:
        raise ContractError(f"no contract can be read from the model itself ({error}): declare one") from error


def sample(contract: Contract, rows: int, fill: float | None = None) -> Arrays:
    """Made-up inputs of so many rows, for warm-up; the same each time.

    Args:
        contract: What they must look like.
        rows: Size of the batch axis.
        fill: One value for everything that has no declared range, instead of plausible ones.
    """
    rng = np.random.default_rng(0)
    return {tensor.name: _made_up(tensor, _sizes(tensor, contract, rows), fill, rng) for tensor in contract.inputs}


def nearest(name: str, known: Iterable[str]) -> str:
    """A half-sentence that names the known name closest to this one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"


def _fits(tensor: Tensor, model: Declared, *, unknown_rank: bool) -> bool:
    if unknown_rank and not model.shape:
        return True  # A file may leave the rank of an output open; a run will show it.
    if len(tensor.shape) != len(model.shape):
        return False
    return all(
        not isinstance(got, int) or want in (BATCH, got) for want, got in zip(tensor.shape, model.shape, strict=True)
    )


def _derived(tensor: Declared) -> dict[str, object]:
    words = [axis if isinstance(axis, int) else axis or f"axis{i}" for i, axis in enumerate(tensor.shape)]
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": [BATCH, *words[1:]] if words else []}


def _sizes(tensor: Tensor, contract: Contract, rows: int) -> tuple[int, ...]:
    sizes = {**contract.axes, BATCH: rows}
    return tuple(axis if isinstance(axis, int) else sizes.get(axis, _FREE_AXIS) for axis in tensor.shape)


def _made_up(tensor: Tensor, shape: tuple[int, ...], fill: float | None, rng: np.random.Generator) -> np.ndarray:
    if tensor.dtype == "string":
        return np.full(shape, "", dtype=object)
    dtype = np.dtype(tensor.dtype)
    if tensor.values is not None:
        low, high = tensor.values
        values = rng.uniform(low, high, shape) if dtype.kind == "f" else rng.integers(int(low), int(high) + 1, shape)
        return np.asarray(values, dtype)
    if fill is not None or dtype.kind != "f":
        return np.full(shape, 1 if fill is None else fill, dtype=dtype)
    return np.asarray(rng.standard_normal(shape, dtype=np.float32), dtype)


def _describe(dtype: str, shape: Sequence[int | str | None]) -> str:
    return f"{dtype}[{', '.join('?' if axis is None else str(axis) for axis in shape)}]"
