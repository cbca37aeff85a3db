"""Changelogs read back: to the true end, past markers, aborted tails and holes, and in the middle of anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from harness import send

from streams.local.topics import TopicSpec, ensure_topics
from streams.state import ChangelogReader, TableFollower

Names = Callable[..., str]


@pytest.fixture
def changelog(kafka: str, topic_name: Names) -> str:
    name = topic_name("changelog")
    ensure_topics({"bootstrap.servers": kafka}, {name: TopicSpec.compacted(2)})
    _await_leaders(kafka, name)
    return name


def _await_leaders(kafka: str, topic: str) -> None:
    """A broker may say for a moment that it does not lead a partition which it has just made; a worker tries again."""
    asking = Consumer({"bootstrap.servers": kafka, "group.id": topic})
    deadline = time.monotonic() + 10
    for partition in (0, 1):
        while True:
            try:
                asking.get_watermark_offsets(TopicPartition(topic, partition), timeout=5)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                break
    asking.close()


@pytest.fixture
def reader(kafka: str, changelog: str) -> Iterator[ChangelogReader]:
    opened = ChangelogReader({"bootstrap.servers": kafka}, changelog)
    yield opened
    opened.close()


def transactional(kafka: str, name: str) -> Any:
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": name, "transaction.timeout.ms": 60_000})
    producer.init_transactions(10)
    return producer


def restore(reader: ChangelogReader, *partitions: int, timeout_s: float = 10) -> dict[int, dict[bytes, bytes]]:
    reader.begin(partitions)
    done: dict[int, dict[bytes, bytes]] = {}
    deadline = time.monotonic() + timeout_s
    while len(done) < len(partitions) and time.monotonic() < deadline:
        done |= reader.step(0.2)
    return done


def test_an_empty_partition_is_restored_at_once(reader: ChangelogReader) -> None:
    """Nothing to read is complete, not something to wait for."""
    assert {0: {}, 1: {}} == restore(reader, 0, 1)


def test_markers_and_an_aborted_tail_do_not_hold_it_up(kafka: str, changelog: str, reader: ChangelogReader) -> None:
    """Behind the last entry there are a commit marker, an aborted transaction and its marker: that is the end too."""
    producer = transactional(kafka, f"{changelog}-tx")
    for key, value in [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]:
        producer.begin_transaction()
        producer.produce(changelog, value, key, partition=0)
        producer.commit_transaction(10)
    producer.begin_transaction()
    producer.produce(changelog, b"never", b"c", partition=0)
    producer.flush(10)
    producer.abort_transaction(10)

    assert {0: {b"a": b"3", b"b": b"2"}} == restore(reader, 0)


def test_tombstones_remove_entries(kafka: str, changelog: str, reader: ChangelogReader) -> None:
    """An entry whose last word is a tombstone is not there; one that came back is."""
    producer = Producer({"bootstrap.servers": kafka})
    changes = [(b"a", b"1"), (b"b", b"1"), (b"a", None), (b"b", None), (b"b", b"2"), (b"c", None)]
    for key, value in changes:
        producer.produce(changelog, value, key, partition=1)
    producer.flush(10)

    assert {0: {}, 1: {b"b": b"2"}} == restore(reader, 0, 1)


def test_it_waits_for_a_transaction_that_is_not_finished(kafka: str, changelog: str, reader: ChangelogReader) -> None:
    """Entries whose marker is still to come belong to the state: restoring waits for the marker."""
    producer = transactional(kafka, f"{changelog}-tx")
    producer.begin_transaction()
    producer.produce(changelog, b"1", b"a", partition=0)
    producer.flush(10)
    reader.begin([0])
    early = [reader.step(0.1) for _ in range(10)]
    producer.commit_transaction(10)

    assert [{}] * 10 == early
    deadline = time.monotonic() + 10
    done: dict[int, dict[bytes, bytes]] = {}
    while not done and time.monotonic() < deadline:
        done = reader.step(0.2)
    assert {0: {b"a": b"1"}} == done


def test_a_partition_can_go_away_in_the_middle(kafka: str, changelog: str, reader: ChangelogReader) -> None:
    """Cancelling one partition neither hurts the others nor leaves anything of itself for the next time."""
    producer = Producer({"bootstrap.servers": kafka})
    for n in range(30_000):
        producer.produce(changelog, b"%d" % n, b"key-%d" % n, partition=n % 2)
        if n % 5000 == 0:
            producer.flush(10)
    producer.flush(10)
    reader.begin([0, 1])
    reader.step(0.05)
    reader.cancel([0])

    done = {}
    while not done:
        done = reader.step(0.2)

    assert [1] == list(done)
    assert 15_000 == len(done[1])
    assert 15_000 == len(restore(reader, 0)[0])


class Recorder:
    """A global table that keeps what it is told."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.entries: dict[bytes, bytes | None] = {}

    def update(self, key: bytes, value: bytes | None) -> None:
        self.entries[key] = value


