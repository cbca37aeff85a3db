"""A consumer group as an operator sees it: who is in it, where it stands, and moving it while nobody is.

Theory of moving. Offsets and keyed state are one thing: state is what the events below the offsets made of it. So both
are changed in one Kafka transaction, as a worker does it, and not by the request that Kafka has for offsets alone: what
dies in between would leave a worker with one and without the other. The state goes by tombstones, for Kafka refuses to
delete the records of a compacted topic (POLICY_VIOLATION).

Offsets in a transaction are not kept from a group that has members. But whoever joins waits for them: Kafka gives no
offset that a transaction is about to change. So first everything is written, then the group is looked at, and then it
is committed, or aborted where somebody has joined. Who joins later finds both as they are then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.envelope import Message
from streams.clients import Mover, partitions_of, reach
from streams.connecting import UnreachableError, once_coordinated, with_advice
from streams.errors import HeadraceError
from streams.state import ChangelogReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["BusyGroupError", "Group", "Place", "state_keys"]

_TIMEOUT_S = 15.0
_POLL_S = 0.2
# A changelog that gives nothing for so long waits for the end of somebody's transaction.
_PATIENCE_S = 60.0


class BusyGroupError(HeadraceError):
    """The group has members, so it cannot be moved."""


class Place(NamedTuple):
    """Where a group stands in one partition, and what the partition has."""

    partition: int
    begin: int
    end: int
    committed: int | None


class Group:
    """One group on one topic; joins nothing. A context manager.

    Raises:
        UnreachableError: No broker answered.
        TopicMissingError: The topic is not there.
    """

    def __init__(self, config: Mapping[str, Any], name: str, topic: str) -> None:
        self.name, self.topic = name, topic
        self._config = config
        self._partitions = range(partitions_of(config, topic))
        quiet: dict[str, Any] = {"log_level": 3, **config}
        self._admin = AdminClient(quiet)
        self._consumer = Consumer({**quiet, "group.id": name, "enable.auto.commit": False})

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def members(self) -> list[str]:
        """Who is in the group, by instance or client id and host."""
        try:
            found = once_coordinated(self._described, _TIMEOUT_S).members
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return []
            raise UnreachableError(f"group {self.name}: {with_advice(error.args[0])}") from error
        return sorted(f"{one.group_instance_id or one.client_id} at {one.host.lstrip('/')}" for one in found)

    def places(self) -> list[Place]:
        """Where the group stands, per partition; waits for transactions that are about to change that.

        Raises:
            UnreachableError: Kafka does not say.
        """
        try:
            answers = once_coordinated(lambda: self._consumer.committed(self._asked(), timeout=_TIMEOUT_S), _TIMEOUT_S)
            ends = {tp.partition: self._consumer.get_watermark_offsets(tp, _TIMEOUT_S) for tp in self._asked()}
        except KafkaException as error:
            hint = "" if error.args[0].code() != KafkaError._TIMED_OUT else _unfinished(" Perhaps")
            raise UnreachableError(f"offsets of {self.name}: {with_advice(error.args[0])}{hint}") from error
        committed = {tp.partition: tp.offset for tp in answers if tp.offset >= 0}
        return [Place(p, *ends[p], committed.get(p)) for p in self._partitions]

    def offsets_at(self, timestamp_ms: int) -> dict[int, int]:
        """Per partition the first offset with this timestamp or a later one; the end where there is none."""
        try:
            found = self._consumer.offsets_for_times(self._asked(timestamp_ms), timeout=_TIMEOUT_S)
        except KafkaException as error:
            raise UnreachableError(f"offsets of {self.topic}: {with_advice(error.args[0])}") from error
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def require_nobody(self) -> None:
        """Raises where the group has members.

        Raises:
            BusyGroupError: It names them.
        """
        if members := self.members():
            raise BusyGroupError(
                f"group {self.name} has members: {', '.join(members)}. Stop its workers first; one that was stopped "
                "remains a member for worker.session_timeout_ms"
            )

    def move(
        self, offsets: Mapping[int, int], identity: str, changelog: str, keys: Mapping[int, Sequence[bytes]]
    ) -> None:
        """Sets offsets and removes entries of a changelog, both or neither.

        Args:
            offsets: Partition → where to go on.
            identity: Transactional id; of two who move with the same one, the first is fenced.
            changelog: Where the entries are.
            keys: Partition → keys of the entries to be removed.

        Raises:
            BusyGroupError: Somebody joined; nothing was changed.
            DeliveryError: Nothing was changed.
        """
        tombstones = (Message(changelog, key, None, p) for p, of_one in keys.items() for key in of_one)
        mover = Mover(self._config, self.name, self.topic, identity)
        try:
            mover.move(tombstones, {p: (offset, "") for p, offset in offsets.items()}, self.require_nobody)
        finally:
            mover.close()

    def _described(self) -> Any:
        asked: Any = self._admin.describe_consumer_groups([self.name], request_timeout=_TIMEOUT_S)
        return asked[self.name].result()

    def _asked(self, offset: int = 0) -> list[TopicPartition]:
        return [TopicPartition(self.topic, p, offset) for p in self._partitions]


def state_keys(config: Mapping[str, Any], changelog: str, partitions: Iterable[int]) -> dict[int, list[bytes]]:
    """The keys of the live entries of a changelog, read one partition after the other; none where there is no topic.

    Raises:
        UnreachableError: It cannot be read to its end.
    """
    if changelog not in reach(config):
        return {partition: [] for partition in partitions}
    reader = ChangelogReader({"log_level": 3, **config}, changelog)
    try:
        return {partition: list(_restored(reader, partition)) for partition in partitions}
    finally:
        reader.close()


def _restored(reader: ChangelogReader, partition: int) -> dict[bytes, bytes]:
    reader.begin([partition])
    last, since = None, time.monotonic()
    while True:
        if partition in (done := reader.step(_POLL_S)):
            return done[partition]
        if (now := reader.progress[partition]) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > _PATIENCE_S:
            raise UnreachableError(f"{reader.topic}[{partition}] gives nothing.{_unfinished(' Perhaps')}")


def _unfinished(perhaps: str) -> str:
    return (
        f"{perhaps} a transaction has not ended: that of a worker which was killed does after"
        " worker.transaction_timeout_ms. Try again then"
    )
