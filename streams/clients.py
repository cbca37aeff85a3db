"""Kafka for people's commands: read a topic to its end, write with every delivery checked. The hot path has its own.

Reading takes no part in a consumer group, so that looking at a topic never moves anybody's offsets.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from streams._messages import record
from streams.connecting import UnreachableError, explain, metadata, once_coordinated, with_advice
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from schemas.envelope import Message, Record

__all__ = [
    "DeliveryError",
    "Mover",
    "Reader",
    "Tail",
    "TopicMissingError",
    "UnreachableError",
    "Writer",
    "partitions_of",
    "reach",
]

_TIMEOUT_S = 15.0
_POLL_S = 0.2
_AT_ONCE = 1000
# The client looks up its group although it joins none, and whoever only reads need not have a right on one.
_HARMLESS = {KafkaError._ALL_BROKERS_DOWN, KafkaError.GROUP_AUTHORIZATION_FAILED}
# Whoever types a command wants errors, not what librdkafka tried again by itself.
_QUIET = {"log_level": 3}
# Java's default, which topics are made to take: a broker measures batches, and refuses one that is too large for good.
_BATCH_BYTES = 16_384
# The most that librdkafka has: topics decide what they take, after compression.
_LARGEST_MESSAGE = 1_000_000_000


class TopicMissingError(HeadraceError):
    """The topic is not there."""


class DeliveryError(HeadraceError):
    """Messages did not reach Kafka."""


def reach(config: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> dict[str, int]:
    """The topics of the cluster with their numbers of partitions.

    Raises:
        UnreachableError: No broker answered in time, or it refused us.
    """
    causes: list[KafkaError] = []
    consumer = Consumer({**config, "group.id": "headrace-look", "log_level": 0, "error_cb": causes.append})
    try:
        seen = metadata(consumer, config, causes, timeout_s).topics
    finally:
        consumer.close()
    return {name: len(topic.partitions) for name, topic in seen.items()}


def partitions_of(config: Mapping[str, Any], topic: str) -> int:
    """How many partitions a topic has.

    Raises:
        UnreachableError: No broker answered.
        TopicMissingError: The topic is not there; the message names those that are.
    """
    topics = reach(config)
    if topic not in topics:
        visible = sorted(name for name in topics if not name.startswith("__"))
        names = ", ".join(visible) or "none at all"
        raise TopicMissingError(f"no topic {topic!r} at {config.get('bootstrap.servers')}; this user sees {names}")
    return topics[topic]


class Reader:
    """Reads the committed messages of a topic; a context manager.

    Args:
        config: librdkafka's settings: `bootstrap.servers` and security.
        topic: What to read.
        start: Where: the `beginning`, the `end`, or an offset per partition, which leaves the others out.

    Raises:
        UnreachableError: No broker answered.
        TopicMissingError: The topic is not there.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        start: Literal["beginning", "end"] | Mapping[int, int] = "beginning",
    ) -> None:
        self._topic = topic
        if isinstance(start, str):
            at = OFFSET_BEGINNING if start == "beginning" else OFFSET_END
            start = dict.fromkeys(range(partitions_of(config, topic)), at)
        self._consumer = Consumer(
            {
                **_QUIET,
                **config,
                "group.id": "headrace-look",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
        # Where each partition ended when reading began: a topic that is written to has no other end.
        self._ends = {p: self._watermark(config, p) for p in start}
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in start.items()])

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def records(self, *, follow: bool = False) -> Iterator[Record]:
        """Records of all partitions as they come, until the end as it was at the start; for ever with `follow`."""
        open_partitions = {p for p, end in self._ends.items() if follow or end > 0}
        while open_partitions:
            for message in self._consumer.consume(_AT_ONCE, _POLL_S):
                error = message.error()
                if error is None:
                    read = record(message)
                    end = self._ends[read.partition]
                    if follow or read.offset < end:
                        yield read
                    if not follow and read.offset >= end - 1:
                        open_partitions.discard(read.partition)
                elif error.code() == KafkaError._PARTITION_EOF:
                    if not follow:
                        open_partitions.discard(message.partition() or 0)
                elif not error.retriable() and error.code() not in _HARMLESS:
                    raise UnreachableError(f"reading {self._topic}: {with_advice(error)}")

    def _watermark(self, config: Mapping[str, Any], partition: int) -> int:
        try:
            _low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _TIMEOUT_S)
        except KafkaException as error:
            raise UnreachableError(explain(config, error.args[0])) from error
        return int(high)