def test_a_table_is_complete_at_its_end_and_then_followed(kafka: str, changelog: str) -> None:
    """A table is read whole first, whatever its partitions hold, and later changes come by themselves."""
    send(kafka, changelog, [(b"k%d" % n, b"v") for n in range(500)])
    table = Recorder(changelog)
    follower = TableFollower({"bootstrap.servers": kafka}, [table])

    assert not follower.complete
    follower.catch_up(10)
    assert follower.complete
    assert 500 == len(table.entries)

    send(kafka, changelog, [(b"k1", None), (b"new", b"v")])
    deadline = time.monotonic() + 10
    while b"new" not in table.entries and time.monotonic() < deadline:
        follower.follow(0.1)
    follower.close()

    assert table.entries[b"k1"] is None
    assert b"v" == table.entries[b"new"]


def test_partitions_added_to_a_table_are_followed_too(
    kafka: str, changelog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on a partition that was made after the start is read from its beginning, and the table stays whole."""
    monkeypatch.setattr("streams.state._DISCOVERY_S", 0.2)
    send(kafka, changelog, [(b"k%d" % n, b"v") for n in range(50)])
    table = Recorder(changelog)
    follower = TableFollower({"bootstrap.servers": kafka}, [table])
    follower.catch_up(10)
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_partitions([NewPartitions(changelog, 4)])[changelog].result(10)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(changelog, b"v", b"late", partition=3)
    assert 0 == producer.flush(10)
    deadline = time.monotonic() + 20
    while b"late" not in table.entries and time.monotonic() < deadline:
        follower.follow(0.1)
    complete = follower.complete
    follower.close()

    assert b"v" == table.entries[b"late"]
    assert complete
    assert 51 == len(table.entries)


def test_a_table_goes_on_behind_what_cannot_be_unpacked(kafka: str, changelog: str) -> None:
    """A batch that unpacks to more than the client takes costs the table its entries, and no others."""
    zeros = bytes(800_000)
    settings = {"compression.type": "zstd", "linger.ms": 500, "batch.size": 4_000_000, "message.max.bytes": 4_000_000}
    for batch in ([(b"before", b"v")], [(b"bomb-1", zeros), (b"bomb-2", zeros)], [(b"behind", b"v")]):
        producer = Producer({"bootstrap.servers": kafka, **settings})
        for key, value in batch:
            producer.produce(changelog, value, key, partition=0)
        assert 0 == producer.flush(10)
    table = Recorder(changelog)
    small = {"fetch.max.bytes": 1_000_000, "message.max.bytes": 1_000_000, "receive.message.max.bytes": 1_100_000}
    follower = TableFollower({"bootstrap.servers": kafka, **small}, [table])
    follower.catch_up(5)
    follower.close()

    assert {b"before": b"v", b"behind": b"v"} == table.entries
