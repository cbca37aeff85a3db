"""Whether a model gives on a device what it gives on the CPU, and how fast."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from processors import _cuda, _hardware
from processors._compare import moved
from processors._contract import ModelError
from processors._lanes import bindable
from processors._provider_options import CUDA
from processors._slices import cut, reason
from scripts.gpu.ways import Contender, Opened, Place, open_bare, open_contender, open_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from processors import Arrays
    from processors._contract import Tensor
    from processors._session import Session
    from scripts.gpu.cases import Case

__all__ = ["Finding", "Plan", "Speed", "check"]

_MEGABYTE = 1_000_000


class Speed(msgspec.Struct, frozen=True):
    """Milliseconds of a call with so many rows, the median of some."""

    rows: int
    session_ms: float
    bare_ms: float | None
    """ONNX Runtime alone, all rows in one run; None where that failed."""
    cpu_ms: float | None
    """A session on one CPU thread; None where that takes too long."""


class Finding(msgspec.Struct, frozen=True):
    """What was found of one model in one way."""

    model: str
    way: str
    status: str
    """`ok`, `failed`, `skipped` (not installed, or not for this model) or `cpu` (no kernel for it)."""
    why: str = ""
    providers: tuple[str, ...] = ()
    nodes: dict[str, int] = {}
    """Nodes of the optimised graph by the provider that runs them."""
    used: str = ""
    """How slices run: bound memory, CUDA graphs, overlapped copies."""
    warnings: tuple[str, ...] = ()
    open_s: float = 0.0
    slice: int = 0
    memory_mb: float | None = None
    """GPU memory that the session took, the sweep included."""
    tolerance: float = 0.0
    differences: dict[str, float] = {}
    """Per output, from the CPU: share of its largest value, or of the rows whose whole number differs."""
    speeds: tuple[Speed, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    sizes: tuple[int, ...]
    budget_s: float
    """Of each figure."""
    slice: int = 0
    """Rows of one run; 0 measures the latency curve."""


def check(case: Case, contenders: Sequence[Contender], place: Place, plan: Plan) -> Iterator[Finding]:
    """Runs one model in every way."""
    if not place.dry and _used_bytes(place) is None:
        # The driver tells what memory is left once something runs on the GPU; that something is not to be counted.
        open_bare(case, contenders[0], place)
    cpu = open_cpu(case, plan.slice)
    cpu_ms = {rows: _cpu_ms(cpu, rows, plan.budget_s) for rows in plan.sizes}
    for contender in contenders:
        if place.dry and contender.provider != CUDA:
            yield Finding(case.name, contender.name, "skipped", "nothing stands in for it on a CPU")
            continue
        before = _used_bytes(place)
        began = time.perf_counter()
        try:
            opened = open_contender(case, contender, place, plan.slice)
        except ModelError as error:
            status = "skipped" if contender.half else "failed"
            yield Finding(case.name, contender.name, status, reason(error))
            continue
        open_s = time.perf_counter() - began
        yield _finding(case, contender, place, plan, cpu, cpu_ms, opened, open_s, before)
        del opened


def _finding(
    case: Case,
    contender: Contender,
    place: Place,
    plan: Plan,
    cpu: Session,
    cpu_ms: dict[int, float | None],
    opened: Opened,
    open_s: float,
    before: int | None,
) -> Finding:
    session = opened.session
    nodes = session.placement()
    known: dict[str, Any] = {
        "model": case.name,
        "way": contender.name,
        "providers": session.providers,
        "nodes": nodes,
        "used": str(session.way),
        "warnings": opened.warnings,
        "open_s": open_s,
        "slice": session.slice,
        "tolerance": contender.tolerance,
    }
    if not place.dry and contender.provider not in nodes:
        why = "; ".join(session.fallbacks) or "it runs no node of the model"
        return Finding(status=_elsewhere(contender, session), why=why, **known)
    try:
        differences, wrong = _compared(session, cpu, contender.tolerance)
        speeds = tuple(_sweep(case, contender, place, plan, session, cpu_ms))
    except Exception as error:  # the rest of the report is worth more than this model's trace
        return Finding(status="failed", why=reason(error), **known)
    after = _used_bytes(place)
    memory_mb = None if before is None or after is None else (after - before) / _MEGABYTE
    known |= {"differences": differences, "speeds": speeds, "memory_mb": memory_mb}
    if not session.way.bound and bindable(session.contract):
        wrong = wrong or "bound memory was not used: " + "; ".join(opened.warnings)
    return Finding(status="failed" if wrong else "ok", why=wrong, **known)


def _elsewhere(contender: Contender, session: Session) -> str:
    """What it means that another provider runs a model: no kernel for it, nothing installed, or a failure."""
    if any(_hardware.CPUS_ONLY in why for why in session.fallbacks):
        return "cpu"
    if contender.provider in session.providers:
        return "skipped" if _hardware.GPU_PROVIDERS & session.placement().keys() else "cpu"
    return "failed" if contender.provider == CUDA else "skipped"


def _compared(session: Session, cpu: Session, tolerance: float) -> tuple[dict[str, float], str]:
    """How far outputs are from the CPU's, and what is wrong with them; rows in other company and order included."""
    rows = min(2 * session.slice + 3, 3000)
    inputs = cpu.made_up(rows)
    expected, cpu_failed = cpu.run(inputs)
    actual, failed = session.run(inputs)
    if failed.keys() - cpu_failed.keys():
        row = min(failed.keys() - cpu_failed.keys())
        return {}, f"row {row} fails only here: {failed[row]}"
    found = moved(expected, actual)
    for name, apart in found.items():
        if not apart <= tolerance:
            return found, f"output {name!r} is {apart:.3g} from the CPU's, more than {tolerance:g}"
    kept = {name: array.copy() for name, array in actual.items()}
    order = np.random.default_rng(1).permutation(rows)
    shuffled, _ = session.run(_ordered(cpu.contract.inputs, inputs, order))
    for name, apart in moved(_ordered(cpu.contract.outputs, kept, order), shuffled).items():
        if not apart <= tolerance:
            return found, f"output {name!r} of a row depends on its neighbours: {apart:.3g}"
    if any(not np.array_equal(kept[name], actual[name], equal_nan=kept[name].dtype.kind == "f") for name in kept):
        return found, "results that were held changed with the next call"
    return found, ""


