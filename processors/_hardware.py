"""Which execution providers a session gets, and how many threads. Pure but for looking at the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "CPU",
    "CUDA_PROVIDERS",
    "GPU_PROVIDERS",
    "Plan",
    "available_cores",
    "device_for",
    "fallbacks",
    "gpu_visible",
    "no_gpu",
    "plan",
    "threads_for",
]

CPU = "CPUExecutionProvider"

GPU_PROVIDERS = frozenset(
    {
        "CUDAExecutionProvider",
        "DmlExecutionProvider",
        "MIGraphXExecutionProvider",
        "NvTensorRTRTXExecutionProvider",
        "ROCMExecutionProvider",
        "TensorrtExecutionProvider",
    }
)

# Providers whose tensors live on a "cuda" device, so that inputs and outputs can be bound there.
CUDA_PROVIDERS = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})


class Plan(msgspec.Struct, frozen=True):
    """The providers to try, in order, and why others of those wanted are not among them."""

    providers: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    """(provider, reason)."""


def plan(wanted: Sequence[str], available: Sequence[str]) -> Plan:
    """The wanted providers that this build of ONNX Runtime has; CPU always comes last."""
    present = [name for name in dict.fromkeys(wanted) if name in available and name != CPU]
    missing = [
        (name, f"this build of ONNX Runtime has only {', '.join(available)}")
        for name in dict.fromkeys(wanted)
        if name not in available
    ]
    return Plan((*present, CPU), tuple(missing))


def fallbacks(wanted: Sequence[str], got: str, reasons: Mapping[str, str]) -> list[str]:
    """A sentence for each provider that comes before the one we got."""
    before = list(wanted)[: list(wanted).index(got)] if got in wanted else list(wanted)
    return [f"wanted {name}, got {got}: {reasons.get(name, 'it runs no part of the model')}" for name in before]


def no_gpu(name: str, active: Sequence[str], available: Sequence[str]) -> str:
    """Why a model that must run on a GPU does not, and what to do."""
    if GPU_PROVIDERS & set(active):
        return (
            f"{name}: a GPU is required, but {active[0]} has no kernel for any node of this model "
            "(tree ensembles run on CPUs only); set model.require_gpu to false for it"
        )
    return (
        f"{name}: a GPU is required, and none runs it (the log has each provider's reason; available here: "
        f"{', '.join(available)}); install with `uv sync --extra gpu --no-group cpu`, "
        "check that `nvidia-smi` shows the GPU, or set model.require_gpu to false"
    )


def gpu_visible() -> bool:
    """Whether this machine shows an NVIDIA GPU to this process, whatever is installed."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def threads_for(threads: int, workers: int, cores: int) -> int:
    """Intra-op threads of one session: as asked, or the cores shared among the workers, at least one."""
    return threads if threads > 0 else max(1, cores // max(1, workers))


def device_for(wanted: int | Literal["auto"], slot: str, gpus: int) -> int:
    """The GPU of a worker: as asked, or the number at the end of its slot, counted around the GPUs that it sees."""
    if wanted != "auto":
        return wanted
    number = re.search(r"\d+$", slot)
    return int(number[0]) % gpus if number and gpus else 0


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: by its affinity and by its container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores
