"""A model in memory: dict of arrays in, dict of arrays out, whatever the number of rows. Knows no domain and no Kafka.

The one file that imports ONNX Runtime. Rows go through in slices of one size (`_rows`), which the latency curve picks
(`_curve`). Outputs are copied out of ONNX Runtime's arena, which would otherwise keep its peak for as long as anybody
holds a result. A session belongs to one thread.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from processors import _contract, _hardware, _slices, _warmup
from processors._contract import Contract, ContractError, Declared, ModelError
from processors._models import Model
from processors._rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from processors import Arrays, _curve

__all__ = ["PROVIDERS", "Session", "SessionError", "available_providers"]

LOG = logging.getLogger("headrace.session")

PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", _hardware.CPU)

# Where no made-up row runs, nothing can be measured; tree and sequence models were all near their best here.
_UNMEASURED_SLICE = 256

# Device buffers that a session keeps, each for one input and shape; slices come in few shapes by design.
_DEVICE_BUFFERS = 64

# ONNX Runtime's words for element types, where they are not NumPy's.
_DTYPES = {"float": "float32", "double": "float64"}

# Fallbacks that this process has logged: every model of a worker would say the same.
_said: set[str] = set()


class SessionError(ModelError, RuntimeError):
    """A model that cannot be loaded here."""


class Session:
    """A loaded and warm model; made by `Session.open`, or around an ONNX Runtime session of one's own.

    Args:
        runtime: ONNX Runtime's session.
        contract: What callers feed and read; outputs that it leaves out are not computed.
        name: What errors and logs call the model.
        slice_size: Rows of one run; 0 measures the latency curve and picks.
        pad: Whether short slices are padded to a few sizes, as devices want it.
        device: Memory that inputs and outputs are bound to (`cuda`; `cpu` takes the same path); None binds nothing.
        device_id: The device, where there are several.
        log: Where warnings go.

    Raises:
        ContractError: The model differs from the contract; the message lists every difference.
    """

    def __init__(
        self,
        runtime: onnxruntime.InferenceSession,
        contract: Contract,
        *,
        name: str = "model",
        slice_size: int = 0,
        pad: bool = False,
        device: str | None = None,
        device_id: int = 0,
        log: logging.Logger = LOG,
    ) -> None:
        _require(contract, runtime, name)
        self.name = name
        self.contract = contract
        meta = runtime.get_modelmeta()
        self.metadata: dict[str, str] = dict(meta.custom_metadata_map)
        """The file's `metadata_props`."""
        self.producer: str = meta.producer_name
        self.providers: tuple[str, ...] = tuple(runtime.get_providers())
        self._runtime = runtime
        self.fixed_batch = _contract.fixed_batch(contract, _declared(runtime.get_inputs()))
        """Rows that the file insists on; None where it takes any."""
        names = [tensor.name for tensor in contract.outputs]
        self._runner = (
            _HostRunner(runtime, names) if device is None else _DeviceRunner(runtime, names, device, device_id)
        )
        self._rows = Rows(
            self._runner,
            contract,
            name=name,
            slice_size=slice_size or _UNMEASURED_SLICE,
            fixed=self.fixed_batch,
            pad=pad,
        )
        self.curve: tuple[_curve.Point, ...] = _warmup.warm_up(
            self._rows, measure_curve=not slice_size, warn=lambda message: log.warning("%s: %s", name, message)
        )
        """What runs cost by their number of rows, where that was measured."""
        self._runner.forget()

    @classmethod
    def open(
        cls,
        model: Model | Path,
        *,
        expects: Contract | None = None,
        providers: Sequence[str] = PROVIDERS,
        require_gpu: bool = False,
        threads: int = 0,
        workers: int = 1,
        slice: int = 0,  # noqa: A002 - the word of the settings
        device_id: int = 0,
        cache_dir: Path | None = None,
        log: logging.Logger = LOG,
    ) -> Session:
        """Loads a model, holds it against what is expected of it, and warms it up.

        Args:
            model: A resolved model, whose bytes are hashed as they are read; or the path of a bare ONNX file.
            expects: What the processor feeds and reads. Where None, the manifest's contract, or the file's own.
            providers: Execution providers in order of preference; the CPU always comes last.
            require_gpu: Fail where no GPU runs the model, instead of falling back.
            threads: Intra-op threads; 0 shares the cores among the workers.
            workers: Workers on this machine.
            slice: Rows of one run; 0 measures and picks.
            device_id: The GPU, where there are several.
            cache_dir: Where TensorRT keeps its engines.
            log: Where warnings go.

        Raises:
            ContractError: The model differs from what is expected; the message lists every difference.
            SessionError: It cannot be loaded here, or not on a GPU where one is required.
            IntegrityError: The file is not the one of its manifest.
        """
        content, name = (model.read(), model.manifest.reference) if isinstance(model, Model) else _read(model)
        if isinstance(model, Model):
            promised = model.manifest.contract
            expects = promised if expects is None else expects.completed_by(promised)
        threads = _hardware.threads_for(threads, workers, _hardware.available_cores())
        folder = (model.path if isinstance(model, Model) else model).parent
        runtime = _load(content, _options(threads, folder), name, providers, device_id, cache_dir, log)
        on_gpu = bool(_hardware.GPU_PROVIDERS & _placement(runtime).keys())
        if require_gpu and not on_gpu:
            raise SessionError(_hardware.no_gpu(name, runtime.get_providers(), available_providers()))
        if isinstance(model, Model):
            _require(model.manifest.contract, runtime, f"the file of {name}")
        on_cuda = on_gpu and runtime.get_providers()[0] in _hardware.CUDA_PROVIDERS
        return cls(
            runtime,
            expects or _contract.derive(_declared(runtime.get_inputs()), _declared(runtime.get_outputs())),
            name=name,
            slice_size=slice,
            pad=on_gpu,
            device="cuda" if on_cuda else None,
            device_id=device_id,
            log=log,
        )

    @property
    def slice(self) -> int:
        """Rows of one run."""
        return self._rows.slice

    @property
    def last_run_ms(self) -> float:
        """Milliseconds that the last call of `run` took, slicing included."""
        return self._rows.last_run_ms

    def run(self, inputs: Arrays) -> tuple[Arrays, dict[int, str]]:
        """Runs n rows through the model; n may be 0.

        Args:
            inputs: Every declared input and no other, of the declared types; they are not changed.

        Returns:
            The declared outputs with n rows each, and why for every row that fails also when it is alone; such a
            row holds zeros. The outputs stay as they are for as long as anybody holds them.

        Raises:
            ContractError: The arrays are not those declared: a bug of the processor, not of a row.
            ModelError: The model fails also on a row that it ran before, or its slices do not fit together.
        """
        return self._rows.run(inputs)

    def run_together(self, inputs: Arrays) -> Arrays:
        """One run of all rows as they are, neither cut nor bisected; raises what ONNX Runtime raises."""
        return self._rows.run_together(inputs)

    @property
    def failed_runs(self) -> int:
        """Runs that raised since the start; it grows without any row failing where only larger slices do."""
        return self._rows.failed_runs

    def measure(self, budget_s: float = 1.5) -> tuple[_curve.Point, ...]:
        """Measures the latency curve on made-up rows, keeps it in `curve` and returns it; the slice size stays."""
        self.curve = _warmup.measure(self._rows, budget_s)
        self._runner.forget()
        return self.curve

    def placement(self) -> dict[str, int]:
        """How many nodes of the optimised graph each execution provider runs."""
        return _placement(self._runtime)


