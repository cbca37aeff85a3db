"""Checks a GPU: the same outputs as the CPU for every model, and what each way of running them costs. Needs no Kafka.

    python scripts/gpu_check.py [MODEL …] [--quick] [--out DIR] [--device 0] [--data DIR]
    python scripts/gpu_check.py --cpu-only [--quick]

Writes gpu-check.json and gpu-check.md to DIR. A checkout and `pip install onnxruntime-gpu[cuda,cudnn] onnx msgspec
platformdirs` are all that it needs; docs/gpu.md says how to read the report.

Exit codes: 0 all is well; 1 a model gives other outputs, or does not run where it should; 2 wrong arguments;
3 no GPU here. With --cpu-only the CPU stands in: every step runs, and no figure means anything for a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import onnxruntime

from processors import _cuda
from processors._provider_options import CUDA
from scripts.bench.machine import now
from scripts.gpu.cases import cases
from scripts.gpu.measure import Finding, Plan, check
from scripts.gpu.report import Report, as_json, machine, markdown
from scripts.gpu.ways import CONTENDERS, Place

NO_GPU = 3

_FULL = Plan((1, 8, 64, 256, 1024, 4096, 16_384), 0.3)
_QUICK = Plan((1, 64, 1024), 0.1)
_DRY = Plan((1, 8, 64), 0.01, slice=16)


def main(arguments: list[str] | None = None) -> int:
    """Checks and reports; returns the exit code."""
    asked = _arguments(arguments)
    missing = "" if asked.cpu_only else why_no_gpu(asked.device)
    if missing:
        sys.stderr.write(f"no GPU here: {missing}\n`--cpu-only` runs every step on the CPU instead.\n")
        return NO_GPU
    began, started = now(), time.perf_counter()
    asked.out.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    plan = _DRY if asked.cpu_only else _QUICK if asked.quick else _FULL
    with tempfile.TemporaryDirectory(prefix="headrace-gpu-") as folder:
        # Engines are kept where they are asked for, so that a second run shows what a second start costs.
        place = Place(asked.device, asked.cache or Path(folder) / "cache", dry=asked.cpu_only)
        for case in cases(Path(folder), asked.data, asked.models):
            for finding in check(case, CONTENDERS, place, plan):
                findings.append(finding)
                print(f"{finding.model}, {finding.way}: {finding.status} {finding.why}".rstrip(), flush=True)
    seconds = time.perf_counter() - started
    report = Report(began, asked.cpu_only, seconds, machine(asked.device, dry=asked.cpu_only), tuple(findings))
    (asked.out / "gpu-check.json").write_text(json.dumps(as_json(report), indent=1) + "\n")
    (asked.out / "gpu-check.md").write_text(markdown(report))
    print(f"{asked.out / 'gpu-check.md'}: {len(findings)} findings, {len(report.failed)} failed")
    return 1 if report.failed or not findings else 0


def why_no_gpu(device: int) -> str:
    """What is missing for a check of a GPU; empty where nothing is."""
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        return (
            f"this ONNX Runtime ({onnxruntime.__version__}) has only {', '.join(available)}; "
            "install onnxruntime-gpu instead (`uv sync --extra gpu --no-group cpu`)"
        )
    driver = _cuda.driver()
    if driver is None or driver.count() == 0:
        return "NVIDIA's driver is not here, or shows no GPU to this process (does `nvidia-smi` list one?)"
    if device >= driver.count():
        return f"there is no device {device}; this process sees {driver.count()}"
    return ""


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names without versions; all where none is given")
    parser.add_argument("--cpu-only", action="store_true", help="dry run on the CPU")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and shorter measuring")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the report")
    parser.add_argument("--device", type=int, default=0, help="the GPU, where there are several")
    parser.add_argument("--data", type=Path, help="data directory whose models are checked too")
    parser.add_argument("--cache", type=Path, help="where TensorRT's engines are kept between runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
