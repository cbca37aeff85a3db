"""What `Session` costs over bare ONNX Runtime: the same rows in the same slices. Prints one JSON line.

    python scripts/bench/session.py [MODEL.onnx] [--rows 20000] [--slice 0] [--threads 1]

Without a model, a multi-layer perceptron (18-256-128-2) is made (needs the `onnx` package). The two are run in
turns and each keeps its shortest time, since noise only adds; the overhead is the share by which Session is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[2]))

from processors._contract import sample
from processors._session import Session
from processors._slices import cut, spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from processors import Arrays


def main() -> None:
    """Measures and prints."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or _perceptron(Path(folder) / "perceptron.onnx")
        started = time.perf_counter()
        session = Session.open(
            path, providers=("CPUExecutionProvider",), threads=arguments.threads, slice=arguments.slice
        )
        open_s = time.perf_counter() - started
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = sample(session.contract, arguments.rows)
    slices = _slices(session, inputs, arguments.rows)
    names = [tensor.name for tensor in session.contract.outputs]

    def run_bare() -> None:
        for feed in slices:
            bare.run(names, feed)

    bare_s, session_s = _shortest(run_bare, lambda: session.run(inputs), arguments.repeats)
    print(
        json.dumps(
            {
                "benchmark": "session",
                "model": session.name,
                "rows": arguments.rows,
                "slice": session.slice,
                "threads": arguments.threads,
                "bare_us_per_row": round(bare_s / arguments.rows * 1e6, 4),
                "session_us_per_row": round(session_s / arguments.rows * 1e6, 4),
                "overhead": round(session_s / bare_s - 1, 4),
                "open_s": round(open_s, 3),
                "onnxruntime": onnxruntime.__version__,
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 2),
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--slice", type=int, default=0, help="rows of one run; 0 measures and picks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


def _slices(session: Session, inputs: Arrays, rows: int) -> list[Arrays]:
    axes = {tensor.name: tensor.batch_axis for tensor in session.contract.inputs}
    return [
        {
            name: array if (axis := axes[name]) is None else np.ascontiguousarray(cut(array, start, stop, axis))
            for name, array in inputs.items()
        }
        for start, stop in spans(rows, session.slice)
    ]


def _shortest(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    shortest = [float("inf"), float("inf")]
    for _ in range(repeats):
        for index, run in enumerate((first, second)):
            started = time.perf_counter()
            run()
            shortest[index] = min(shortest[index], time.perf_counter() - started)
    return shortest[0], shortest[1]


def _perceptron(path: Path) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {"w1": (18, 256), "w2": (256, 128), "w3": (128, 2)}
    nodes = [
        helper.make_node("MatMul", ["features", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["e"]),
        helper.make_node("Softmax", ["e"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 18])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5, name)
            for name, shape in weights.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    main()
