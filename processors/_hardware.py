"""Which execution providers a session gets, and how many threads. Pure but for looking at the machine."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "CPU",
    "CPUS_ONLY",
    "CUDA_PROVIDERS",
    "GPU_PROVIDERS",
    "Plan",
    "available_cores",
    "device_for",
    "fallbacks",
    "gpu_visible",
    "idle_gpu",
    "left_on_cpu",
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


CPUS_ONLY = "runs on CPUs only"

# The domain of operators of classic machine learning, for which no GPU provider has kernels.
_CLASSIC = "ai.onnx.ml."

# In the names of the operators that a GPU is there for, fused ones included.
_HEAVY = ("Attention", "Conv", "GRU", "Gemm", "LSTM", "MatMul", "RNN", "Einsum")

# ONNX Runtime places these on the CPU on purpose: what they work on is a few numbers that say how large something is.
_OF_SHAPES = frozenset(
    {"Cast", "Concat", "ConstantOfShape", "Gather", "Range", "ReduceProd", "Reshape", "Shape", "Size", "Slice"}
    | {"Add", "Div", "Equal", "Mul", "Squeeze", "Sub", "Unsqueeze", "Where"}
)


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


def no_gpu(name: str, active: Sequence[str], available: Sequence[str], reasons: Sequence[str]) -> str:
    """Why a model that must run on a GPU does not, and what to do."""
    if GPU_PROVIDERS & set(active):
        return (
            f"{name}: a GPU is required, but {active[0]} has no kernel for any node of this model; "
            "set model.require_gpu to false for it"
        )
    return (
        f"{name}: a GPU is required, and none runs it ({'; '.join(reasons)}; available here: "
        f"{', '.join(available)}); install with `uv sync --extra gpu --no-group cpu`, "
        "check that `nvidia-smi` shows the GPU, or set model.require_gpu to false (tree ensembles run on CPUs only)"
    )


def idle_gpu(operators: Mapping[str, Sequence[str]]) -> str:
    """Why a GPU has nothing to do for a model although it got nodes of it; empty where it has, or was not asked.

    A tree ensemble ends in a sum and a sigmoid. A GPU that gets these alone adds two copies to what a CPU does.

    Args:
        operators: By the provider that runs them, one per node.
    """
    on_gpu = [name for provider, names in operators.items() if provider in GPU_PROVIDERS for name in names]
    classic = sorted({name for name in operators.get(CPU, ()) if name.startswith(_CLASSIC)})
    if not operators.keys() & GPU_PROVIDERS or not classic or any(_is_heavy(name) for name in on_gpu):
        return ""
    short = ", ".join(name.removeprefix(_CLASSIC) for name in classic)
    return f"its work is {short}, which {CPUS_ONLY}"


def left_on_cpu(operators: Mapping[str, Sequence[str]]) -> str:
    """Operators that a CPU runs beside a GPU, counted, apart from those that only deal with shapes; empty for none."""
    if not operators.keys() & GPU_PROVIDERS:
        return ""
    left = Counter(name for name in operators.get(CPU, ()) if name not in _OF_SHAPES)
    return ", ".join(f"{name} {number}" for name, number in sorted(left.items()))


def _is_heavy(name: str) -> bool:
    # What TensorRT takes over is one node with a name of its own.
    return name.startswith("TRTKernel") or any(word in name for word in _HEAVY)


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
