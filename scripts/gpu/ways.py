"""The ways in which each model is run: on CUDA with and without what a session can do there, and on TensorRT."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import onnxruntime

from processors._half import make_half
from processors._provider_options import CUDA, TENSORRT, Gpu
from processors._runtime import DeviceMemory
from processors._session import Session
from processors._ways import Way

if TYPE_CHECKING:
    from scripts.gpu.cases import Case

CPU = "CPUExecutionProvider"


class Contender(msgspec.Struct, frozen=True):
    """One way of running a model."""

    name: str
    provider: str = CUDA
    gpu: Gpu = Gpu()
    half: bool = False
    """Whether the model is rewritten to half precision first."""

    @property
    def tolerance(self) -> float:
        """Share of an output's largest value by which it may differ from the CPU's."""
        # TensorRT multiplies in TF32 by itself, with 11 significant bits as half precision has.
        exact = self.gpu.precision == "float32" and self.provider == CUDA and not self.half
        return 1e-3 if exact else 2e-2


CONTENDERS = (
    Contender("cuda"),
    Contender("cuda, tf32", gpu=Gpu(precision="tf32")),
    Contender("cuda, overlap", gpu=Gpu(overlap=True)),
    Contender("cuda, graphs", gpu=Gpu(cuda_graphs=True)),
    Contender("cuda, graphs, overlap", gpu=Gpu(cuda_graphs=True, overlap=True)),
    Contender("cuda, half", half=True),
    Contender("tensorrt", TENSORRT),
    Contender("tensorrt, float16", TENSORRT, Gpu(precision="float16")),
)


class Place(msgspec.Struct, frozen=True):
    """Where the check runs."""

    device_id: int
    cache_dir: Path
    """For half-precision files and TensorRT's engines."""
    dry: bool
    """Whether the CPU stands in for the GPU."""


class Opened(msgspec.Struct, frozen=True):
    """A session, and what it warned of."""

    session: Session
    warnings: tuple[str, ...]


def open_contender(case: Case, contender: Contender, place: Place, slice_size: int) -> Opened:
    """Opens a session of a model in one way.

    Raises:
        ModelError: It cannot be opened so.
    """
    log = _Kept()
    path = _half_of(case, place) if contender.half else case.path
    if place.dry:
        session = _stand_in(case, contender, path, log, slice_size)
    else:
        session = Session.open(
            path,
            expects=case.contract,
            providers=(contender.provider, *([CUDA] if contender.provider == TENSORRT else [])),
            threads=1,
            slice=slice_size,
            gpu=msgspec.structs.replace(contender.gpu, device_id=place.device_id),
            cache_dir=place.cache_dir,
            log=log,
        )
    return Opened(session, tuple(log.messages))


def open_cpu(case: Case, slice_size: int) -> Session:
    """The session that the others are held against."""
    return Session.open(case.path, expects=case.contract, providers=(CPU,), threads=1, slice=slice_size, log=_Kept())


def open_bare(case: Case, contender: Contender, place: Place) -> onnxruntime.InferenceSession:
    """ONNX Runtime alone, as its documentation shows it, on the provider of a contender."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    path = _half_of(case, place) if contender.half else case.path
    wanted = CPU if place.dry else (contender.provider, {"device_id": str(place.device_id)})
    return onnxruntime.InferenceSession(path, options, providers=[wanted])


def _stand_in(case: Case, contender: Contender, path: Path, log: logging.Logger, slice_size: int) -> Session:
    """The same code on the CPU, with buffers that are copied to and from as a device's are."""
    plain = Session.open(path, expects=case.contract, providers=(CPU,), threads=1, slice=1, log=log)
    return Session(
        plain._runtime,
        plain.contract,
        name=case.name,
        slice_size=slice_size,
        pad=True,
        memory=DeviceMemory("cpu", shared=False),
        way=Way(cuda_graphs=contender.gpu.cuda_graphs, overlap=contender.gpu.overlap),
        log=log,
    )


def _half_of(case: Case, place: Place) -> Path:
    target = place.cache_dir / f"{case.path.stem}-half.onnx"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # What moved is measured here on the device; the rewriting's own check is of the CPU.
        make_half(case.path, target, expects=case.contract, tolerance=Contender("", half=True).tolerance)
    return target


class _Kept(logging.Logger):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__("headrace.gpu_check", logging.WARNING)
        self.messages: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.messages.append(record.getMessage())  # type: ignore[method-assign]
        self.addHandler(handler)
