"""ONNX Runtime: how a model file becomes a running one, what it declares, and where its nodes run.

The one file that imports ONNX Runtime.
"""

from __future__ import annotations

import copy
import ctypes
import fcntl
import hashlib
import io
import logging
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession

from processors import _cuda, _hardware, _slices
from processors._contract import Declared, ModelError
from processors._custom_ops import register_custom_ops, with_custom_ops_advice
from processors._lanes import NO_GRAPH
from processors._provider_options import TENSORRT, EngineCache, Gpu, Profile, attempts, engine_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from processors import Arrays

__all__ = [
    "PROVIDERS",
    "DeviceMemory",
    "HostRunner",
    "InferenceSession",
    "Loaded",
    "SessionError",
    "available_providers",
    "declared",
    "load",
    "operators",
    "placement",
]

PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", _hardware.CPU)

_NOWHERE = "/nowhere"

# ONNX Runtime's words for element types, where they are not NumPy's.
_DTYPES = {"float": "float32", "double": "float64"}

# Fallbacks that this process has logged: every model of a worker would say the same.
_said: set[str] = set()


class SessionError(ModelError, RuntimeError):
    """A model that cannot be loaded here."""


def available_providers() -> tuple[str, ...]:
    """The execution providers that this install of ONNX Runtime has."""
    return tuple(onnxruntime.get_available_providers())


class Loaded(NamedTuple):
    """ONNX Runtime's session, and what it was made with."""

    runtime: InferenceSession
    cuda_graphs: bool
    fallbacks: tuple[str, ...]
    """Why providers that were wanted more do not run it."""


def load(
    content: bytes,
    name: str,
    files: Mapping[str, bytes],
    *,
    threads: int,
    wanted: Sequence[str],
    gpu: Gpu,
    cache_dir: Path | None,
    profile: Profile | None,
    custom_ops: Mapping[str, str],
    log: logging.Logger,
) -> Loaded:
    """A session on the first wanted provider that starts; ONNX Runtime's own fallback does not say why it was one.

    Args:
        content: The model.
        name: What errors call it.
        files: What its tensors lie in besides, by the name it uses.
        threads: Intra-op threads.
        wanted: Execution providers in order of preference.
        gpu: How it is run on a GPU.
        cache_dir: Where TensorRT keeps its engines; None builds them again.
        profile: Shapes for TensorRT, where they are known.
        custom_ops: Libraries of custom operators with their sha256.
        log: Where fallbacks are told.
    """
    options = _options(threads, files)
    register_custom_ops(options, custom_ops)
    plan = _hardware.plan(wanted, onnxruntime.get_available_providers())
    missing = dict(plan.missing)
    if _hardware.CUDA_PROVIDERS & set(plan.providers):
        # It prints what it cannot load, and standard output is for answers; `_why_not` says it where it matters.
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    cache = _engine_cache(cache_dir, content, gpu.device_id, log) if TENSORRT in plan.providers else None
    for attempt in attempts(plan.providers, gpu, cache, profile):
        try:
            with _engines_of_one(cache if attempt.first == TENSORRT else None):
                runtime = InferenceSession(content, options, providers=list(attempt.providers), enable_fallback=0)
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            if attempt.first == _hardware.CPU:
                reason = with_custom_ops_advice(_slices.reason(error))
                raise SessionError(f"{name}: cannot be loaded: {reason}") from error
            missing[attempt.first] = _slices.reason(error)
            if attempt.cuda_graphs:
                log.warning("%s: is tried without CUDA graphs: %s", name, missing[attempt.first])
        else:
            if attempt.first not in runtime.get_providers():
                missing[attempt.first] = _why_not(attempt.first)
            elif idle := _hardware.idle_gpu(operators(runtime)):
                missing[attempt.first] = idle
            else:
                break
    fallbacks = _hardware.fallbacks(wanted, attempt.first, missing)
    _say_once(wanted, fallbacks, log)
    return Loaded(runtime, attempt.cuda_graphs, tuple(fallbacks))


def _why_not(provider: str) -> str:
    """Why a provider did not start: ONNX Runtime only says it on standard error."""
    if _cuda.driver() is None and provider in _hardware.CUDA_PROVIDERS:
        return _missing_library(provider) or "NVIDIA's driver shows no GPU to this process"
    return _missing_library(provider) or "it did not start, and ONNX Runtime does not say why"


def _missing_library(provider: str) -> str:
    short = provider.removesuffix("ExecutionProvider").lower()
    file = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{short}.so"
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        return str(error) if "cannot open shared object file" in str(error) and str(file) not in str(error) else ""
    return ""


def _engine_cache(cache_dir: Path | None, content: bytes, device_id: int, log: logging.Logger) -> EngineCache | None:
    driver = _cuda.driver()
    if cache_dir is None or driver is None or device_id >= driver.count():
        return None
    facts = driver.gpus()[device_id]
    versions = (f"ort{onnxruntime.__version__}", f"trt{_cuda.tensorrt_version()}", f"cuda{driver.version()}")
    digest = hashlib.sha256(content).hexdigest()[:16]
    cache = engine_folder(cache_dir, digest, versions, f"{facts.name} {facts.capability}")
    try:
        cache.engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("TensorRT builds its engines at each start: %s cannot be made: %s", cache.engines, error)
        return None
    return cache


