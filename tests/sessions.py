"""Sessions on the CPU, and what tests of them are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from processors._contract import Contract, Tensor
from processors._session import Session

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
