"""The report: JSON for programs, Markdown for people."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnxruntime

from processors import _cuda
from scripts.bench.machine import cores, cpu
from scripts.gpu.measure import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scripts.gpu.measure import Speed

__all__ = ["Machine", "Report", "machine", "markdown"]


class Machine(msgspec.Struct, frozen=True):
    """Where the check ran."""

    gpu: str
    """Empty where the CPU stood in."""
    capability: str
    gpu_memory_gb: float
    driver_cuda: str
    """The newest CUDA that the driver can run."""
    runtime_cuda: str
    """The CUDA that ONNX Runtime was built for."""
    tensorrt: str
    onnxruntime: str
    providers: tuple[str, ...]
    python: str
    numpy: str
    cpu: str
    cores: int
    system: str


class Report(msgspec.Struct, frozen=True):
    """Everything that was found."""

    began: str
    dry: bool
    seconds: float
    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        """What must not be."""
        return [finding for finding in self.findings if finding.status == "failed"]


def machine(device_id: int, *, dry: bool) -> Machine:
    """This machine, and the versions of what has a part in the figures."""
    driver = None if dry else _cuda.driver()
    facts = None if driver is None else driver.gpus()[device_id]
    return Machine(
        gpu=facts.name if facts else "",
        capability=facts.capability if facts else "",
        gpu_memory_gb=round(facts.memory_bytes / 1e9, 1) if facts else 0.0,
        driver_cuda=driver.version() if driver else "",
        runtime_cuda=str(getattr(onnxruntime, "cuda_version", "") or ""),
        tensorrt=_cuda.tensorrt_version(),
        onnxruntime=f"{onnxruntime.__version__} ({_distribution()})",
        providers=tuple(onnxruntime.get_available_providers()),
        python=platform.python_version(),
        numpy=version("numpy"),
        cpu=cpu(),
        cores=cores(),
        system=f"{platform.system()} {platform.release()}",
    )


def markdown(report: Report) -> str:
    """The report for people."""
    here = report.machine
    title = "# Dry run: the CPU stood in for a GPU" if report.dry else f"# GPU check: {here.gpu}"
    parts = [title, ""]
    if report.dry:
        parts += ["Nothing here says how fast a GPU is. It shows that every step of the check runs.", ""]
    parts += [f"{report.began}, {report.seconds:.0f} s. Made with `{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}`."]
    parts += ["", *_table(("", ""), [(name, str(value)) for name, value in _facts(here)])]
    parts += ["", "## What was found", "", *_table(*_overview(report.findings))]
    if report.failed:
        parts += ["", "## Failed", "", *(f"- {one.model}, {one.way}: {one.why}" for one in report.failed)]
    parts += ["", "## Milliseconds a call", "", _HOW_TO_READ]
    for model in dict.fromkeys(finding.model for finding in report.findings):
        found = [finding for finding in report.findings if finding.model == model and finding.speeds]
        if found:
            parts += ["", f"### {model}", "", *_table(*_speeds(found)), "", _best(found)]
    warned = [(one, warning) for one in report.findings for warning in one.warnings]
    if warned:
        parts += ["", "## Warnings", "", *(f"- {one.model}, {one.way}: {warning}" for one, warning in warned)]
    return "\n".join(parts) + "\n"


_HOW_TO_READ = (
    "Rows are those of one call: a session cuts them into slices, `bare` is ONNX Runtime alone with all of them in one "
    "run on arrays of the host, `cpu` a session on one CPU thread. Medians; each pair was run in turns."
)


def _facts(here: Machine) -> list[tuple[str, object]]:
    return [
        ("GPU", f"{here.gpu}, compute capability {here.capability}, {here.gpu_memory_gb} GB" if here.gpu else "none"),
        ("driver", f"runs CUDA up to {here.driver_cuda}" if here.driver_cuda else "none"),
        ("ONNX Runtime", f"{here.onnxruntime}, built for CUDA {here.runtime_cuda or '-'}"),
        ("TensorRT", here.tensorrt or "not installed"),
        ("Python, NumPy", f"{here.python}, {here.numpy}"),
        ("CPU", f"{here.cpu}, {here.cores} cores"),
        ("system", here.system),
    ]


def _overview(findings: Iterable[Finding]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for one in findings:
        on = ", ".join(f"{name.removesuffix('ExecutionProvider')} {count}" for name, count in one.nodes.items())
        apart = max(one.differences.values(), default=None)
        rows.append(
            (
                one.model,
                one.way,
                one.status if one.status in ("ok", "failed") else f"{one.status}: {one.why}",
                one.used,
                on,
                str(one.slice or ""),
                "" if apart is None else f"{apart:.1e} of {one.tolerance:.0e}",
                f"{one.open_s:.1f}" if one.open_s else "",
                "" if one.memory_mb is None else f"{one.memory_mb:.0f}",
            )
        )
    return ("model", "way", "status", "slices run with", "nodes", "slice", "differs by", "open s", "GPU MB"), rows


def _speeds(found: Sequence[Finding]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    first = found[0]
    columns = ["rows", "cpu", f"bare {first.way}", *(finding.way for finding in found)]
    rows = []
    for index, speed in enumerate(first.speeds):
        ours = [_ms(finding.speeds[index].session_ms) for finding in found]
        rows.append((str(speed.rows), _ms(speed.cpu_ms), _ms(speed.bare_ms), *ours))
    return columns, rows


def _best(found: Sequence[Finding]) -> str:
    """The highest rate of all, and of how many rows a call has to be for it."""

    def rate(pair: tuple[Finding, Speed]) -> float:
        return pair[1].rows / pair[1].session_ms * 1000

    fine = [(one, speed) for one in found if one.status == "ok" for speed in one.speeds]
    if not fine:
        return "No way is right, so none is the fastest."
    finding, speed = max(fine, key=rate)
    line = f"Most rows a second: {rate((finding, speed)):,.0f} with {finding.way}, {speed.rows} rows a call"
    if speed.cpu_ms:
        line += f"; {speed.cpu_ms / speed.session_ms:.1f} times one CPU thread"
    if speed.bare_ms:
        line += f", {speed.bare_ms / speed.session_ms:.2f} times ONNX Runtime alone"
    return line + "."


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(columns), ["---"] * len(columns), *map(list, rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _distribution() -> str:
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    return "unknown"


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found
