"""The ways back that are seldom gone: what fails inside a rebalance, before a first commit, or after a long sleep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from counting_worker import make_worker
from harness import EXACT, Follower, check_counting, running, send

import streams.source
from schemas.envelope import Message
from streams.emitter import TransactionalEmitter
from streams.errors import AbortError, StopError
from streams.local.topics import TopicSpec, ensure_topics
from streams.running import changelog_of
from streams.settings import Settings, WorkerSettings

Names = Callable[..., str]


def events(first: int, stop: int) -> list[tuple[bytes, bytes]]:
    return [(b"k%d" % (i % 40), b"%d" % i) for i in range(first, stop)]


def pending_offsets(stage: Mapping[str, str]) -> Any:
    """A transaction with offsets of the group that nobody ends: a worker was killed while it committed."""
    config = {"bootstrap.servers": stage["bootstrap"]}
    member = Consumer({**config, "group.id": stage["group"]})
    committed = member.committed([TopicPartition(stage["topic"], p) for p in range(4)], timeout=10)
    producer = Producer({**config, "transactional.id": f"{stage['group']}-killed", "transaction.timeout.ms": 60_000})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(committed, member.consumer_group_metadata(), 10)
    member.close()
    return producer


def test_offsets_that_are_pending_for_long_cost_no_state(
    stage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Kafka does not give the committed offsets in time, nothing is read without its state."""
    monkeypatch.setattr(streams.source, "_METADATA_TIMEOUT_S", 1.0)
    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], events(0, 400))
    with running(make_worker(**stage, slot="0", static=False)):
        out.read_until(400, 30)
    send(stage["bootstrap"], stage["topic"], events(400, 800))
    killed = pending_offsets(stage)

    with running(make_worker(**stage, slot="1", static=False)):
        time.sleep(5)
        killed.abort_transaction(10)
        records = out.read_until(800, 30)

    assert EXACT == check_counting(records, 800)


class FirstCommitFails:
    """Passes everything on to a real emitter, but the first commit is void, after something was sent behind it."""

    def __init__(self, real: Any, meanwhile: Callable[[], None]) -> None:
        self._real = real
        self._meanwhile: Callable[[], None] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self, offsets: Mapping[tuple[str, int], int], group_metadata: object) -> None:
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
            raise AbortError("the transaction is void, says the test")
        self._real.commit(offsets, group_metadata)


def test_start_at_latest_means_the_first_time_only(stage: dict[str, str]) -> None:
    """What came after a group began at the latest offset is answered, though its first transaction failed."""
    send(stage["bootstrap"], stage["topic"], events(1000, 1100))
    worker = make_worker(**stage, slot="0", start="latest")
    worker._emitter = FirstCommitFails(
        worker._emitter, lambda: send(stage["bootstrap"], stage["topic"], events(100, 200))
    )
    out = Follower(stage["bootstrap"], stage["output"])

    with running(worker):
        deadline = time.monotonic() + 30
        while not worker.ready and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        send(stage["bootstrap"], stage["topic"], events(0, 100))
        records = out.read_until(200, 10)

    assert EXACT == check_counting(records, 200)


def forget_group(stage: Mapping[str, str]) -> None:
    """Takes the offsets of the group out of Kafka, as soon as its last member has left."""
    admin = AdminClient({"bootstrap.servers": stage["bootstrap"]})
    deadline = time.monotonic() + 15
    while True:
        try:
            admin.delete_consumer_groups([stage["group"]])[stage["group"]].result()
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        else:
            return


def test_state_without_committed_offsets_stops_the_worker(stage: dict[str, str]) -> None:
    """Kafka forgets the offsets of a group that was away for a week; beginning anew would answer everything again."""
    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], events(0, 400))
    with running(make_worker(**stage, slot="0", static=False)):
        out.read_until(400, 30)
    forget_group(stage)
    worker = make_worker(**stage, slot="0", static=False)
    patience = threading.Timer(20, worker.stop)
    patience.start()

    with pytest.raises(StopError, match=r"no committed offset.*on_lost_offsets"):
        worker.run()

    patience.cancel()


def test_partitions_added_to_the_input_stop_the_worker_and_say_so(stage: dict[str, str]) -> None:
    """Keys move when partitions are added: their state lies elsewhere, so that a worker stops instead of guessing."""
    admin = AdminClient({"bootstrap.servers": stage["bootstrap"]})
    admin.create_partitions([NewPartitions(stage["topic"], 6)])[stage["topic"]].result()
    time.sleep(1)

    with pytest.raises(StopError, match=r"no partition \d.*partitions were added"):
        make_worker(**stage, slot="0").run()


