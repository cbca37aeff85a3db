"""Events to the input topic of a domain and answers back from its output topics, both into a ledger."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Producer

from schemas.dead_letter import from_record
from schemas.dead_letter import topic_name as dead_letter_topic
from schemas.topics import domains, events_of
from streams.clients import Tail
from streams.errors import HeadraceError
from streams.local.topics import batch_bytes, message_limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors._demo import Answer, Demo
    from schemas.envelope import Message
    from schemas.topics import TopicType
    from streams.demo.ledger import Ledger

__all__ = ["Came", "Traffic", "topics_of"]

_FLUSH_S = 60.0
_CONNECT_S = 0.5


class Came(NamedTuple):
    """What came back: a result and its latency in seconds, where known; a dead letter where there is no answer."""

    answer: Answer | None
    latency_s: float | None
    at: float


def topics_of(domain: str) -> tuple[TopicType, TopicType]:
    """The topic of a domain's events and the one of its results."""
    declared = domains()[domain]
    results = next(topic for topic in declared if topic.direction == "output" and topic.table is not None)
    return events_of(declared), results


class Traffic:
    """What is sent and what comes back, from now on; a context manager.

    Args:
        kafka: librdkafka's settings: `bootstrap.servers` and security.
        domain: Whose topics.
        demo: Knows its results.
        ledger: Told of each event once Kafka has it, and of each answer.
    """

    def __init__(self, kafka: Mapping[str, Any], domain: str, demo: Demo, ledger: Ledger) -> None:
        self.input, self.output = topics_of(domain)
        self.sent = 0
        """Events handed to the client."""
        self._dead_letters = dead_letter_topic(domain)
        self._demo = demo
        self._ledger = ledger
        self._failed: list[str] = []
        self._reader = Tail({**kafka, "log_level": 0}, self.output.name, self._dead_letters)
        self.starts = {p: offset for (topic, p), offset in self._reader.starts.items() if topic == self.output.name}
        """Where each partition of the results ended when this began."""
        written = [topic.name for topic in domains()[domain] if topic.direction == "input"]
        self._producer = Producer(
            {
                **kafka,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 2,
                "batch.size": batch_bytes(message_limits(kafka, written).values()),
                "message.max.bytes": 16_000_000,
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    def send(self, key: bytes | None, value: bytes | None, identity: str | None, truth: bool | None) -> None:
        """Sends an event; without an identity it can only become a dead letter."""
        noted = partial(self._delivered, identity, truth, time.time())
        self._producer.produce(self.input.name, value, key, on_delivery=noted)
        self.sent += 1

    def send_beside(self, message: Message) -> None:
        """Sends a message of another topic, such as a label."""
        self._producer.produce(message.topic, message.value, message.key, on_delivery=self._delivered_beside)

    def connect(self) -> None:
        """Lets the producer connect and get its id before the first event, whose latency is no news of the pipeline."""
        self._producer.list_topics(self.input.name, timeout=10)
        self._producer.poll(_CONNECT_S)

    def read(self, timeout_s: float) -> list[Came]:
        """What came back within the time."""
        self._producer.poll(0)
        records = self._reader.read(timeout_s)
        now = time.time()
        came: list[Came] = []
        for record in records:
            if record.topic == self._dead_letters:
                letter, _original = from_record(record)
                self._ledger.dead_letter((letter.partition, letter.offset), now)
                came.append(Came(None, None, now))
            elif record.value is not None:
                answer = self._demo.read(record.value)
                came.append(Came(answer, self._ledger.result(answer, now), now))
        return came

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Waits until Kafka has everything.

        Raises:
            HeadraceError: It has not.
        """
        waiting = self._producer.flush(timeout_s)
        if self._failed or waiting:
            why = self._failed[0] if self._failed else f"no answer in {timeout_s:.0f} s"
            raise HeadraceError(f"{len(self._failed) + waiting} messages did not reach Kafka: {why}")

    def _delivered(self, identity: str | None, truth: bool | None, at: float, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(error.str())
        else:
            self._ledger.sent((message.partition(), message.offset()), identity, truth, at)

    def _delivered_beside(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._failed.append(error.str())