def _ordered(tensors: Sequence[Tensor], arrays: Arrays, order: np.ndarray) -> Arrays:
    return {
        tensor.name: arrays[tensor.name]
        if tensor.batch_axis is None
        else np.take(arrays[tensor.name], order, axis=tensor.batch_axis)
        for tensor in tensors
    }


def _sweep(
    case: Case, contender: Contender, place: Place, plan: Plan, session: Session, cpu_ms: dict[int, float | None]
) -> Iterator[Speed]:
    bare = open_bare(case, contender, place)
    names = [tensor.name for tensor in session.contract.outputs]
    most = session.made_up(plan.sizes[-1])
    for rows in plan.sizes:
        inputs = {
            tensor.name: most[tensor.name]
            if tensor.batch_axis is None
            else np.ascontiguousarray(cut(most[tensor.name], 0, rows, tensor.batch_axis))
            for tensor in session.contract.inputs
        }

        def run_session(inputs: Arrays = inputs) -> object:
            return session.run(inputs)

        def run_bare(inputs: Arrays = inputs) -> object:
            return bare.run(names, inputs)

        session_ms, bare_ms = _medians(run_session, run_bare, plan.budget_s)
        assert session_ms is not None, "a session isolates rows that fail"
        yield Speed(rows, session_ms, bare_ms, cpu_ms[rows])


def _medians(
    first: Callable[[], object], second: Callable[[], object], budget_s: float
) -> tuple[float | None, float | None]:
    """Median milliseconds of both, run in turns."""
    taken: list[list[float]] = [[], []]
    broken = [False, False]
    ends = time.perf_counter() + 2 * budget_s
    while time.perf_counter() < ends or not (taken[0] or broken[0]) or not (taken[1] or broken[1]):
        for index, run in enumerate((first, second)):
            if broken[index]:
                continue
            began = time.perf_counter()
            try:
                run()
            except Exception:  # a batch that does not fit into the memory, above all
                broken[index] = True
            else:
                taken[index].append((time.perf_counter() - began) * 1000)
    # The first run of each has a shape that is new to it.
    halves = [statistics.median(times[1:] or times) if times else None for times in taken]
    return halves[0], halves[1]


def _cpu_ms(cpu: Session, rows: int, budget_s: float) -> float | None:
    per_row_ms = min((point.ms / point.rows for point in cpu.curve), default=0.0)
    # A few runs should fit into twenty budgets; a large model on one thread takes minutes for what a GPU does at once.
    if per_row_ms * rows > 20 * budget_s * 1000:
        return None
    inputs = cpu.made_up(rows)
    return _medians(lambda: cpu.run(inputs), lambda: None, budget_s / 2)[0]


def _used_bytes(place: Place) -> int | None:
    driver = None if place.dry else _cuda.driver()
    memory = None if driver is None else driver.memory()
    return None if memory is None else memory[1] - memory[0]
