"""Keyed state that survives: its changelog in Kafka, read back by whoever takes a partition.

Theory. A processor's state changes are written to a compacted topic, partition by partition of the input, inside the
same transaction as the results and the offsets. So the changelog up to a committed offset *is* the state at that
offset, and taking a partition over means reading its changelog to the end. What "the end" means is the hard part:

- It is taken after the committed offset was read, which Kafka gives only when no transaction on it is pending; so all
  of the last transaction's changes are in the log by then, although their marker may not be.
- It is the high watermark as read_uncommitted sees it, while reading is read_committed: so reading waits for that
  marker instead of stopping before it.
- It is reached by position, not by the offset of a last record: behind it there may be markers, aborted messages and
  holes of compaction only. librdkafka says the position with its end-of-partition event.

Reading is part of the worker's loop in small steps, so that a rebalance in the middle only cancels partitions.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Read

from schemas.envelope import Messages
from streams._reading import is_unpackable
from streams.errors import StopError, WorldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from processors import KeyedState
    from schemas.envelope import Message

log = logging.getLogger(__name__)

# Steps that stay in the processor's cache: 0.85 to 0.95 µs of the loop's CPU a message at 500 to 1000, 1.05 at 4000.
_READ_MESSAGES = 1_000
# So often at most until the worker's loop looks after the rest.
_READS = 8
_TABLE_MESSAGES = 4_000
_TIMEOUT_S = 30.0
_LEADERS_TIMEOUT_S = 1.0
# How soon a partition that was added to a table's topic is noticed, and how long asking may hold up the worker's loop.
_DISCOVERY_S, _DISCOVERY_TIMEOUT_S = 30.0, 0.5


def changes_of(state: KeyedState | None, topic: str) -> Sequence[Message]:
    """Drains what changed, as messages to the changelog; once a transaction."""
    changes = [] if state is None else list(state.changes())
    if not changes:
        return ()
    partitions, keys, values = zip(*changes, strict=True)
    return Messages(topic, keys, values, partitions)


class Restoring(msgspec.Struct):
    """A partition on its way back: what was read so far, and how far that must go."""

    start: int
    end: int
    position: int
    entries: dict[bytes, bytes]


class ChangelogReader:
    """Reads partitions of one changelog topic to their end, in steps."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self.topic = topic
        self._restoring: dict[int, Restoring] = {}
        # A group id is mandatory for the client; nothing is ever committed under it.
        common = {**config, "group.id": f"{topic}-reader", "enable.auto.commit": False, "check.crcs": True}
        self._ends = Consumer({**common, "isolation.level": "read_uncommitted"})
        self._reader = Consumer(
            {
                **common,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                # Small answers are unpacked while the loop reads those before: the client's threads take 0.26 µs a
                # message so, and 0.45 with answers of 50 MB, for whose end the loop would wait besides.
                "fetch.max.bytes": 8_000_000,
                "max.partition.fetch.bytes": 2_000_000,
                "fetch.wait.max.ms": 20,
                "fetch.error.backoff.ms": 20,
                "queued.max.messages.kbytes": 65_536,
                # See `READING`: a full queue would put off the next fetch for a second.
                "fetch.queue.backoff.ms": 5,
            }
        )
        # The client connects to leaders that it knows; asked for them only when there is something to read, it took
        # 0.1 s to the first message instead of 0.03, and a second in one of five times.
        with suppress(KafkaException):
            self._reader.list_topics(topic, timeout=_LEADERS_TIMEOUT_S)

    @property
    def progress(self) -> dict[int, tuple[int, int]]:
        """Partition → (offsets read, offsets to read) of what is being restored."""
        # Other threads ask too: the list is made at once, the loop may change the dict meanwhile.
        return {p: (r.position - r.start, r.end - r.start) for p, r in list(self._restoring.items())}

    def begin(self, partitions: Iterable[int]) -> None:
        """Starts reading partitions from their beginning; call it after their committed offsets were read."""
        wanted = list(partitions)
        self.cancel(wanted)
        for partition in wanted:
            low, high = self._watermarks(partition)
            self._restoring[partition] = Restoring(low, high, low, {})
            if low < high:
                self._reader.incremental_assign([TopicPartition(self.topic, partition, low)])

    def cancel(self, partitions: Iterable[int]) -> None:
        """Stops reading partitions that went away; what was read of them is dropped."""
        for partition in partitions:
            self._end(partition)

    def step(self, timeout_s: float) -> dict[int, dict[bytes, bytes]]:
        """Reads on for at most `timeout_s`; returns the entries of the partitions that are complete now."""
        if not self._restoring:
            return {}
        for _ in range(_READS):
            if self._complete() or self._read(timeout_s) < _READ_MESSAGES:
                break
        done = self._complete()
        for partition in done:
            self._end(partition)
        return done

    def close(self) -> None:
        """Closes both connections."""
        self._reader.close()
        self._ends.close()

    def _complete(self) -> dict[int, dict[bytes, bytes]]:
        return {p: r.entries for p, r in self._restoring.items() if r.position >= r.end}

    def _end(self, partition: int) -> None:
        """The others are read on undisturbed: a new assignment would drop what the client has read ahead of them."""
        restoring = self._restoring.pop(partition, None)
        if restoring is not None and restoring.start < restoring.end:
            self._reader.incremental_unassign([TopicPartition(self.topic, partition)])

    def _read(self, timeout_s: float) -> int:
        """Columns, and runs of one partition: calls of Python's per message would cost as much as reading it."""
        read: list[Any] = self._reader.consume(_READ_MESSAGES, timeout_s)
        keys, values = list(map(Read.key, read)), list(map(Read.value, read))
        partitions: list[Any] = list(map(Read.partition, read))
        begin = 0
        for partition, group in groupby(partitions):
            end = begin + len(list(group))
            restoring = self._restoring.get(partition)
            if restoring is not None:
                self._take(restoring, read[begin:end], keys[begin:end], values[begin:end])
            begin = end
        return len(read)

    def _take(self, restoring: Restoring, run: list[Any], keys: list[bytes | None], values: list[bytes | None]) -> None:
        # What tells of something else than a message has no key either.
        if None in keys:
            self._note(restoring, [message for message in run if message.error() is not None])
            run = [message for message in run if message.error() is None]
            keys, values = list(map(Read.key, run)), list(map(Read.value, run))
        if run:
            _apply(restoring.entries, keys, values)
            restoring.position = max(restoring.position, run[-1].offset() + 1)

    def _note(self, restoring: Restoring, told: Iterable[Any]) -> None:
        for message in told:
            error = message.error()
            if error.code() == KafkaError._PARTITION_EOF:
                restoring.position = max(restoring.position, message.offset())
            elif not error.retriable():
                raise WorldError(f"{self.topic}[{message.partition()}]: {error.str()} ({error.name()})")

    def _watermarks(self, partition: int) -> tuple[int, int]:
        try:
            low, high = self._ends.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                raise StopError(
                    f"{self.topic} has no partition {partition}: partitions were added to the input. Add as many to "
                    "the changelog; keys that have moved to another partition begin there without their state."
                ) from error
            raise WorldError(f"{self.topic}[{partition}]: {error.args[0].str()}") from error
        return low, high


