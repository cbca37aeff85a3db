"""What the Kafka clients hold in their queues, from librdkafka's own statistics.

Whoever asks for statistics has to serve the client's callbacks (`poll`, `consume`), or they pile up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from streams.observe.metrics import WorkerMetrics

__all__ = ["watch_consumer", "watch_producer"]

# A few kB of JSON each time: 0.1 ms of work.
_INTERVAL_MS = 2000


def watch_consumer(metrics: WorkerMetrics) -> dict[str, Any]:
    """Settings of a consumer that tells what it has read ahead."""

    def told(text: str) -> None:
        topics = orjson.loads(text)["topics"].values()
        metrics.observe_fetched(sum(p["fetchq_size"] for topic in topics for p in topic["partitions"].values()))

    return {"statistics.interval.ms": _INTERVAL_MS, "stats_cb": told}


def watch_producer(metrics: WorkerMetrics) -> dict[str, Any]:
    """Settings of a producer that tells what Kafka has not acknowledged yet."""

    def told(text: str) -> None:
        metrics.observe_producing(orjson.loads(text)["msg_size"])

    return {"statistics.interval.ms": _INTERVAL_MS, "stats_cb": told}
