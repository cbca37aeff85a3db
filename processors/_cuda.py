"""NVIDIA's driver, asked directly: which GPUs there are, what memory is left, and host memory that they can read.

The driver's own library (`libcuda`) is on every machine with a GPU, whatever version of CUDA ONNX Runtime was built
for, and needs no package. Names and numbers follow the CUDA Driver API reference. Nothing here raises for a machine
without a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CudaError", "Driver", "GpuFacts", "driver", "tensorrt_version"]

# CUdevice_attribute: the two halves of the compute capability.
_CAPABILITY = (75, 76)


class GpuFacts(msgspec.Struct, frozen=True):
    """One GPU as the driver describes it; under MIG, one slice of a GPU."""

    name: str
    capability: str
    """Compute capability, such as `9.0`."""
    memory_bytes: int


class CudaError(RuntimeError):
    """The driver refused; the message has its number."""


class Driver:
    """The driver's library, initialised.

    Args:
        library: The library, or what answers as it does.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def version(self) -> str:
        """The newest CUDA version that the driver can run, such as `13.0`."""
        number = ctypes.c_int()
        self._ok("cuDriverGetVersion", ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def count(self) -> int:
        """GPUs that this process may see, CUDA_VISIBLE_DEVICES considered."""
        number = ctypes.c_int()
        return number.value if self._ok("cuDeviceGetCount", ctypes.byref(number)) else 0

    def gpus(self) -> tuple[GpuFacts, ...]:
        """What they are, in the order of their numbers."""
        return tuple(self._facts(index) for index in range(self.count()))

    def memory(self) -> tuple[int, int] | None:
        """Free bytes and all bytes of the GPU that this thread uses; None before anything runs there."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if not self._ok("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total)):
            return None
        return free.value, total.value

    def pinned(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray | None:
        """An array in page-locked memory, which a GPU copies from and to without a detour; None where there is none.

        The memory goes back when the last array that shows it is gone.
        """
        size = math.prod(shape) * dtype.itemsize
        address = ctypes.c_void_p()
        if size == 0 or not self._ok("cuMemAllocHost_v2", ctypes.byref(address), ctypes.c_size_t(size)):
            return None
        return np.asarray(_Pinned(self._library, address.value or 0, size)).view(dtype).reshape(shape)

    def to_device(self, array: np.ndarray, address: int) -> None:
        """Copies an array's memory to an address of the GPU; done when it returns, where the memory is page-locked."""
        self._copy("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), array.nbytes)

    def to_host(self, address: int, array: np.ndarray) -> None:
        """Copies from an address of the GPU to an array's memory; done when it returns."""
        self._copy("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), array.nbytes)

    def _copy(self, function: str, target: object, source: object, size: int) -> None:
        if size and (code := getattr(self._library, function)(target, source, ctypes.c_size_t(size))) != 0:
            raise CudaError(f"{function} of {size} bytes failed with CUDA error {code}")

    def _facts(self, index: int) -> GpuFacts:
        device, size = ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(256)
        self._ok("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        self._ok("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        self._ok("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        halves = []
        for attribute in _CAPABILITY:
            half = ctypes.c_int()
            self._ok("cuDeviceGetAttribute", ctypes.byref(half), ctypes.c_int(attribute), device)
            halves.append(str(half.value))
        return GpuFacts(name.value.decode(errors="replace"), ".".join(halves), size.value)

    def _ok(self, function: str, *arguments: object) -> bool:
        return bool(getattr(self._library, function)(*arguments) == 0)


class _Pinned:
    """Page-locked memory for as long as an array shows it."""

    def __init__(self, library: Any, address: int, size: int) -> None:
        self._library = library
        self._address = address
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self) -> None:
        self._library.cuMemFreeHost(ctypes.c_void_p(self._address))


@functools.cache
def driver() -> Driver | None:
    """The driver of this machine; None where there is none, or no GPU for this process."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return Driver(library) if library.cuInit(0) == 0 else None


@functools.cache
def tensorrt_version() -> str:
    """Of the TensorRT that ONNX Runtime would load, such as `10.9.0`; empty where there is none."""
    try:
        number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return ""
    # Since TensorRT 10: major * 10000 + minor * 100 + patch.
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
