"""Says now and then how far a restore is, in the log and in metrics."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.observe.metrics import WorkerMetrics

__all__ = ["RestoreNews"]

log = logging.getLogger(__name__)

_EVERY_S = 2.0


class RestoreNews:
    """Remembers when the log last heard of it."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._told_at = 0.0

    def tell(self, progress: Mapping[int, tuple[int, int]]) -> None:
        """Takes (read, to read) of each partition that is being restored; called after every step of it."""
        self._metrics.observe_restore(progress)
        if progress and time.monotonic() >= self._told_at + _EVERY_S:
            self._told_at = time.monotonic()
            read, to_read = (sum(column) for column in zip(*progress.values(), strict=True))
            log.info("restoring %d partitions: %d of %d changelog offsets read", len(progress), read, to_read)
