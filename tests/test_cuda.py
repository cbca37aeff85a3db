"""NVIDIA's driver library as it is called, on a stand-in for it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from processors._cuda import CudaError, Driver
from processors._runtime import DeviceMemory


class FakeLibrary:
    """Answers as `libcuda` does, for one GPU with little memory."""

    def __init__(self) -> None:
        self.allocated: dict[int, Any] = {}

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - NVIDIA's names
        version._obj.value = 13010
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device: Any, index: Any) -> int:  # noqa: N802
        device._obj.value = index.value
        return 0

    def cuDeviceGetName(self, name: Any, size: Any, device: Any) -> int:  # noqa: N802
        name.value = b"NVIDIA Toy"
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:  # noqa: N802
        size._obj.value = 1 << 30
        return 0

    def cuDeviceGetAttribute(self, half: Any, attribute: Any, device: Any) -> int:  # noqa: N802
        half._obj.value = {75: 9, 76: 0}[attribute.value]
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        return 201  # no context

    def cuMemAllocHost_v2(self, address: Any, size: Any) -> int:  # noqa: N802
        if size.value > 1000:
            return 2  # out of memory
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.allocated[ctypes.addressof(block)] = block
        return 0

    def cuMemFreeHost(self, address: Any) -> int:  # noqa: N802
        del self.allocated[address.value]
        return 0

    def cuMemcpyHtoD_v2(self, target: Any, source: Any, size: Any) -> int:  # noqa: N802
        return 700


def test_driver_tells_what_gpus_there_are() -> None:
    """Names, compute capability and memory come from the driver; without a context there is no free memory to tell."""
    driver = Driver(FakeLibrary())
    (gpu,) = driver.gpus()

    assert ("NVIDIA Toy", "9.0", 1 << 30) == (gpu.name, gpu.capability, gpu.memory_bytes)
    assert ("13.1", None) == (driver.version(), driver.memory())


def test_pinned_memory_lives_as_long_as_an_array_shows_it() -> None:
    """It goes back with the last view of it, and not before."""
    library = FakeLibrary()
    array = Driver(library).pinned((4, 5), np.dtype(np.float32))
    assert array is not None
    array[:] = 3
    view = array[2]
    del array

    assert 1 == len(library.allocated)
    assert [3.0] * 5 == view.tolist()
    del view
    assert {} == library.allocated


def test_memory_that_cannot_be_pinned_is_ordinary() -> None:
    """A refusal, or nothing to allocate, gives ordinary memory."""
    driver = Driver(FakeLibrary())
    assert driver.pinned((1000, 5), np.dtype(np.float32)) is None
    assert driver.pinned((0, 5), np.dtype(np.float32)) is None

    memory = DeviceMemory("cpu", shared=False, driver=driver)
    assert (1000, 5) == memory.host((1000, 5), np.dtype(np.float32)).shape


def test_copy_that_the_driver_refuses_names_its_error() -> None:
    """The number is what NVIDIA's documentation is searched by."""
    with pytest.raises(CudaError, match="cuMemcpyHtoD_v2 of 8 bytes failed with CUDA error 700"):
        Driver(FakeLibrary()).to_device(np.zeros(2, np.float32), 1)