@contextmanager
def _engines_of_one(cache: EngineCache | None) -> Iterator[None]:
    """Lets one process of a machine build engines of a model; the others wait, and find them built."""
    if cache is None:
        yield
        return
    with (cache.engines / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _options(threads: int, files: Mapping[str, bytes]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Nothing on stderr: errors come as exceptions, and a poison row would print each of its runs.
    options.log_severity_level = 4
    # Threads that spin between runs take the cores from decoding and encoding: on 2 cores, with 0.5 ms of other work
    # between runs, spinning doubled the CPU time of a row (2.9 to 5.4 us) and lowered the rate, with 1 worker and 2.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What it refers to was read and checked; anything else it would look for where nothing is.
    options.add_external_initializers_from_files_in_memory([*files], [*files.values()], [*map(len, files.values())])
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _say_once(wanted: Sequence[str], messages: list[str], log: logging.Logger) -> None:
    """Logs fallbacks that this process has not logged yet."""
    # The default order asks for GPUs that most machines do not have; that alone is no reason to warn.
    level = logging.INFO if tuple(wanted) == PROVIDERS and not _hardware.gpu_visible() else logging.WARNING
    for message in messages:
        if message not in _said:
            _said.add(message)
            log.log(level, "%s", message)


def operators(runtime: InferenceSession) -> dict[str, list[str]]:
    """The operators that each execution provider runs, one per node; those of other domains than ONNX's with it."""
    found: dict[str, list[str]] = {}
    for part in runtime.get_provider_graph_assignment_info():
        names = [f"{node.domain}.{node.op_type}".lstrip(".") for node in part.get_nodes()]
        found.setdefault(part.ep_name, []).extend(names)
    return found


def placement(runtime: InferenceSession) -> dict[str, int]:
    """How many nodes of the optimised graph each execution provider runs."""
    return {provider: len(names) for provider, names in operators(runtime).items()}


def declared(runtime: InferenceSession) -> tuple[list[Declared], list[Declared]]:
    """The inputs and the outputs that a model file declares."""
    inputs, outputs = (
        [Declared(tensor.name, _dtype(tensor.type), tuple(tensor.shape)) for tensor in tensors]
        for tensors in (runtime.get_inputs(), runtime.get_outputs())
    )
    return inputs, outputs


def _dtype(word: str) -> str:
    """NumPy's name of `tensor(float)`; what is no tensor stays as it is."""
    if not word.startswith("tensor("):
        return word
    element = word.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(element, element)


class HostRunner:
    """Runs on arrays in host memory; ONNX Runtime copies to a device where it must.

    Args:
        runtime: ONNX Runtime's session.
        outputs: Names of what is computed.
        graphs: Whether the session was made for CUDA graphs, which these runs then stay out of.
    """

    def __init__(self, runtime: InferenceSession, outputs: Sequence[str], *, graphs: bool = False) -> None:
        # The wrapper in Python checks what the contract has checked: 1 of 9 us of a small model's run.
        self._run = getattr(runtime, "_sess", runtime).run
        self._outputs = list(outputs)
        self._graph = NO_GRAPH if graphs else None
        self._options = _run_options(self._graph) if graphs else None

    def __call__(self, feed: Arrays) -> list[np.ndarray]:
        results: list[np.ndarray] = self._run(self._outputs, feed, self._options)
        return results

    def shrinking(self, device: str, device_id: int) -> HostRunner:
        """A runner after whose runs ONNX Runtime gives unused memory of its arenas back, on the host and a device."""
        places = ["cpu:0"] if device == "cpu" else ["cpu:0", f"gpu:{device_id}"]
        other = copy.copy(self)
        other._options = _run_options(self._graph)
        other._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", ";".join(places))
        return other


class DeviceMemory:
    """Buffers of a device and their counterparts on the host's side.

    Args:
        device: ONNX Runtime's word for it.
        device_id: The device, where there are several.
        shared: Whether device and host are one memory, so that nothing is copied; so by default on the CPU.
        driver: Gives page-locked memory and copies; without it ONNX Runtime copies, by way of memory of its own.
    """

    def __init__(
        self,
        device: str = "cuda",
        device_id: int = 0,
        *,
        shared: bool | None = None,
        driver: _cuda.Driver | None = None,
    ) -> None:
        self.device = device
        self.device_id = device_id
        self._shared = device == "cpu" if shared is None else shared
        self._driver = driver

    def host(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """A buffer on the host's side, page-locked where there is such memory."""
        pinned = None if self._driver is None else self._driver.pinned(shape, dtype)
        return np.zeros(shape, dtype) if pinned is None else pinned

    def value(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """A buffer on the device with this content; on shared memory, the array itself."""
        # On the CPU, ONNX Runtime takes the array's own memory.
        own = array.copy() if self.device == "cpu" and not self._shared else array
        return onnxruntime.OrtValue.ortvalue_from_numpy(own, self.device, self.device_id)

    def put(self, array: np.ndarray, value: onnxruntime.OrtValue) -> None:
        """Copies to the device."""
        if self._driver is not None:
            self._driver.to_device(array, value.data_ptr())
        elif not self._shared:
            value.update_inplace(array)

    def get(self, value: onnxruntime.OrtValue, array: np.ndarray) -> None:
        """Copies from the device."""
        if self._driver is not None:
            self._driver.to_host(value.data_ptr(), array)
        elif not self._shared:
            np.copyto(array, value.numpy())

    def run_options(self, graph: int | None, *, wait: bool) -> onnxruntime.RunOptions:
        """Options of a run: the id of its CUDA graph, and whether it returns when its results are there."""
        options = _run_options(graph)
        if not wait:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options


def _run_options(graph: int | None) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    # As for the session: errors come as exceptions, and nothing goes to stderr.
    options.log_severity_level = 4
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
