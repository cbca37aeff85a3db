"""Kafka → Records for the sink: which partitions are held, and reading from wherever the tables say.

Nothing is ever committed to Kafka. With a group, Kafka shares the partitions among the sinks of one server; without
one (the embedded store has one sink) all partitions are taken at once and nobody waits for a member that was killed.
"""

from __future__ import annotations

import logging
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.envelope import Records
from streams._messages import records
from streams._reading import READING, is_unpackable, unpackable
from streams.connecting import explain, is_refusal, with_advice
from streams.errors import StopError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LostOffsetsError", "Place", "Reader"]

log = logging.getLogger(__name__)

_CONSUMER_DEFAULTS: dict[str, Any] = {
    **READING,
    # Read ahead; the rest waits in Kafka. Measured with messages of 840 bytes: as fast as 16 MB ahead in fetches of
    # 16 MB, for 1.9 µs of CPU a message instead of 2.4.
    "queued.max.messages.kbytes": 8_192,
    "max.partition.fetch.bytes": 2_000_000,
    "topic.metadata.refresh.interval.ms": 10_000,
}
_METADATA_TIMEOUT_S = 10.0
# How soon a topic or partition made after the start is noticed where no group tells: sooner while a topic is missing.
_DISCOVERY_S, _SEEN_ALL_S = 1.0, 10.0
_DISCOVERY_TIMEOUT_S = 2.0


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic} [{self.partition}]"


class LostOffsetsError(StopError):
    """Kafka no longer holds what was to be read next."""


class Reader:
    """A consumer of the given topics that reads from where it is told."""

    def __init__(
        self, config: Mapping[str, Any], topics: Sequence[str], group: str = "", session_timeout_ms: int = 10_000
    ) -> None:
        self.assigned: frozenset[Place] = frozenset()
        self.generation = 0
        """Grows whenever the assignment changes: what was read before belongs to nobody then."""
        self.ends: dict[Place, int] = {}
        """Where reading last came to the end of a partition, behind all markers."""
        self._config = config
        self._refused = ""
        self._topics = sorted(topics)
        self._group = group
        self._discover_at = 0.0
        # Where reading begins in a batch that cannot be unpacked.
        self._over: dict[Place, int] = {}
        self._consumer = Consumer(
            {
                **_CONSUMER_DEFAULTS,
                **config,
                # librdkafka wants a name even where no group is joined.
                "group.id": group or "headrace-sink",
                "session.timeout.ms": session_timeout_ms,
                "heartbeat.interval.ms": max(200, session_timeout_ms // 6),
                "error_cb": self._on_error,
            },
            logger=log,
        )
        if group:
            self._consumer.subscribe(self._topics, on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    def read(self, most: int, timeout_s: float) -> list[Records]:
        """Reads at most so many records, each partition's together; runs rebalances, and shows them by `generation`.

        Raises:
            LostOffsetsError: What was to be read next was deleted from Kafka.
            StopError: The consumer cannot go on.
        """
        if not self._group and time.monotonic() >= self._discover_at:
            self._discover()
        if self._refused and not self.assigned:
            raise StopError(self._refused)
        generation = self.generation
        messages = self._consumer.consume(most, timeout_s)
        stuck: dict[Place, int] = {}
        if any(map(Message.error, messages)):
            messages = [message for message in messages if self._is_record(message, stuck)]
        if generation != self.generation:
            return []
        found: list[Records] = []
        for topic, of_topic in groupby(messages, key=Message.topic):
            found += records(topic or "", list(of_topic)).by_partition()
        return found + self._pass_over(stuck)

    def read_from(self, offsets: Mapping[Place, int]) -> None:
        """Reads these partitions and no others, each from its offset; what was read ahead is dropped."""
        self.ends.clear()
        self._over = dict(offsets)
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])

    def bounds(self, place: Place) -> tuple[int, int]:
        """The first offset that Kafka still holds, and the one that comes next; asks the broker.

        Raises:
            OSError: Kafka does not answer.
        """
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_METADATA_TIMEOUT_S)
        except KafkaException as error:
            raise OSError(f"Kafka does not say what {place} holds: {error.args[0].str()}") from error
        return low, high

    def known_end(self, place: Place) -> int | None:
        """The next offset of a partition as of the last fetch; asks nobody."""
        try:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        except KafkaException:
            return None
        return high if high >= 0 else None

    def close(self) -> None:
        """Leaves the group."""
        self._consumer.close()

    def _is_record(self, message: Any, stuck: dict[Place, int]) -> bool:
        """Whether a message is one; takes note of what Kafka says instead, and of batches that nobody can unpack."""
        error = message.error()
        if error is None:
            return True
        place, offset = Place(message.topic() or "", message.partition() or 0), message.offset() or 0
        if is_unpackable(error):
            stuck[place] = offset
        else:
            self._note(error, place, offset)
        return False

    def _pass_over(self, stuck: Mapping[Place, int]) -> list[Records]:
        """Stands in for messages that the client cannot unpack, one a partition, and goes on behind them."""
        found = []
        for place, begin in stuck.items():
            if place not in self.assigned:
                continue
            at = max(begin, self._over.get(place, 0))
            log.warning("%s: the message at %d cannot be unpacked", place, at)
            self._over[place] = at + 1
            self._consumer.seek(TopicPartition(*place, at + 1))
            found.append(Records.of([unpackable(*place, at)]))
        return found

    def _note(self, error: KafkaError, place: Place, offset: int) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self.ends[place] = offset
        elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LostOffsetsError(f"Kafka no longer holds the offset of {place} that comes next: {error.str()}")
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and not self._group:
            pass  # the client looks a group up although none is joined
        elif error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise StopError(f"Reading {place.topic or self._group}: {with_advice(error)}")
        elif error.fatal():
            raise StopError(f"The sink's consumer cannot go on: {error.str()}")
        else:
            log.warning("Kafka, while reading %s: %s", place.topic or "the topics", error.str())

    def _on_error(self, error: KafkaError) -> None:
        if is_refusal(error):
            self._refused = explain(self._config, error, [error])

    def _given(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._hold(partitions)
        self._consumer.assign([])

    def _taken(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._hold([])
        self._consumer.unassign()

    def _hold(self, partitions: Sequence[TopicPartition]) -> None:
        self.assigned = frozenset(Place(found.topic, found.partition) for found in partitions)
        self.generation += 1
        self.ends.clear()

    def _discover(self) -> None:
        """Takes every partition that is there; a broker that is away changes nothing."""
        self._discover_at = time.monotonic() + _DISCOVERY_S
        try:
            known = self._consumer.list_topics(timeout=_DISCOVERY_TIMEOUT_S).topics
        except KafkaException as error:
            log.warning("Kafka does not list its topics: %s", explain(self._config, error.args[0]))
            return
        found = [
            TopicPartition(topic, partition)
            for topic in self._topics
            if topic in known
            for partition in known[topic].partitions
        ]
        if all(topic in known for topic in self._topics):
            self._discover_at += _SEEN_ALL_S
        if {Place(one.topic, one.partition) for one in found} - self.assigned:
            self._hold(found)
