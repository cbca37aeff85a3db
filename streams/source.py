"""Kafka → records; owns the assignment, the offsets reached, and the way back to the committed ones.

Rules that everything here serves:

- A record counts as processed only when the worker says so (`advance`); only such offsets are ever committed, and
  only by the emitter.
- A newly assigned partition starts paused, at its committed offset, and is started (`start`) once its state is there.
- All that a poll returned together with a rebalance is dropped: every partition of the new assignment is paused and
  will be read from its committed offset, so nothing is lost, and nothing of an old assignment slips into the new.
- Positions are never derived from records seen: transactional topics have holes where their markers are.
- Behind the last record of a transactional topic lie markers. They count as processed (`reach_ends`), or Kafka would
  seem to have lost something when it deletes them where nothing more comes.
- Where nothing was committed the group begins somewhere, once: that position is committed before anything is read.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.envelope import Record, Records
from streams._messages import records
from streams._reading import READING, is_unpackable, unpackable
from streams.errors import ConsumerSpentError, StopError, WorldError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["RebalanceListener", "Source"]

log = logging.getLogger(__name__)

# Bounds what librdkafka reads ahead; the rest waits in Kafka. Measured: 0.85 µs of CPU a message at 32 MiB, 0.95 at 64.
_CONSUMER_DEFAULTS: dict[str, Any] = {**READING, "queued.max.messages.kbytes": 32_768}
_METADATA_TIMEOUT_S = 30.0
# What Kafka says to a member whose next poll will tell of a rebalance.
_REBALANCING = {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID}
# After an outage this recent, being fenced means that Kafka still knew this worker's own former self.
_OUTAGE_MEMORY_S = 120.0


class RebalanceListener(Protocol):
    """What the worker does when partitions come and go."""

    def on_revoke(self) -> None:
        """Commits or aborts the work in flight; called before the partitions are given up."""

    def on_lost(self) -> None:
        """Aborts the work in flight: the partitions belong to somebody else already."""

    def on_assign(self, offsets: Mapping[int, int]) -> None:
        """Learns the new assignment: partition → offset where it will be read from."""


class Source:
    """The input topic of one worker, read as a member of its consumer group."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        *,
        group: str,
        instance: str | None,
        session_timeout_ms: int,
        start: str,
        on_lost_offsets: str,
        listener: RebalanceListener,
    ) -> None:
        self.topic = topic
        self._start = start
        self._on_lost_offsets = on_lost_offsets
        self._listener = listener
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()
        # Where reading went on behind what could not be unpacked, since the last way back.
        self._over: dict[int, int] = {}
        # Partitions at a position that is not the committed one, since there is none or Kafka no longer has it.
        self._beginners: set[int] = set()
        # Where reading came to the end of a partition.
        self._ends: dict[int, int] = {}
        self._rebalanced = False
        self._outage_at = float("-inf")
        membership = {"group.instance.id": instance} if instance else {}
        self.consumer = Consumer(
            {
                **_CONSUMER_DEFAULTS,
                **config,
                **membership,
                "error_cb": self._on_error,
                "group.id": group,
                "session.timeout.ms": session_timeout_ms,
                "heartbeat.interval.ms": max(200, session_timeout_ms // 6),
            }
        )
        self.consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    @property
    def assignment(self) -> Sequence[int]:
        """The partitions held now, started or not."""
        return sorted(self._next)

    def poll(self, max_messages: int, timeout_s: float) -> Records:
        """Reads at most `max_messages`, waiting at most `timeout_s`; runs the rebalance callbacks.

        Raises:
            StopError: The input is gone (offsets no longer retained), or another member took this one's identity.
            ConsumerSpentError: This source can do no more; a new one can.
            WorldError: Kafka failed in a way that another try may mend.
        """
        self._rebalanced = False
        try:
            messages = self.consumer.consume(max_messages, timeout_s)
        except KafkaException as error:
            raise self._translate(error.args[0], None) from error
        if self._rebalanced:
            # Only what ended the consumer matters of a poll whose records are dropped.
            messages = [m for m in messages if (e := m.error()) and e.code() == KafkaError._FATAL]
        if not any(map(Message.error, messages)):
            return records(self.topic, messages)
        read = records(self.topic, [m for m in messages if m.error() is None or self._raise_if_serious(m)])
        return Records.join([read, Records.of(self._pass_over(messages))])

    def advance(self, processed: Records) -> None:
        """Marks records as processed: the next commit covers them."""
        self._next.update(processed.next_offsets())

    def reach_ends(self) -> set[int]:
        """Marks what lies behind the last records as processed; call it where all that was polled has been.

        Returns:
            The partitions of which the next commit covers more by that.
        """
        reached = {p: end for p, end in self._ends.items() if end > self._next.get(p, end)}
        self._ends.clear()
        self._next.update(reached)
        return set(reached)

    def offsets(self) -> dict[int, int]:
        """Next offset to read per assigned partition, as far as processed."""
        return dict(self._next)

    def pause(self, partitions: Iterable[int]) -> None:
        """Stops reading partitions, for back-pressure or while state is restored."""
        wanted = [p for p in partitions if p in self._next and p not in self._paused]
        if wanted:
            self.consumer.pause([TopicPartition(self.topic, p) for p in wanted])
            self._paused.update(wanted)

    def start(self, partitions: Iterable[int]) -> None:
        """Reads partitions again from where they stand."""
        wanted = [p for p in partitions if p in self._paused]
        if wanted:
            self.consumer.resume([TopicPartition(self.topic, p) for p in wanted])
            self._paused.difference_update(wanted)

    def confirm(self, partitions: Iterable[int]) -> bool:
        """Commits the position of partitions that begin anew, so that every way back leads to it.

        Without that a group that begins at the latest offset would pass over what came until its first commit.

        Returns:
            Whether they can be started; where not, a rebalance is under way and the next poll will tell.

        Raises:
            WorldError: Kafka does not take the offsets.
        """
        anew = self._beginners.intersection(partitions)
        if not anew:
            return True
        try:
            positions = [TopicPartition(self.topic, p, self._next[p]) for p in anew]
            self.consumer.commit(offsets=positions, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in _REBALANCING:
                raise self._translate(error.args[0], None) from error
            log.info("%s: first positions not committed yet: %s", self.topic, error.args[0].str())
            return False
        self._beginners -= anew
        return True

    def refuse_to_begin(self, partition: int) -> None:
        """Says that events of a partition were answered before, so it cannot be one that nothing was committed of.

        Raises:
            StopError: It is, and nobody said to go on.
        """
        if partition in self._beginners and self._on_lost_offsets == "fail":
            raise StopError(
                f"{self.topic}[{partition}]: there is state of it, but no committed offset. Kafka forgets the offsets "
                "of a group that was away for offsets.retention.minutes (a week). Events of that partition would be "
                "answered again, or passed over. `headrace reset` shows where each partition stands and sets it: --to "
                "the time when the workers ended, or --to earliest --state. Or set worker.on_lost_offsets to "
                "'earliest' or 'latest': it then goes on where worker.start says."
            )

    def rewind(self) -> dict[int, int]:
        """Goes back to the committed offsets, read from the broker; every partition is paused afterwards.

        Returns:
            Partition → committed offset, for all partitions held.
        """
        if not self._next:
            return {}
        self.pause(self._next)
        self._ends.clear()
        self._over.clear()
        self._next = self._committed(self._next)
        deadline = time.monotonic() + _METADATA_TIMEOUT_S
        for partition, offset in self._next.items():
            self._seek(TopicPartition(self.topic, partition, offset), deadline)
        return dict(self._next)

    def group_metadata(self) -> object:
        """The membership that fences a transaction of a worker which no longer holds its partitions."""
        return self.consumer.consumer_group_metadata()

    def lag(self) -> dict[int, int]:
        """Messages between what was processed and the end, per partition, from cached figures; never blocks.

        Transaction markers at the end count as messages, so a drained transactional topic may show one.
        """
        lags = {}
        for partition, reached in self._next.items():
            _low, high = self.consumer.get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
            if high >= 0 and reached >= 0:
                lags[partition] = max(0, high - reached)
        return lags

    def close(self) -> None:
        """Leaves the group (a static member stays in it until its session times out)."""
        self.consumer.close()

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._rebalanced = True
        held = [p.partition for p in partitions]
        try:
            self._next = self._committed(held)
        except WorldError:
            # Held all the same, or the client would assign them by itself and read them without their state. The way
            # back asks again; until then nothing is read from this position.
            self._next = dict.fromkeys(held, 0)
            raise
        finally:
            consumer.assign([TopicPartition(self.topic, p, offset) for p, offset in self._next.items()])
            self._paused.clear()
            self.pause(self._next)
        self._listener.on_assign(dict(self._next))

    def _revoked(self, consumer: Any, _partitions: list[TopicPartition]) -> None:
        self._rebalanced = True
        try:
            self._listener.on_revoke()
        finally:
            self._forget(consumer)

    def _lost(self, consumer: Any, _partitions: list[TopicPartition]) -> None:
        self._rebalanced = True
        self._outage_at = time.monotonic()
        try:
            self._listener.on_lost()
        finally:
            self._forget(consumer)

    def _forget(self, consumer: Any) -> None:
        self._next.clear()
        self._ends.clear()
        self._over.clear()
        self._paused.clear()
        consumer.unassign()

    def _committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Committed offsets; waits for transactions of former owners that still are being finished."""
        wanted = [TopicPartition(self.topic, p) for p in partitions]
        if not wanted:
            return {}
        try:
            found = self.consumer.committed(wanted, timeout=_METADATA_TIMEOUT_S)
        except KafkaException as error:
            raise self._translate(error.args[0], None) from error
        offsets = {p.partition: self._beginning(p.partition, p.offset) for p in found}
        self._beginners = {p.partition for p in found if p.offset != offsets[p.partition]}
        return offsets

    def _beginning(self, partition: int, committed: int) -> int:
        """Where to begin, given what was committed and what Kafka still has."""
        try:
            low, high = self.consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=_METADATA_TIMEOUT_S
            )
        except KafkaException as error:
            raise self._translate(error.args[0], None) from error
        if committed < 0:
            return low if self._start == "earliest" else high
        if low <= committed <= high:
            return committed
        if self._on_lost_offsets == "fail":
            raise StopError(
                f"{self.topic}[{partition}]: the committed offset {committed} is outside of what the topic still has "
                f"({low}..{high}). Events of that range are gone for this group. `headrace reset` with --to earliest "
                "goes on with the oldest that is left; or set worker.on_lost_offsets to 'earliest' or 'latest' to go "
                "on without them."
            )
        return low if self._on_lost_offsets == "earliest" else high

    def _seek(self, position: TopicPartition, deadline: float) -> None:
        """Seeks, waiting for a partition that has just been assigned to become seekable."""
        while True:
            try:
                self.consumer.seek(position)
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise self._translate(error.args[0], position.partition) from error
                time.sleep(0.02)
            else:
                return

    def _pass_over(self, messages: Sequence[Message]) -> list[Record]:
        """Stands in for the next message of partitions where the client cannot unpack it, and goes on behind it.

        Of a batch of many, each message is passed over by itself: where the batch ends the client does not say. It says
        where it begins; nothing of it was read before but what was passed over here or lies before the position.
        """
        stuck = {m.partition() or 0: m.offset() or 0 for m in messages if is_unpackable(m.error())}
        found = []
        for partition, begin in stuck.items():
            if partition not in self._next:
                continue
            at = max(begin, self._next[partition], self._over.get(partition, 0))
            log.warning("%s[%d]: the message at %d cannot be unpacked", self.topic, partition, at)
            self._over[partition] = at + 1
            self._seek(TopicPartition(self.topic, partition, at + 1), time.monotonic() + _METADATA_TIMEOUT_S)
            found.append(unpackable(self.topic, partition, at))
        return found

    def _raise_if_serious(self, message: Any) -> bool:
        error: KafkaError = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[message.partition()] = message.offset()
            return False
        # An offset that left the topic while the partition was paused or lagging is found out on the way back too: what
        # was read before it may still wait to be processed, so it cannot be put right here.
        if error.code() == KafkaError._ALL_BROKERS_DOWN or error.retriable() or is_unpackable(error):
            return False
        raise self._translate(error, message.partition())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._outage_at = time.monotonic()

    def _translate(self, error: KafkaError, partition: int | None) -> WorldError | StopError:
        where = self.topic if partition is None else f"{self.topic}[{partition}]"
        message = f"{where}: {error.str()} ({error.name()})"
        if error.code() not in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            return WorldError(message)
        if time.monotonic() - self._outage_at < _OUTAGE_MEMORY_S:
            return ConsumerSpentError(message)
        return StopError(f"{message}. If another worker joined under this instance id, give each a --slot of its own.")
