"""Results, dead letters, state changes and offsets into one Kafka transaction.

Everything that decides what is committed lives here. The order is always the same:

    begin (lazily, at the first message) → send … → commit: offsets into the transaction, then commit it
                                                  └ or abort: nothing of it is ever visible to read_committed

No delivery callbacks: a transaction whose messages could not all be delivered does not commit, and callbacks cost
0.6 µs an event. After a commit whose outcome is unknown (a time-out) the producer is not used again: the broker may
still apply a delayed end of transaction to the next one.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from schemas.envelope import Messages
from streams.errors import AbortError, StopError, UnknownOutcomeError, WorldError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from schemas.envelope import Message

log = logging.getLogger(__name__)

# Measured on raw relays: lz4 costs nothing, zstd a third; 1 MB batches 307k msg/s against 192k at 16 KB. A small
# transaction lasts 9 ms with a linger of 1 ms, 16 with 5, and with none as long and at the price of a quarter of the
# throughput; what a micro-batch sends comes at once, so that 1 ms fills batches as well as 5 do.
_PRODUCER_DEFAULTS: dict[str, Any] = {
    "compression.type": "lz4",
    "linger.ms": 1,
    "batch.size": 1_000_000,
    "acks": "all",
    "enable.idempotence": True,
    "queue.buffering.max.messages": 500_000,
    # Bounds memory where brokers are slow; a transaction of 20,000 results has about 20 MB.
    "queue.buffering.max.kbytes": 131_072,
    # The most that librdkafka has: topics decide what they take, after compression.
    "message.max.bytes": 1_000_000_000,
    # The default of Java's and Faust's producers, so that a key's partition is the same whoever writes it.
    "partitioner": "murmur2_random",
}

_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}


class Emitter(Protocol):
    """Where results, dead letters, state changes and offsets leave together."""

    overlaps: bool
    """Whether a commit may run on another thread while the loop goes on; nothing is sent before it has returned."""

    def send(self, messages: Iterable[Message]) -> None:
        """Hands messages over for the next commit.

        Raises:
            WorldError: They cannot be taken; `abort`, or a new emitter where it is `UnknownOutcomeError`.
        """

    def settle(self) -> None:
        """Returns once nothing sent later can be there without what was sent so far.

        Raises:
            WorldError: As `send`.
        """

    def commit(self, offsets: Mapping[tuple[str, int], int], group_metadata: object) -> None:
        """Makes everything sent so far final, together with the next offsets to read per (topic, partition).

        It may never return: librdkafka can block for ever where a coordinator does not answer (librdkafka 5456).
        Whoever calls it has to be able to go on without it, as after `UnknownOutcomeError`.

        Raises:
            AbortError: Nothing of it was committed; call `abort`.
            UnknownOutcomeError: Close this emitter, make a new one, and read the committed offsets again.
            StopError: Another worker took over this one's identity.
        """

    def abort(self) -> None:
        """Drops what was sent since the last commit; a failure makes the emitter `UnknownOutcomeError`."""

    def breathe(self) -> None:
        """Serves the client's callbacks, for times in which nothing is sent: statistics pile up otherwise."""

    def close(self) -> None:
        """Leaves without committing."""


