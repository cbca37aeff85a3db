"""How a session begins: where it runs, on how many threads, in slices of which size."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from onnx import helper
from sessions import open_model, rows

from processors import _hardware, _runtime, _session
from processors._contract import Contract, Tensor
from processors._curve import Point, measure, pick
from processors._session import SessionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of this module are made."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def doubling(folder: Path) -> Path:
    """`y = 2 x`."""
    return onnx_models.doubling(folder / "doubling.onnx")


# Providers and threads


def test_fallback_is_said_once_with_both_names_and_the_reason(doubling: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A provider that was asked for and is not here is named with the one used instead, once a process."""
    wanted = ("MIGraphXExecutionProvider", "CPUExecutionProvider")
    _runtime._said.clear()
    for _ in range(3):
        open_model(doubling, providers=wanted)

    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 1 == len(messages)
    assert "wanted MIGraphXExecutionProvider, got CPUExecutionProvider: this build" in messages[0]


@pytest.mark.skipif(_hardware.gpu_visible(), reason="this machine has a GPU")
def test_default_order_on_a_machine_without_gpu_does_not_warn(doubling: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A laptop is no reason to warn."""
    _runtime._said.clear()
    open_model(doubling, providers=_session.PROVIDERS)

    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.skipif(_hardware.gpu_visible(), reason="this machine has a GPU")
def test_required_gpu_fails_at_start_and_says_what_to_do(doubling: Path) -> None:
    """Nobody finds out from the bill that a GPU was not used."""
    with pytest.raises(SessionError, match=r"a GPU is required, .*uv sync --extra gpu.*nvidia-smi.*require_gpu"):
        open_model(doubling, providers=_session.PROVIDERS, require_gpu=True)


def test_file_that_is_no_model_is_named(folder: Path) -> None:
    """Neither a missing nor a broken file gives a bare error of the runtime."""
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no protobuf")

    with pytest.raises(SessionError, match=r"broken\.onnx: cannot be loaded: .*protobuf"):
        open_model(broken)
    with pytest.raises(SessionError, match=r"absent\.onnx: cannot be read"):
        open_model(folder / "absent.onnx")


def test_plan_keeps_the_wanted_order_and_ends_with_the_cpu() -> None:
    """Providers that are not installed are left out with a reason."""
    plan = _hardware.plan(
        ("TensorrtExecutionProvider", "CPUExecutionProvider", "CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("CUDAExecutionProvider", "CPUExecutionProvider"),
    )

    assert ("CUDAExecutionProvider", "CPUExecutionProvider") == plan.providers
    assert ["TensorrtExecutionProvider"] == [name for name, _ in plan.missing]


@pytest.mark.parametrize(
    ("threads", "workers", "cores", "expected"),
    [(0, 1, 8, 8), (0, 3, 8, 2), (0, 16, 8, 1), (4, 16, 8, 4), (0, 0, 2, 2)],
)
def test_threads_share_the_cores_among_workers(threads: int, workers: int, cores: int, expected: int) -> None:
    """As asked, else an equal share, at least one."""
    assert expected == _hardware.threads_for(threads, workers, cores)


@pytest.mark.parametrize(("quota", "most"), [("150000 100000", 1), ("max 100000", 10**6), ("rubbish", 10**6)])
def test_container_quota_bounds_the_cores(tmp_path: Path, quota: str, most: int) -> None:
    """A container that may use 1.5 cores of a large machine gets one thread, not 64."""
    (tmp_path / "cpu.max").write_text(quota)

    assert 1 <= _hardware.available_cores(tmp_path) <= most


def test_gpu_that_has_no_kernel_for_the_model_is_not_taken_for_one_that_runs_it() -> None:
    """A tree ensemble beside an idle GPU provider does not count as running on a GPU."""
    message = _hardware.no_gpu("trees@1", ("CUDAExecutionProvider", "CPUExecutionProvider"), (), ())

    assert "CUDAExecutionProvider has no kernel for any node of this model" in message


# Warm-up and curve


def test_warm_up_measures_and_picks_a_slice(folder: Path) -> None:
    """Without a given slice, the curve is there for reports and the slice is one of its sizes."""
    session = open_model(onnx_models.perceptron(folder / "perceptron_curve.onnx"), slice=0)

    assert session.slice in [point.rows for point in session.curve]
    assert [2**i for i in range(len(session.curve))] == [point.rows for point in session.curve]
    assert all(point.ms > 0 for point in session.curve)


def test_given_slice_is_not_measured(doubling: Path) -> None:
    """Who sets a slice gets it, and a faster start."""
    session = open_model(doubling, slice=7)

    assert (7, ()) == (session.slice, session.curve)


def test_model_that_takes_no_made_up_rows_works_unmeasured(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that needs two inputs to fit each other still runs; the warning says what to declare."""
    path = onnx_models.save(
        folder / "fitting.onnx",
        [
            helper.make_node("Concat", ["x", "x"], ["xx"], axis=1),
            helper.make_node("Sub", ["xx", "z"], ["y"]),
        ],
        {"x": (onnx_models.FLOAT, ["batch", "half"]), "z": (onnx_models.FLOAT, ["batch", "full"])},
        {"y": (onnx_models.FLOAT, ["batch", "full"])},
    )
    session = open_model(path, slice=0)
    outputs, failed = session.run({"x": rows(300, 2), "z": np.zeros((300, 4), np.float32)})

    assert ({}, (300, 4)) == (failed, outputs["y"].shape)
    assert any("give `axes` or `values` in its contract" in record.getMessage() for record in caplog.records)

    with_axes = Contract(session.contract.inputs, session.contract.outputs, axes={"half": 2, "full": 4})
    assert open_model(path, slice=0, expects=with_axes).curve


def test_declared_values_bound_made_up_rows(folder: Path) -> None:
    """Token ids stay inside the table where the contract says its range."""
    index = Tensor("index", "int64", ("batch",), values=(50, 99))
    path = onnx_models.table(folder / "values.onnx")
    session = open_model(path, expects=Contract((index,), (Tensor("square", "float32", ("batch",)),)), slice=0)

    assert session.curve


def test_curve_prefers_the_smallest_slice_within_a_twentieth_of_the_best() -> None:
    """Larger slices have to earn their latency."""
    points = [Point(1, 1.0), Point(64, 2.1), Point(128, 3.9), Point(256, 7.6), Point(512, 30.0)]

    assert 128 == pick(points)
    assert 1 == pick([Point(1, 7.4), Point(8, 69.0)])


def test_curve_keeps_to_its_time() -> None:
    """A slow model is measured at the sizes that fit the budget, and always at the first."""
    now = 0.0

    def run(size: int) -> None:
        nonlocal now
        now += 0.1 * size

    points = measure(run, budget_s=1.5, clock=lambda: now)

    assert [1, 2] == [point.rows for point in points][:2]
    assert now < 2.5
    now = 0.0
    slow = measure(lambda size: run(100 * size), budget_s=1.5, clock=lambda: now)
    assert [1] == [point.rows for point in slow]


def test_curve_ends_before_a_size_that_fails() -> None:
    """Memory that runs out at some size does not stop the start."""

    def run(size: int) -> None:
        if size > 8:
            raise MemoryError

    assert [1, 2, 4, 8] == [point.rows for point in measure(run)]


def test_measuring_does_not_repeat_the_same_rows(folder: Path) -> None:
    """Branches that a core has learnt by heart would make small slices of trees look twice as fast as they are."""
    session = open_model(onnx_models.perceptron(folder / "perceptron_rows.onnx"))
    seen: set[bytes] = set()
    runs = 0
    inner = session._rows.run_once

    def run_once(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        nonlocal runs
        if len(feed["features"]) == 8:
            runs += 1
            seen.add(feed["features"].tobytes())
        return inner(feed)

    session._rows.run_once = run_once
    session.measure()

    assert runs > 10
    assert len(seen) >= min(runs, 400) - 1


def test_memory_of_the_measuring_is_given_back(folder: Path) -> None:
    """What the largest size of the curve took is not held for as long as the worker lives."""
    path = onnx_models.save(
        folder / "wide.onnx",
        [
            helper.make_node("Tile", ["x", "times"], ["wide"]),
            helper.make_node("Tanh", ["wide"], ["t"]),
            helper.make_node("ReduceMax", ["t"], ["y"], axes=[1], keepdims=1),
        ],
        {"x": (onnx_models.FLOAT, ["batch", 1])},
        {"y": (onnx_models.FLOAT, ["batch", 1])},
        {"times": np.array([1, 16_384])},
    )
    code = f"""
import pathlib
from processors._session import Session
session = Session.open(pathlib.Path({str(path)!r}), providers=("CPUExecutionProvider",), threads=1, slice=1)
session.run_together(session.made_up(1024))
session.measure(budget_s=0.01)
fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Vm"))
print(*(int(fields[name].split()[0]) // 1000 for name in ("VmHWM", "VmRSS")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    peak_mb, now_mb = map(int, done.stdout.split())

    # One of the two intermediates of 1,024 rows, 67 MB each.
    assert peak_mb - now_mb > 67


def test_curve_gives_up_where_larger_slices_only_get_worse() -> None:
    """Two sizes far below the best end the measuring."""
    now = 0.0

    def run(size: int) -> None:
        nonlocal now
        now += 1e-4 * size * (1 if size < 32 else 4)

    points = measure(run, budget_s=60, clock=lambda: now)

    assert 64 == points[-1].rows
