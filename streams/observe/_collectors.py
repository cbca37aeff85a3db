"""Prometheus collectors that take a whole micro-batch at once, or hold what somebody else counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


class ArrayHistogram(Collector):
    """A histogram without labels; `observe` costs one pass over an array, not one call per event."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: np.ndarray) -> None:
        """Counts every value; a value equal to a bound lies below it, as Prometheus wants."""
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self._sum += float(values.sum())

    def observe_same(self, value: float, times: int) -> None:
        """Counts one value so many times."""
        self._counts[np.searchsorted(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, np.cumsum(self._counts).astype(float).tolist(), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)

    def describe(self) -> Iterable[Metric]:
        """Names the metric, so that a second one of the same name is refused at registration."""
        yield HistogramMetricFamily(self._name, self._documentation)


class KeptCounter(Collector):
    """A counter with one label whose values somebody else counts; `show` hands over the latest."""

    def __init__(self, name: str, documentation: str, label: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._values: Mapping[str, float] = {}
        registry.register(self)

    def show(self, values: Mapping[str, float]) -> None:
        """Replaces what is shown; values count up for as long as the process lives."""
        self._values = dict(values)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape."""
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for label, value in self._values.items():
            family.add_metric([label], value)
        yield family

    def describe(self) -> Iterable[Metric]:
        """Names the metric, so that a second one of the same name is refused at registration."""
        yield CounterMetricFamily(self._name, self._documentation, labels=[self._label])
