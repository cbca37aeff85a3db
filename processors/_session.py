"""A model in memory: dict of arrays in, dict of arrays out, whatever the number of rows. Knows no domain and no Kafka.

Rows go through in slices of one size (`_rows`), which the latency curve picks (`_curve`). Outputs are copied out of
ONNX Runtime's arena (`_runtime`), which would otherwise keep its peak for as long as anybody holds a result. A session
belongs to one thread at a time; on bound memory of a device, to the thread that made it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from processors import _contract, _cuda, _hardware, _runtime, _warmup
from processors._contract import Contract, ContractError
from processors._lanes import bindable, lanes, settled
from processors._models import Model
from processors._onnx_files import attached_files
from processors._provider_options import Gpu, shape_profile
from processors._rows import Rows
from processors._runtime import (
    PROVIDERS,
    DeviceMemory,
    HostRunner,
    InferenceSession,
    SessionError,
    available_providers,
)
from processors._ways import PLAIN, UNBOUND, Way, settle_way

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from processors import Arrays, _curve
    from processors._lanes import Lane, Memory
    from processors._provider_options import Profile

__all__ = ["PROVIDERS", "Session", "SessionError", "available_providers"]

LOG = logging.getLogger("headrace.session")

# Where no made-up row runs, nothing can be measured; tree and sequence models were all near their best here.
_UNMEASURED_SLICE = 256

_ANY_GPU = Gpu()


class Session:
    """A loaded and warm model; made by `Session.open`, or around an ONNX Runtime session of one's own.

    Args:
        runtime: ONNX Runtime's session.
        contract: What callers feed and read; outputs that it leaves out are not computed.
        name: What errors and logs call the model.
        slice_size: Rows of one run; 0 measures the latency curve and picks.
        pad: Whether short slices are padded to a few sizes, as devices want it.
        memory: Of the device that inputs and outputs are bound to; None binds nothing.
        way: How slices are to run on bound memory; CUDA graphs need a runtime that was made for them.
        log: Where warnings go.

    Raises:
        ContractError: The model differs from the contract; the message lists every difference.
    """

    def __init__(
        self,
        runtime: InferenceSession,
        contract: Contract,
        *,
        name: str = "model",
        slice_size: int = 0,
        pad: bool = False,
        memory: Memory | None = None,
        way: Way = PLAIN,
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
        self.fixed_batch = _contract.fixed_batch(contract, _runtime.declared(runtime)[0])
        """Rows that the file insists on; None where it takes any."""
        host = HostRunner(runtime, [tensor.name for tensor in contract.outputs], graphs=way.cuda_graphs)
        self._shrinking = host.shrinking(*(("cpu", 0) if memory is None else (memory.device, memory.device_id)))
        self._rows = Rows(
            host,
            contract,
            name=name,
            slice_size=slice_size or _UNMEASURED_SLICE,
            fixed=self.fixed_batch,
            pad=pad,
        )

        def warn(message: str) -> None:
            log.warning("%s: %s", name, message)

        def lanes_of(chosen: Way) -> tuple[Lane, ...]:
            assert memory is not None, "a way is settled on bound memory only"
            return lanes(runtime, contract, memory, 2 if chosen.overlap else 1, graphs=way.cuda_graphs)

        bound = memory is not None and bindable(contract)
        if bound:
            self._rows.use_lanes(lanes_of(PLAIN))
        self.curve: tuple[_curve.Point, ...] = _warmup.warm_up(
            self._rows, measure_curve=not slice_size, warn=warn, forget=self._forget
        )
        """What runs cost by their number of rows, where that was measured."""
        self.fallbacks: tuple[str, ...] = ()
        """Why providers that were wanted more do not run it."""
        self.way = UNBOUND
        """How slices run on bound memory, if they do."""
        if bound and self._rows.known_good is not None:
            graphs = way.cuda_graphs and settled(contract)
            if way.cuda_graphs and not graphs:
                warn("CUDA graphs not used: the shapes of its outputs do not follow from those of its inputs")
            self.way = settle_way(self._rows, msgspec.structs.replace(way, cuda_graphs=graphs), lanes_of, host, warn)

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
        gpu: Gpu = _ANY_GPU,
        cache_dir: Path | None = None,
        custom_ops: Mapping[str, str] | None = None,
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
            gpu: How it is run on a GPU.
            cache_dir: Where TensorRT keeps its engines.
            custom_ops: Paths of libraries of custom operators, each with its sha256; none unless given.
            log: Where warnings go.

        Raises:
            ContractError: The model differs from what is expected; the message lists every difference.
            SessionError: It cannot be loaded here, or not on a GPU where one is required.
            IntegrityError: A file is not the one of its manifest.
            ForeignFileError: It refers to files that it may not have.
        """
        content, name = (model.read(), model.manifest.reference) if isinstance(model, Model) else _read(model)
        if isinstance(model, Model):
            promised = model.manifest.contract
            expects = promised if expects is None else expects.completed_by(promised)
        threads = _hardware.threads_for(threads, workers, _hardware.available_cores())
        files = attached_files(content, model, name)
        runtime, with_graphs, fallbacks = _runtime.load(
            content,
            name,
            files,
            threads=threads,
            wanted=providers,
            gpu=gpu,
            cache_dir=cache_dir,
            profile=None if expects is None else _profile(expects, slice),
            custom_ops=custom_ops or {},
            log=log,
        )
        operators = _runtime.operators(runtime)
        on_gpu = bool(_hardware.GPU_PROVIDERS & operators.keys())
        if require_gpu and not on_gpu:
            raise SessionError(_hardware.no_gpu(name, runtime.get_providers(), available_providers(), fallbacks))
        if left := _hardware.left_on_cpu(operators):
            log.warning("%s: has operators that run on the CPU beside the GPU, with copies to and fro: %s", name, left)
        if isinstance(model, Model):
            _require(model.manifest.contract, runtime, f"the file of {name}")
        on_cuda = on_gpu and runtime.get_providers()[0] in _hardware.CUDA_PROVIDERS
        session = cls(
            runtime,
            expects or _contract.derive(*_runtime.declared(runtime)),
            name=name,
            slice_size=slice,
            pad=on_gpu,
            memory=DeviceMemory("cuda", gpu.device_id, driver=_cuda.driver()) if on_cuda else None,
            way=Way(cuda_graphs=with_graphs, overlap=gpu.overlap),
            log=log,
        )
        session.fallbacks = fallbacks
        return session

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

    def made_up(self, rows: int) -> Arrays:
        """So many made-up rows of the kind that the model was found to run."""
        return self._rows.made_up(rows)

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
        self._forget()
        return self.curve

    def _forget(self) -> None:
        """Gives back what the largest sizes of the measuring took, on the host and on the device."""
        for lane in self._rows.lanes:
            lane.forget()
        try:
            self._rows.run_good(self._shrinking)
        except Exception as error:  # whatever it is, only memory that could have been given back is at stake
            LOG.debug("%s: memory of the measuring is not given back: %s", self.name, error)

    def placement(self) -> dict[str, int]:
        """How many nodes of the optimised graph each execution provider runs."""
        return _runtime.placement(self._runtime)


def _read(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise SessionError(f"{path}: cannot be read: {error}") from error


def _profile(contract: Contract, slice_size: int) -> Profile | None:
    """The shapes that runs will have: up to the slice, or up to what the curve is measured with."""
    largest = slice_size or _warmup.largest_measured(contract)
    return shape_profile(contract, slice_size or _UNMEASURED_SLICE, largest)


def _require(contract: Contract, runtime: InferenceSession, name: str) -> None:
    found = _contract.mismatches(contract, *_runtime.declared(runtime))
    if found:
        raise ContractError(f"{name} differs from its contract:\n  " + "\n  ".join(found))
