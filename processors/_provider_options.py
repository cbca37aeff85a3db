"""What execution providers are told: options, shape profiles, and the order in which combinations are tried. Pure.

Names of options are ONNX Runtime's (docs/execution-providers in its repository). A combination that does not start is
followed by one that asks for less, and only then by the next provider: a model with a loop cannot have CUDA graphs,
but it can have CUDA.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from processors._hardware import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processors._contract import Contract

__all__ = ["CUDA", "TENSORRT", "Attempt", "EngineCache", "Gpu", "Profile", "attempts", "engine_folder", "shape_profile"]

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_ARENA = {"exact": "kSameAsRequested", "doubling": "kNextPowerOfTwo"}


class Gpu(msgspec.Struct, frozen=True):
    """How a model is run on a GPU; nothing of it matters on a CPU."""

    device_id: int = 0
    memory_mb: int = 0
    """Limit of ONNX Runtime's arena on the GPU; 0 sets none."""
    arena: Literal["exact", "doubling"] = "exact"
    """How the arena grows: by what is asked for, or by powers of two. It gives nothing back by itself."""
    precision: Literal["float32", "tf32", "float16"] = "float32"
    """What matrices of float32 may be multiplied in: 24, 11 or 11 bits with a narrow range."""
    cuda_graphs: bool = False
    """Whether runs are captured per bucket and replayed with one launch."""
    overlap: bool = False
    """Whether one slice is copied while another one runs."""


class EngineCache(msgspec.Struct, frozen=True):
    """Where TensorRT keeps what takes it minutes to find."""

    engines: Path
    """Of one model, one version of everything and one kind of GPU."""
    timings: Path
    """Of all models on that kind of GPU."""


class Profile(msgspec.Struct, frozen=True):
    """Shapes that an engine must take, as TensorRT wants them: `input:1x18,other:1x4`."""

    smallest: str
    best: str
    largest: str


class Attempt(msgspec.Struct, frozen=True):
    """Providers with their options that are tried together."""

    providers: tuple[tuple[str, dict[str, Any]], ...]
    cuda_graphs: bool = False

    @property
    def first(self) -> str:
        """The provider that this is about."""
        return self.providers[0][0]


def attempts(
    providers: Sequence[str], gpu: Gpu, cache: EngineCache | None = None, profile: Profile | None = None
) -> list[Attempt]:
    """What to try, the most wanted first.

    Args:
        providers: In order of preference, the CPU last.
        gpu: What is wanted of a GPU.
        cache: For TensorRT; None builds engines again at each start.
        profile: For TensorRT, where the shapes are known beforehand.
    """
    tried: list[Attempt] = []
    for index, provider in enumerate(providers):
        after = [(name, _options(name, gpu, cache)) for name in providers[index + 1 :]]
        options = _options(provider, gpu, cache)
        if provider == TENSORRT and profile is not None:
            tried.append(Attempt(((provider, options | _profile_options(profile)), *after)))
        # TensorRT's provider keeps one graph whatever its id, which would be replayed for the wrong bucket.
        if provider == CUDA and gpu.cuda_graphs:
            tried.append(Attempt(((provider, options | {"enable_cuda_graph": "1"}), *after), cuda_graphs=True))
        tried.append(Attempt(((provider, options), *after)))
    return tried or [Attempt(((CPU, {}),))]


def shape_profile(contract: Contract, best: int, largest: int) -> Profile | None:
    """Shapes from one row to the largest slice; None where an axis beside the rows is free too.

    Without one, TensorRT builds an engine for the first shape it sees, and again for each that is larger.
    """
    counted = [tensor for tensor in contract.inputs if tensor.batch_axis is not None]
    if any(
        isinstance(axis, str) and index != tensor.batch_axis
        for tensor in contract.inputs
        for index, axis in enumerate(tensor.shape)
    ):
        return None

    def shapes(rows: int) -> str:
        return ",".join(
            f"{tensor.name}:" + "x".join(str(rows if isinstance(axis, str) else axis) for axis in tensor.shape)
            for tensor in counted
        )

    return Profile(shapes(1), shapes(min(best, largest)), shapes(largest))


def engine_folder(cache_dir: Path, model: str, versions: Sequence[str], gpu: str) -> EngineCache:
    """Where engines of a model lie: an engine is right for one model, one version of each library and one kind of GPU.

    Args:
        cache_dir: The cache directory.
        model: Digest of the model's file.
        versions: Of ONNX Runtime, TensorRT and the driver.
        gpu: Its name and compute capability.
    """
    place = "-".join(re.sub(r"[^0-9A-Za-z.]+", "_", word) for word in (*versions, gpu) if word)
    return EngineCache(cache_dir / "tensorrt" / place / model, cache_dir / "tensorrt" / place)


def _options(provider: str, gpu: Gpu, cache: EngineCache | None) -> dict[str, Any]:
    if provider == CUDA:
        options = {
            "device_id": str(gpu.device_id),
            "arena_extend_strategy": _ARENA[gpu.arena],
            # On by itself, which moves outputs by about a thousandth of their size.
            "use_tf32": "0" if gpu.precision == "float32" else "1",
        }
        return options | ({"gpu_mem_limit": str(gpu.memory_mb * 1024 * 1024)} if gpu.memory_mb else {})
    if provider == TENSORRT:
        options = {"device_id": str(gpu.device_id)}
        if gpu.precision == "float16":
            options["trt_fp16_enable"] = "1"
        if cache is not None:
            options |= {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(cache.engines),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(cache.timings),
            }
        return options
    return {}


def _profile_options(profile: Profile) -> dict[str, str]:
    return {
        "trt_profile_min_shapes": profile.smallest,
        "trt_profile_opt_shapes": profile.best,
        "trt_profile_max_shapes": profile.largest,
    }
