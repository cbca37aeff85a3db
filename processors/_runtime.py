"""ONNX Runtime: how a model file becomes a running one, what it declares, and where its nodes run.

The one file that imports ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession

from processors import _hardware, _slices
from processors._contract import Declared, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processors import Arrays

__all__ = [
    "PROVIDERS",
    "DeviceRunner",
    "HostRunner",
    "InferenceSession",
    "SessionError",
    "available_providers",
    "declared",
    "load",
    "placement",
]

PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", _hardware.CPU)

# Device buffers that a session keeps, each for one input and shape; slices come in few shapes by design.
_DEVICE_BUFFERS = 64

# ONNX Runtime's words for element types, where they are not NumPy's.
_DTYPES = {"float": "float32", "double": "float64"}

# Fallbacks that this process has logged: every model of a worker would say the same.
_said: set[str] = set()


class SessionError(ModelError, RuntimeError):
    """A model that cannot be loaded here."""


def available_providers() -> tuple[str, ...]:
    """The execution providers that this install of ONNX Runtime has."""
    return tuple(onnxruntime.get_available_providers())


def load(
    content: bytes,
    name: str,
    folder: Path,
    threads: int,
    wanted: Sequence[str],
    device_id: int,
    cache_dir: Path | None,
    log: logging.Logger,
) -> InferenceSession:
    """A session on the first wanted provider that starts; ONNX Runtime's own fallback does not say why it was one."""
    options = _options(threads, folder)
    available = onnxruntime.get_available_providers()
    plan = _hardware.plan(wanted, available)
    missing = dict(plan.missing)
    if _hardware.CUDA_PROVIDERS & set(plan.providers):
        onnxruntime.preload_dlls()
    profile = hashlib.sha256(content).hexdigest()[:16]
    trying = list(plan.providers)
    while True:
        with_options = [(name, _hardware.options(name, device_id, cache_dir, profile)) for name in trying]
        try:
            runtime = InferenceSession(content, options, providers=with_options, enable_fallback=0)
            break
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            if trying == [_hardware.CPU]:
                raise SessionError(f"{name}: cannot be loaded: {_slices.reason(error)}") from error
            missing[trying.pop(0)] = _slices.reason(error)
    active = runtime.get_providers()
    missing |= {name: "it did not start, and ONNX Runtime does not say why" for name in trying if name not in active}
    _say_once(wanted, _hardware.fallbacks(wanted, active[0], missing), log)
    return runtime


def _options(threads: int, folder: Path) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Nothing on stderr: errors come as exceptions, and a poison row would print each of its runs.
    options.log_severity_level = 4
    # Threads that spin between runs take the cores from decoding and encoding: on 2 cores, with 0.5 ms of other work
    # between runs, spinning doubled the CPU time of a row (2.9 to 5.4 us) and lowered the rate, with 1 worker and 2.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
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


def placement(runtime: InferenceSession) -> dict[str, int]:
    """How many nodes of the optimised graph each execution provider runs."""
    nodes: dict[str, int] = {}
    for part in runtime.get_provider_graph_assignment_info():
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return nodes


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
    """Runs on arrays in host memory; ONNX Runtime copies to a device where it must."""

    def __init__(self, runtime: InferenceSession, outputs: list[str]) -> None:
        self._run = runtime.run
        self._outputs = outputs

    def __call__(self, feed: Arrays) -> list[np.ndarray]:
        results: list[np.ndarray] = self._run(self._outputs, feed)
        return results

    def forget(self) -> None:
        """Keeps nothing between runs."""


class DeviceRunner:
    """Runs on buffers of a device that are made once per shape, and copies outputs back when all are done."""

    def __init__(self, runtime: InferenceSession, outputs: list[str], device: str, device_id: int) -> None:
        self._runtime = runtime
        self._outputs = outputs
        self._device = device
        self._device_id = device_id
        self._buffers: OrderedDict[tuple[str, tuple[int, ...], np.dtype], onnxruntime.OrtValue] = OrderedDict()

    def __call__(self, feed: Arrays) -> list[np.ndarray]:
        binding = self._runtime.io_binding()
        for name, array in feed.items():
            if array.dtype.kind in "OU":
                binding.bind_cpu_input(name, array)
            else:
                binding.bind_ortvalue_input(name, self._placed(name, np.ascontiguousarray(array)))
        for name in self._outputs:
            binding.bind_output(name, self._device, self._device_id)
        self._runtime.run_with_iobinding(binding)
        results: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return results

    def forget(self) -> None:
        """Lets go of the buffers, those of sizes that were only measured among them."""
        self._buffers.clear()

    def _placed(self, name: str, array: np.ndarray) -> onnxruntime.OrtValue:
        key = (name, array.shape, array.dtype)
        value = self._buffers.get(key)
        if value is None:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), self._device, self._device_id)
            self._buffers[key] = value
            if len(self._buffers) > _DEVICE_BUFFERS:
                self._buffers.popitem(last=False)
        else:
            self._buffers.move_to_end(key)
            value.update_inplace(array)
        return value