class Slumber:
    """Passes everything on to a real emitter, but sleeps once in the middle of a transaction."""

    def __init__(self, real: TransactionalEmitter, seconds: float) -> None:
        self._real = real
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, messages: Iterable[Message]) -> None:
        self._real.send(messages)
        if self._seconds:
            self._real._producer.flush(5)
            time.sleep(self._seconds)
            self._seconds = 0.0


@pytest.mark.slow
def test_transaction_that_outlived_its_time_out_is_done_again(stage: dict[str, str]) -> None:
    """A worker that slept for longer than its transactions may last was fenced by Kafka alone: it goes on."""
    worker = make_worker(**stage, slot="0", session_timeout_ms=6000)
    worker._emitter.close()
    config = {"bootstrap.servers": stage["bootstrap"]}
    # Kafka looks for transactions to be ended every ten seconds.
    worker._emitter = Slumber(  # type: ignore[assignment]
        TransactionalEmitter(config, f"{stage['group']}-0", transaction_timeout_ms=1000, timeout_s=5), 13
    )
    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], events(0, 400))

    with running(worker):
        records = out.read_until(400, 40)

    assert EXACT == check_counting(records, 400)


def limit(stage: Mapping[str, str], size: int) -> None:
    """Sets the largest message that the output topic takes."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, stage["output"], incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": stage["bootstrap"]})
    admin.incremental_alter_configs([resource])[resource].result()


def test_at_least_once_keeps_no_state_of_results_that_were_not_written(stage: dict[str, str]) -> None:
    """Where results cannot be written, the changelog must not know of their events either."""
    out = Follower(stage["bootstrap"], stage["output"])
    limit(stage, 10)
    send(stage["bootstrap"], stage["topic"], events(0, 400))

    with running(make_worker(**stage, slot="0", delivery="at-least-once")):
        time.sleep(4)
        limit(stage, 1_000_000)
        records = out.read_until(400, 30)

    assert EXACT == check_counting(records, 400)


def test_a_queue_that_is_full_by_bytes_is_waited_for(kafka: str, topic_name: Names) -> None:
    """Large messages fill the producer's queue before it holds many: that is back-pressure, no failure."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    emitter = TransactionalEmitter({"bootstrap.servers": kafka, "queue.buffering.max.kbytes": 2_000}, topic)
    emitter.send([Message(topic, b"k", bytes(500_000), 0) for _ in range(20)])
    emitter.commit({}, Consumer({"bootstrap.servers": kafka, "group.id": topic}).consumer_group_metadata())
    emitter.close()

    assert 20 == len(Follower(kafka, topic).read_until(20, 20))


def test_markers_that_kafka_deletes_are_no_loss(stage: dict[str, str]) -> None:
    """Behind the last event of a transactional producer lies a marker: where retention takes both, a worker goes on."""
    config = {"bootstrap.servers": stage["bootstrap"]}
    producer = Producer({**config, "transactional.id": stage["topic"], "partitioner": "murmur2_random"})
    producer.init_transactions(10)
    out = Follower(stage["bootstrap"], stage["output"])
    admin = AdminClient(config)
    for first in (0, 400):
        producer.begin_transaction()
        for key, value in events(first, first + 400):
            producer.produce(stage["topic"], value, key)
        producer.commit_transaction(10)
        with running(make_worker(**stage, slot="0")):
            records = out.read_until(first + 400, 30)
        for done in admin.delete_records([TopicPartition(stage["topic"], p, -1) for p in range(4)]).values():
            done.result()

    assert EXACT == check_counting(records, 800)


def test_events_that_wait_at_a_rebalance_are_not_passed_over(stage: dict[str, str]) -> None:
    """What was read to the end of a partition, but waits for its micro-batch, is not covered by the last commit."""
    out = Follower(stage["bootstrap"], stage["output"])
    patient = {"static": False, "max_wait_ms": 1500.0, "commit_interval_ms": 20_000.0}

    first = make_worker(**stage, slot="0", **patient)
    with running(first):
        while not first.ready:
            time.sleep(0.05)
        send(stage["bootstrap"], stage["topic"], events(0, 200))
        while not first._transaction:
            time.sleep(0.05)
        send(stage["bootstrap"], stage["topic"], events(200, 400))
        time.sleep(0.3)
        waiting = len(first._batcher)
        with running(make_worker(**stage, slot="1", static=False)):
            time.sleep(5)
    with running(make_worker(**stage, slot="2", static=False)):
        records = out.read_until(400, 30)

    assert 200 == waiting
    assert EXACT == check_counting(records, 400)


def test_domains_in_one_group_share_no_changelog() -> None:
    """A group that is named without its domain takes several; the state of one must not become another's."""
    one_group = Settings(worker=WorkerSettings(group="ours"))

    assert "ours-fraud-changelog" == changelog_of(one_group, "fraud")
    assert "headrace-fraud-changelog" == changelog_of(Settings(), "fraud")
