"""Kafka as the benchmarks need it: topics, a load, how far a group is, what is on a topic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from streams.local.topics import TopicSpec, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PARTITIONS = 4
_TIMEOUT_S = 30.0
_TRIES = 50


def make_topics(bootstrap: str, *names: str, keep_mb: int = 0) -> None:
    """Makes topics of four partitions that are missing; each keeps so much of a partition, or all of it."""
    segment = keep_mb * 1_000_000 // 4
    config = {"retention.bytes": str(4 * segment), "segment.bytes": str(segment)} if keep_mb else {}
    ensure_topics({"bootstrap.servers": bootstrap}, {name: TopicSpec(PARTITIONS, config) for name in names})


def producer(bootstrap: str, linger_ms: int = 5) -> Producer:
    """One that keeps a key in the partition where headrace's own producers put it."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": linger_ms,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
            "log_level": 3,
        }
    )


def preload(bootstrap: str, topic: str, messages: Iterable[tuple[bytes | None, bytes]]) -> int:
    """Writes messages as fast as it goes and waits until they are there; returns how many."""
    writer, count = producer(bootstrap), 0
    for key, value in messages:
        send(writer, topic, key, value)
        count += 1
        if count % 1000 == 0:
            writer.poll(0)
    left = writer.flush(120)
    if left:
        raise RuntimeError(f"{left} messages did not reach {topic}: is the disk full?")
    return count


def send(writer: Producer, topic: str, key: bytes | None, value: bytes | None) -> None:
    """Hands a message over; where the client's queue is full, it waits for room."""
    while True:
        try:
            writer.produce(topic, value, key)
            return
        except BufferError:
            writer.poll(0.05)


class Progress:
    """How many messages a consumer group has behind it: the sum of its committed offsets on one topic.

    It asks the group coordinator and joins nothing. Offsets that a transaction has not committed do not count.
    """

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "isolation.level": "read_uncommitted",
                "enable.auto.commit": False,
                "log_level": 2,
            }
        )
        self._asked = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]

    def offsets(self) -> list[int]:
        """The next offset of each partition, 0 where nothing is committed."""
        for _ in range(_TRIES):
            try:
                return [max(0, found.offset) for found in self._consumer.committed(self._asked, timeout=_TIMEOUT_S)]
            except KafkaException:  # a coordinator that is only just elected
                time.sleep(0.1)
        return [max(0, found.offset) for found in self._consumer.committed(self._asked, timeout=_TIMEOUT_S)]

    def committed(self) -> int:
        """Of all partitions together."""
        return sum(self.offsets())

    def close(self) -> None:
        """Lets go of the connection."""
        self._consumer.close()


class Ends:
    """Where the committed messages of a topic end."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._reader = _reader(bootstrap)
        self._asked = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]

    def offsets(self) -> list[int]:
        """The offset behind the last committed message of each partition."""
        return [int(self._reader.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1]) for place in self._asked]

    def count(self) -> int:
        """Of all partitions together: committed messages, and a marker for each transaction."""
        return sum(self.offsets())

    def close(self) -> None:
        """Lets go of the connection."""
        self._reader.close()


def ends(bootstrap: str, topic: str) -> list[int]:
    """The offset behind the last committed message of each partition."""
    asked = Ends(bootstrap, topic)
    found = asked.offsets()
    asked.close()
    return found


def values(bootstrap: str, topic: str, starts: Sequence[int], limit: int) -> Iterator[bytes]:
    """Committed values from these offsets to the end, at most so many."""
    reader = _reader(bootstrap)
    reader.assign([TopicPartition(topic, partition, offset) for partition, offset in enumerate(starts)])
    left, unfinished = limit, set(range(len(starts)))
    while left > 0 and unfinished:
        for message in reader.consume(min(left, 10_000), 0.2):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition() or 0)
            elif error is None and (value := message.value()) is not None:
                left -= 1
                yield value
    reader.close()


def _reader(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-look",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 2,
        }
    )
