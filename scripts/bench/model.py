"""`bench model`: what `Session` costs over bare ONNX Runtime, for several kinds of model.

The bare run gets pre-made arrays, already cut into the slices that the session picks; the session gets all rows at
once, cuts them, and hands out arrays of its own. Both in turns, with one thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from processors._contract import sample
from processors._session import Session
from scripts.bench.models import KINDS
from scripts.bench.report import Table, number, spread_text
from scripts.bench.rounds import alternating, say, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from processors import Arrays
    from scripts.bench.options import Options

TITLE = "Model: a session against bare ONNX Runtime"
_CPU = ("CPUExecutionProvider",)
# Rows by kind, so that a turn takes tenths of a second with each.
_ROWS = {"trees": 20_000, "mlp": 8_000, "cnn": 1_000, "recurrent": 4_000, "transformer": 1_000}


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has µs per row of both and the ratio per kind of model."""
    rounds = options.rounds(full=15, quick=5)
    kinds = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        for kind, make in KINDS.items():
            say(f"model: {kind}")
            kinds[kind] = _one(make(Path(folder) / f"{kind}.onnx"), options.size(full=1, quick=2), _ROWS[kind], rounds)
    result = {
        kind: {
            "slice": one["slice"],
            "bare_us": one["bare_us"]["median"],
            "session_us": one["session_us"]["median"],
            "ratio": one["ratio"]["median"],
        }
        for kind, one in kinds.items()
    }
    return {"result": result, "kinds": kinds}


def _one(path: Path, divisor: int, most_rows: int, rounds: int) -> dict[str, Any]:
    rows = most_rows // divisor
    session = Session.open(path, providers=_CPU, threads=1, slice=0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    bare = onnxruntime.InferenceSession(path, options, providers=list(_CPU))
    inputs = sample(session.contract, rows)
    slices = _slices(inputs, session.slice, rows)
    names = [tensor.name for tensor in session.contract.outputs]

    def run_bare() -> None:
        for feed in slices:
            bare.run(names, feed)

    runs: dict[str, Callable[[], object]] = {"bare": run_bare, "session": lambda: session.run(inputs)}
    for once in runs.values():
        once()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _turn, name in alternating(list(runs), rounds):
        began = time.perf_counter()
        runs[name]()
        taken[name].append((time.perf_counter() - began) / rows * 1e6)
    return {
        "rows": rows,
        "slice": session.slice,
        "bare_us": spread(taken["bare"], 4),
        "session_us": spread(taken["session"], 4),
        "ratio": spread([s / b for s, b in zip(taken["session"], taken["bare"], strict=True)]),
    }


def _slices(inputs: Arrays, size: int, rows: int) -> list[Arrays]:
    return [
        {name: np.ascontiguousarray(array[at : at + size]) for name, array in inputs.items()}
        for at in range(0, rows, size)
    ]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """A row per kind of model."""
    rows = [
        [
            kind,
            number(one["slice"]),
            spread_text(one["bare_us"], 2),
            spread_text(one["session_us"], 2),
            spread_text(one["ratio"], 3),
        ]
        for kind, one in report["kinds"].items()
    ]
    columns = ["model", "slice", "bare µs/row", "session µs/row", "session / bare"]
    return [Table(TITLE, columns, rows)]
