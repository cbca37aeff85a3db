"""The exactly-once loop of the plain contenders: consume, answer, produce, offsets into the transaction, commit."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confluent_kafka import Message

COMMIT_S = 0.05
COMMIT_EVENTS = 20_000


def arguments() -> dict[str, Any]:
    """What the benchmark gives: bootstrap, topic, output, group, model, categories."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def run(
    given: dict[str, Any], answer: Callable[[list[Message]], Iterable[tuple[bytes | None, bytes]]], at_once: int
) -> None:
    """Answers until SIGTERM; a transaction is as long as headrace's, 50 ms or 20,000 events."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    consumer = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": given["group"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": given["bootstrap"],
            "transactional.id": given["group"],
            "compression.type": "lz4",
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
        }
    )
    consumer.subscribe([given["topic"]])
    producer.init_transactions()
    began, events = 0.0, 0
    while not stopping:
        messages = [m for m in consumer.consume(at_once, COMMIT_S) if m.error() is None]
        if messages and not events:
            began = time.monotonic()
            producer.begin_transaction()
        for key, value in answer(messages):
            producer.produce(given["output"], value, key)
        events += len(messages)
        if events and (events >= COMMIT_EVENTS or time.monotonic() - began >= COMMIT_S):
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
            )
            producer.commit_transaction()
            events = 0
    consumer.close()
