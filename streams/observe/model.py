"""A session whose runs are counted: the same answers, one observation per micro-batch."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors import Arrays
    from processors._session import Session
    from streams.observe.metrics import WorkerMetrics

__all__ = ["MeasuredSession"]


class MeasuredSession:
    """Runs a session and tells the metrics of each run: rows, slices, seconds, failures."""

    def __init__(self, session: Session, metrics: WorkerMetrics) -> None:
        self._session = session
        self._metrics = metrics
        self._failed_runs = session.failed_runs
        self.bound = session.way.bound
        """Whether it runs on buffers of a device, which belong to the thread that made it."""
        self._name, self._axis = next(
            (tensor.name, axis) for tensor in session.contract.inputs if (axis := tensor.batch_axis) is not None
        )

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        """As `Session.run`."""
        session = self._session
        started = perf_counter()
        try:
            outputs, failed = session.run(inputs)
        finally:
            failed_runs, self._failed_runs = session.failed_runs - self._failed_runs, session.failed_runs
            if failed_runs:
                self._metrics.observe_failed_runs(failed_runs)
        rows = inputs[self._name].shape[self._axis]
        self._metrics.observe_run(rows, session.slice, perf_counter() - started, len(failed))
        return outputs, failed
