"""How the members of consumer groups read: the worker's source and the store's sink."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import KafkaError

from schemas.envelope import Record

__all__ = ["READING", "UNPACKABLE_HEADERS", "is_unpackable", "unpackable"]

# Stands beside the value, which is empty, of a message that nobody can unpack.
UNPACKABLE_HEADERS: tuple[tuple[str, bytes | None], ...] = (("headrace-unpackable-batch", None),)

READING: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    # Tells where a partition ends behind transaction markers, which no record shows.
    "enable.partition.eof": True,
    # Free, measured: 310k msg/s with it.
    "check.crcs": True,
    # Bounds memory: an answer that was asked for while there was room comes on top of what is read ahead. Measured
    # twice in turn, 330 bytes a message: 0.95 µs of CPU each at 8 MB and 1.1 at 50 MB; the process had 130 MB, not 220.
    "fetch.max.bytes": 8_000_000,
    "max.partition.fetch.bytes": 2_000_000,
    "queued.min.messages": 50_000,
    "fetch.wait.max.ms": 50,
    # How long a full queue puts off the next fetch; librdkafka's own second starves whoever reads fast. Measured
    # with messages of 840 bytes: 85k msg/s at 1000, 240k at 5.
    "fetch.queue.backoff.ms": 5,
    "fetch.error.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1000,
    # The client unpacks no zstd batch to more than this, and no answer of a broker may be larger; its own default.
    "receive.message.max.bytes": 100_000_000,
    # Measured for moved partitions: range 0.1 s, cooperative-sticky and KIP-848 1 to 3 s.
    "partition.assignment.strategy": "range",
}


def is_unpackable(error: KafkaError | None) -> bool:
    """Whether a batch arrived as it was written, and unpacks to nothing, or to more than the client takes.

    The client says so again at each try: whoever reads must go on behind it, or stand there for ever.
    """
    return error is not None and error.code() == KafkaError._BAD_COMPRESSION


def unpackable(topic: str, partition: int, offset: int) -> Record:
    """Stands for a message that nobody can unpack: its coordinates are all that is known of it; its time is now."""
    return Record(topic, partition, offset, None, b"", time.time_ns() // 1_000_000, UNPACKABLE_HEADERS)