def available_providers() -> tuple[str, ...]:
    """The execution providers that this install of ONNX Runtime has."""
    return tuple(onnxruntime.get_available_providers())


class _HostRunner:
    """Runs on arrays in host memory; ONNX Runtime copies to a device where it must."""

    def __init__(self, runtime: onnxruntime.InferenceSession, outputs: list[str]) -> None:
        self._run = runtime.run
        self._outputs = outputs

    def __call__(self, feed: Arrays) -> list[np.ndarray]:
        results: list[np.ndarray] = self._run(self._outputs, feed)
        return results

    def forget(self) -> None:
        """Keeps nothing between runs."""


class _DeviceRunner:
    """Runs on buffers of a device that are made once per shape, and copies outputs back when all are done."""

    def __init__(self, runtime: onnxruntime.InferenceSession, outputs: list[str], device: str, device_id: int) -> None:
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


def _read(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise SessionError(f"{path}: cannot be read: {error}") from error


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


def _load(
    content: bytes,
    options: onnxruntime.SessionOptions,
    name: str,
    wanted: Sequence[str],
    device_id: int,
    cache_dir: Path | None,
    log: logging.Logger,
) -> onnxruntime.InferenceSession:
    """A session on the first wanted provider that starts; ONNX Runtime's own fallback does not say why it was one."""
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
            runtime = onnxruntime.InferenceSession(content, options, providers=with_options, enable_fallback=0)
            break
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            if trying == [_hardware.CPU]:
                raise SessionError(f"{name}: cannot be loaded: {_slices.reason(error)}") from error
            missing[trying.pop(0)] = _slices.reason(error)
    active = runtime.get_providers()
    missing |= {name: "it did not start, and ONNX Runtime does not say why" for name in trying if name not in active}
    _say_once(wanted, _hardware.fallbacks(wanted, active[0], missing), log)
    return runtime


def _say_once(wanted: Sequence[str], messages: list[str], log: logging.Logger) -> None:
    """Logs fallbacks that this process has not logged yet."""
    # The default order asks for GPUs that most machines do not have; that alone is no reason to warn.
    level = logging.INFO if tuple(wanted) == PROVIDERS and not _hardware.gpu_visible() else logging.WARNING
    for message in messages:
        if message not in _said:
            _said.add(message)
            log.log(level, "%s", message)


def _placement(runtime: onnxruntime.InferenceSession) -> dict[str, int]:
    nodes: dict[str, int] = {}
    for part in runtime.get_provider_graph_assignment_info():
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return nodes


def _require(contract: Contract, runtime: onnxruntime.InferenceSession, name: str) -> None:
    found = _contract.mismatches(contract, _declared(runtime.get_inputs()), _declared(runtime.get_outputs()))
    if found:
        raise ContractError(f"{name} differs from its contract:\n  " + "\n  ".join(found))


def _declared(tensors: Sequence[onnxruntime.NodeArg]) -> list[Declared]:
    return [Declared(tensor.name, _dtype(tensor.type), tuple(tensor.shape)) for tensor in tensors]


def _dtype(word: str) -> str:
    """NumPy's name of `tensor(float)`; what is no tensor stays as it is."""
    if not word.startswith("tensor("):
        return word
    element = word.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(element, element)
