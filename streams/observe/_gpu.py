"""What the memory of GPUs holds, asked of NVIDIA's management library at each scrape."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["GpuMemory"]

log = logging.getLogger(__name__)

_ON_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


class GpuMemory(Collector):
    """Gauges per GPU that this process can see. Absent where the model runs on CPUs or pynvml is not installed."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    @classmethod
    def register(cls, registry: CollectorRegistry, providers: Sequence[str]) -> bool:
        """Adds the gauges where a GPU runs the model and can be asked; returns whether it did."""
        if not set(_ON_GPU) & set(providers):
            return False
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # not installed, or no driver: the model runs all the same
            log.warning("no metrics of the GPU's memory (%s): uv sync --extra gpu brings nvidia-ml-py", error)
            return False
        registry.register(cls(pynvml))
        return True

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape; a GPU that does not answer is left out."""
        used, total, busy = self.describe()
        for device in range(self._nvml.nvmlDeviceGetCount()):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(device)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                share = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            except self._nvml.NVMLError as error:
                log.debug("GPU %d does not say what its memory holds: %s", device, error)
                continue
            for family, value in ((used, memory.used), (total, memory.total), (busy, share)):
                family.add_metric([str(device)], value)
        yield from (used, total, busy)

    def describe(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        """The gauges, without values; also asked by the registry for their names."""
        return (
            GaugeMetricFamily("headrace_gpu_memory_used_bytes", "Memory in use, by all processes.", labels=["device"]),
            GaugeMetricFamily("headrace_gpu_memory_bytes", "Memory that the GPU has.", labels=["device"]),
            GaugeMetricFamily("headrace_gpu_busy_ratio", "Share of time in which a kernel ran.", labels=["device"]),
        )