def _apply(entries: dict[bytes, bytes], keys: list[bytes | None], values: list[bytes | None]) -> None:
    """The last value of a key is its entry; a tombstone removes it, and what has no key is none of ours."""
    entries.update(zip(keys, values, strict=True))  # type: ignore[arg-type]  # what is None goes below
    entries.pop(None, None)  # type: ignore[call-overload]
    if None in values:
        for key in [key for key, value in zip(keys, values, strict=True) if value is None]:
            if key is not None and entries.get(key, b"") is None:
                del entries[key]


class TableFollower:
    """Keeps the global tables of a processor up to date: reads their topics whole, then follows them."""

    def __init__(self, config: Mapping[str, Any], tables: Iterable[Any]) -> None:
        self._tables = {table.topic: table for table in tables}
        self._behind: set[tuple[str, int]] = set()
        # Where reading went on behind what could not be unpacked.
        self._over: dict[tuple[str, int], int] = {}
        self._partitions: dict[str, set[int]] = {topic: set() for topic in self._tables}
        self._discover_at = time.monotonic() + _DISCOVERY_S
        self._reader: Consumer | None = None
        if self._tables:
            self._reader = Consumer(
                {
                    **config,
                    "group.id": "headrace-tables",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 100,
                }
            )
            self._start(self._reader)

    @property
    def complete(self) -> bool:
        """Whether every table was read to its end once."""
        return not self._behind

    def catch_up(self, timeout_s: float, give_up: Callable[[], bool] = lambda: False) -> None:
        """Reads until every table was read to its end, or until `give_up` says so.

        Raises:
            WorldError: Nothing came for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while not self.complete and not give_up():
            if self.follow(0.1):
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                raise WorldError(
                    f"tables are not read to their end, and nothing has come for {timeout_s} s: {sorted(self._behind)}"
                )

    def follow(self, timeout_s: float = 0.0) -> int:
        """Applies what has come; returns how many records that were, with those that nobody can unpack."""
        if self._reader is None:
            return 0
        if time.monotonic() >= self._discover_at:
            self._discover(self._reader)
        come = 0
        stuck: dict[tuple[str, int], int] = {}
        messages: list[Any] = self._reader.consume(_TABLE_MESSAGES, timeout_s)
        for message in messages:
            error = message.error()
            if error is None:
                if message.key() is not None:
                    self._tables[message.topic()].update(message.key(), message.value())
                    come += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((message.topic(), message.partition()))
            elif is_unpackable(error):
                stuck[message.topic(), message.partition()] = message.offset()
        return come + self._pass_over(self._reader, stuck)

    def close(self) -> None:
        """Closes the connection."""
        if self._reader is not None:
            self._reader.close()

    def _pass_over(self, reader: Consumer, stuck: Mapping[tuple[str, int], int]) -> int:
        """Goes on behind messages that the client cannot unpack, one a partition at a time as in `source.py`."""
        for place, begin in stuck.items():
            at = max(begin, self._over.get(place, 0))
            log.warning("%s[%d]: the entry at %d cannot be unpacked: the table is without it", *place, at)
            reader.seek(TopicPartition(*place, at + 1))
            self._over[place] = at + 1
        return len(stuck)

    def _start(self, reader: Consumer) -> None:
        """Reads every partition there is; a table is complete when all of them were read to their ends."""
        for topic in self._tables:
            self._add(reader, self._described(reader, topic, _TIMEOUT_S), topic)
        self._behind = {(topic, partition) for topic, found in self._partitions.items() for partition in found}

    def _discover(self, reader: Consumer) -> None:
        """Reads partitions that were added, from their beginning too; a broker that is away changes nothing."""
        self._discover_at = time.monotonic() + _DISCOVERY_S
        for topic in self._tables:
            try:
                self._add(reader, self._described(reader, topic, _DISCOVERY_TIMEOUT_S), topic)
            except (KafkaException, WorldError) as error:
                log.warning("whether partitions were added to %s is not known: %s", topic, error)

    def _described(self, reader: Consumer, topic: str, timeout_s: float) -> set[int]:
        description = reader.list_topics(topic, timeout=timeout_s).topics[topic]
        if description.error is not None:
            raise WorldError(f"topic {topic}: {description.error.str()}")
        return set(description.partitions)

    def _add(self, reader: Consumer, partitions: set[int], topic: str) -> None:
        added = sorted(partitions - self._partitions[topic])
        if added:
            reader.incremental_assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in added])
            self._partitions[topic].update(added)