class Writer:
    """Writes messages outside of any transaction; every delivery is checked. A context manager.

    Args:
        config: librdkafka's settings: `bootstrap.servers` and security.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.delivered = 0
        self.failures: list[str] = []
        self._producer = Producer(
            {
                **_QUIET,
                **config,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "batch.size": _BATCH_BYTES,
                "linger.ms": 5,
                "message.max.bytes": _LARGEST_MESSAGE,
                # The default of Java's and Faust's producers, so that a key's partition is the same whoever writes it.
                "partitioner": "murmur2_random",
            }
        )

    def send(self, message: Message) -> None:
        """Hands a message over; waits where the queue is full.

        Raises:
            DeliveryError: It can never be delivered: too large, or no such topic.
        """
        arguments: dict[str, Any] = {"headers": list(message.headers), "on_delivery": self._note}
        if message.partition is not None:
            arguments["partition"] = message.partition
        while True:
            try:
                self._producer.produce(message.topic, message.value, message.key, **arguments)
                break
            except BufferError:
                self._producer.poll(_POLL_S)
            except KafkaException as error:
                raise DeliveryError(f"{message.topic}: {with_advice(error.args[0])}") from error
        self._producer.poll(0)

    def finish(self, timeout_s: float = 60.0) -> None:
        """Waits until every message is delivered.

        Raises:
            DeliveryError: Some were not; the message says how many, and why.
        """
        waiting = self._producer.flush(timeout_s)
        if self.failures or waiting:
            reasons = ", ".join(sorted(set(self.failures))) or f"no answer in {timeout_s:.0f} s"
            raise DeliveryError(f"{len(self.failures) + waiting} messages were not delivered: {reasons}")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self._producer.purge()

    def _note(self, error: KafkaError | None, _message: object) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.failures.append(with_advice(error))


class Mover:
    """Writes messages and remembers, in the same transaction, which messages of another topic they came from.

    What is remembered stands as offset and metadata of a consumer group that nobody is in. A second mover of the same
    identity, which is the group's name unless given, fences the first.
    """

    def __init__(self, config: Mapping[str, Any], group: str, topic: str, identity: str = "") -> None:
        self._topic = topic
        self._began = False
        self._consumer = Consumer({**_QUIET, **config, "group.id": group, "enable.auto.commit": False})
        self._producer = Producer(
            {
                **_QUIET,
                **config,
                "transactional.id": identity or group,
                "compression.type": "lz4",
                "batch.size": _BATCH_BYTES,
                "message.max.bytes": _LARGEST_MESSAGE,
                "partitioner": "murmur2_random",
            }
        )

    def remembered(self, partitions: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Offset and metadata per partition; (0, "") where nothing is remembered."""
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            answers = once_coordinated(lambda: self._consumer.committed(asked, timeout=_TIMEOUT_S), _TIMEOUT_S)
        except KafkaException as error:
            raise UnreachableError(f"offsets of {self._topic}: {with_advice(error.args[0])}") from error
        return {tp.partition: (max(0, tp.offset), tp.metadata or "") for tp in answers}

    def move(
        self,
        messages: Iterable[Message],
        remember: Mapping[int, tuple[int, str]],
        may: Callable[[], None] = lambda: None,
    ) -> None:
        """Writes the messages and replaces what is remembered, all or nothing.

        Args:
            messages: What is written.
            remember: Offset and metadata per partition.
            may: Asked when everything is there but the commit; what it raises aborts.

        Raises:
            DeliveryError: Nothing was written.
        """
        offsets = [
            TopicPartition(self._topic, partition, offset, metadata)
            for partition, (offset, metadata) in remember.items()
        ]
        try:
            if not self._began:
                self._producer.init_transactions(_TIMEOUT_S)
                self._began = True
            self._producer.begin_transaction()
            try:
                for message in messages:
                    self._produce(message)
                membership = self._consumer.consumer_group_metadata()
                self._producer.send_offsets_to_transaction(offsets, membership, _TIMEOUT_S)
                may()
            except BaseException:
                # What stays open would keep readers of these offsets and messages waiting until it times out.
                with suppress(KafkaException):
                    self._producer.abort_transaction(_TIMEOUT_S)
                raise
            self._producer.commit_transaction(_TIMEOUT_S)
        except KafkaException as error:
            raise DeliveryError(f"nothing was written: {with_advice(error.args[0])}") from error

    def close(self) -> None:
        """Leaves; an open transaction is left to Kafka to abort."""
        self._producer.purge()
        self._consumer.close()

    def _produce(self, message: Message) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        arguments: dict[str, Any] = {"headers": list(message.headers)}
        if message.partition is not None:
            arguments["partition"] = message.partition
        while True:
            try:
                self._producer.produce(message.topic, message.value, message.key, **arguments)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise DeliveryError(f"{message.topic}: no room for another message") from None
                self._producer.poll(_POLL_S)


class Tail:
    """Reads what is committed to some topics from now on, in batches; a context manager.

    Raises:
        UnreachableError: No broker answered.
        TopicMissingError: A topic is not there.
    """

    def __init__(self, config: Mapping[str, Any], *topics: str) -> None:
        self._consumer = Consumer(
            {
                **_QUIET,
                **config,
                "group.id": "headrace-tail",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
            }
        )
        self.starts: dict[tuple[str, int], int] = {
            (topic, partition): self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_TIMEOUT_S
            )[1]
            for topic in topics
            for partition in range(partitions_of(config, topic))
        }
        """Where reading began: the first offset behind what was there."""
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in self.starts.items()])

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, timeout_s: float) -> list[Record]:
        """What came within the time: at once, where something is there."""
        first = self._consumer.consume(1, timeout_s)
        return [record(m) for m in (*first, *(self._consumer.consume(_AT_ONCE, 0) if first else ())) if not m.error()]
