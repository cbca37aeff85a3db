"""Kafka's side of the view: where input topics end, and how far the consumer groups are. Joins no group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from streams.errors import HeadraceError
from streams.top.sight import Offsets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AskedKafka"]

_TIMEOUT_S = 4.0


class AskedKafka:
    """Asks one cluster again and again.

    Args:
        config: librdkafka's settings: `bootstrap.servers` and security.
        inputs: By domain, its input topic and the consumer group of its workers.
    """

    def __init__(self, config: Mapping[str, Any], inputs: Mapping[str, tuple[str, str]]) -> None:
        quiet: dict[str, Any] = {**config, "log_level": 0, "error_cb": lambda _error: None}
        self._admin = AdminClient(quiet)
        self._where = config.get("bootstrap.servers")
        self._inputs = inputs

    def ask(self) -> dict[str, Offsets]:
        """The offsets of each domain whose topic is there.

        Raises:
            HeadraceError: No broker answers, or it refuses.
        """
        try:
            topics = self._admin.list_topics(timeout=_TIMEOUT_S).topics
            return {
                domain: self._offsets([TopicPartition(topic, p) for p in topics[topic].partitions], group)
                for domain, (topic, group) in self._inputs.items()
                if topic in topics
            }
        except KafkaException as error:
            raise HeadraceError(f"{self._where}: {error.args[0].str()}") from error

    def _offsets(self, partitions: list[TopicPartition], group: str) -> Offsets:
        asked: Any = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, partitions)], request_timeout=_TIMEOUT_S
        )
        # The ends after the offsets: a lag below zero would be a lie.
        committed = {tp.partition: tp.offset for tp in asked[group].result().topic_partitions if tp.offset >= 0}
        newest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        latest = self._admin.list_offsets(dict.fromkeys(partitions, newest), request_timeout=_TIMEOUT_S)
        end = {tp.partition: future.result().offset for tp, future in latest.items()}
        return Offsets(time.monotonic(), end, committed)