class TransactionalEmitter:
    """Exactly once: one Kafka transaction at a time, fenced by `transactional_id` and by the consumer group."""

    overlaps = True

    def __init__(
        self,
        config: Mapping[str, Any],
        transactional_id: str,
        *,
        transaction_timeout_ms: int = 30_000,
        timeout_s: float = 20.0,
    ) -> None:
        self._id = transactional_id
        self._timeout_s = timeout_s
        self._transaction_timeout_s = transaction_timeout_ms / 1000
        self._began_at = 0.0
        self._open = False
        self._producer = Producer(
            {
                **_PRODUCER_DEFAULTS,
                **config,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": transaction_timeout_ms,
            }
        )
        self._retry("start transactions", lambda: self._producer.init_transactions(self._timeout_s))

    def send(self, messages: Iterable[Message]) -> None:
        if not self._open:
            self._call("begin a transaction", self._producer.begin_transaction)
            self._open = True
            self._began_at = time.monotonic()
        try:
            _produce(self._producer, messages, self._timeout_s)
        except KafkaException as error:
            raise self._translate("produce", error) from error

    def settle(self) -> None:
        """A transaction is there as a whole or not at all."""

    def commit(self, offsets: Mapping[tuple[str, int], int], group_metadata: object) -> None:
        if not self._open:
            if not offsets:
                return
            self.send(())
        positions = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        self._retry(
            "put the offsets into the transaction",
            lambda: self._producer.send_offsets_to_transaction(positions, group_metadata, self._timeout_s),
        )
        self._retry("commit the transaction", lambda: self._producer.commit_transaction(self._timeout_s))
        self._open = False

    def abort(self) -> None:
        if not self._open:
            return
        try:
            self._retry("abort the transaction", lambda: self._producer.abort_transaction(self._timeout_s))
        except WorldError as error:
            raise UnknownOutcomeError(str(error)) from error
        self._open = False

    def breathe(self) -> None:
        self._producer.poll(0)

    def close(self) -> None:
        # Messages of an open transaction are dropped: nobody waits for the deliveries of what will be aborted.
        self._producer.purge()
        with suppress(KafkaException):  # a producer that is spent says so again
            self._producer.flush(1.0)

    def _call(self, what: str, action: Any) -> None:
        try:
            action()
        except KafkaException as error:
            raise self._translate(what, error) from error

    def _retry(self, what: str, action: Any) -> None:
        """Runs a transactional call again while librdkafka calls its failure retriable, within the time-out."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                action()
            except KafkaException as error:
                retriable = error.args[0].retriable() and not error.args[0].txn_requires_abort()
                if not retriable or time.monotonic() > deadline:
                    raise self._translate(what, error) from error
                log.info("trying again to %s: %s", what, error.args[0].str())
                time.sleep(0.05)
            else:
                return

    def _translate(self, what: str, error: KafkaException) -> WorldError | StopError:
        cause = self._cause(error)
        if cause.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            lacking = f"this user needs Write on the transactional id {self._id}; see `headrace acls`"
            return StopError(f"could not {what}: {lacking}")
        found = _translate(what, cause)
        if isinstance(found, StopError) and self._open and self._age_s() > self._transaction_timeout_s:
            # Kafka ends a transaction that lasts too long by fencing its producer; no other worker need exist. Should
            # one, it is fenced in turn, in a transaction that is young, and says so.
            return UnknownOutcomeError(f"could not {what}: the transaction had lasted for {self._age_s():.0f} s")
        return found

    def _cause(self, error: KafkaException) -> KafkaException:
        """Why a producer is spent: most calls only say that it is, a flush says what ended it, such as being fenced."""
        if error.args[0].code() != KafkaError._FATAL:
            return error
        try:
            self._producer.flush(0)
        except KafkaException as cause:
            return cause
        return error

    def _age_s(self) -> float:
        return time.monotonic() - self._began_at


class AtLeastOnceEmitter:
    """At least once: messages are flushed, then the offsets are committed; a crash between repeats results.

    Results are flushed before the state that knows of them (`settle`): state may count an event twice, but never takes
    one for answered that is not.
    """

    # Its commits use the consumer, which is the loop's.
    overlaps = False

    def __init__(self, config: Mapping[str, Any], consumer: Any, *, timeout_s: float = 20.0) -> None:
        self._consumer = consumer
        self._timeout_s = timeout_s
        self._failed: list[str] = []
        self._closed = False
        self._producer = Producer({**_PRODUCER_DEFAULTS, **config, "on_delivery": self._delivered})

    def send(self, messages: Iterable[Message]) -> None:
        try:
            _produce(self._producer, messages, self._timeout_s)
        except KafkaException as error:
            raise _translate("produce", error) from error

    def settle(self) -> None:
        undelivered = self._flush()
        if undelivered or self._failed:
            raise AbortError(f"{undelivered or len(self._failed)} messages were not delivered: {self._failed[:1]}")

    def commit(self, offsets: Mapping[tuple[str, int], int], group_metadata: object) -> None:  # noqa: ARG002
        self.settle()
        if self._closed:
            raise AbortError("left behind: the way back has read the committed offsets, which must not change now")
        if offsets:
            positions = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
            try:
                self._consumer.commit(offsets=positions, asynchronous=False)
            except KafkaException as error:
                raise AbortError(f"could not commit the offsets: {error.args[0].str()}") from error

    def abort(self) -> None:
        self._producer.purge()
        self._flush()
        self._failed.clear()

    def breathe(self) -> None:
        self._producer.poll(0)

    def close(self) -> None:
        self._closed = True
        with suppress(KafkaException):  # a producer that is spent says so again
            self._producer.flush(self._timeout_s)

    def _flush(self) -> int:
        try:
            return int(self._producer.flush(self._timeout_s))
        except KafkaException as error:
            raise _translate("flush", error) from error

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed.append(error.str())


def _produce(producer: Any, messages: Iterable[Message], timeout_s: float) -> None:
    produce = producer.produce
    if isinstance(messages, Messages):
        # Positional, no object and no dictionary per message: 0.1 µs less.
        for arguments in _columns(messages):
            try:
                produce(*arguments)
            except BufferError:
                _wait_for_space(producer, timeout_s)
                produce(*arguments)
    else:
        for message in messages:
            options = _options(message)
            try:
                produce(message.topic, message.value, message.key, **options)
            except BufferError:
                _wait_for_space(producer, timeout_s)
                produce(message.topic, message.value, message.key, **options)
    producer.poll(0)


def _columns(messages: Messages) -> Iterator[tuple[Any, ...]]:
    """Topic, value, key and, where they are given, partition of each."""
    topic = repeat(messages.topic, len(messages))
    if messages.partitions is None:
        return zip(topic, messages.values, messages.keys, strict=True)
    return zip(topic, messages.values, messages.keys, messages.partitions, strict=True)


def _options(message: Message) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if message.partition is not None:
        options["partition"] = message.partition
    if message.headers:
        options["headers"] = list(message.headers)
    return options


def _wait_for_space(producer: Any, timeout_s: float) -> None:
    """Back-pressure: waits until half of the producer's queue has left, which is full by messages or by bytes."""
    deadline = time.monotonic() + timeout_s
    limit = len(producer) // 2
    while len(producer) > limit:
        if time.monotonic() > deadline:
            raise AbortError(f"the producer's queue did not drain within {timeout_s} s: are the brokers reachable?")
        producer.poll(0.05)


def _translate(what: str, error: KafkaException) -> WorldError | StopError:
    """The one place where librdkafka's transactional errors become ours."""
    cause: KafkaError = error.args[0]
    message = f"could not {what}: {cause.str()} ({cause.name()})"
    if cause.code() in _FENCED:
        return StopError(f"{message}; another worker runs under this identity; give each a --slot of its own.")
    # A fenced group member learns it from its consumer too, which knows whether it was fenced by its own former self.
    if cause.txn_requires_abort() or cause.code() == KafkaError.FENCED_INSTANCE_ID:
        return AbortError(message)
    return UnknownOutcomeError(message)
