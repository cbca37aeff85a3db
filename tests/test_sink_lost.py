"""What Kafka no longer holds, and tables that were dropped: the sink stops, or goes on, as it should."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from stores import ADMIN, Input, StoreProcess, counts, value, wait_until

from streams.store.status import caught_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def source(kafka: str, topic_name: Callable[..., str]) -> Input:
    """A topic of three partitions."""
    return Input(kafka, topic_name("readings"))


def test_what_kafka_deleted_before_it_was_stored_stops_the_sink(tmp_path: Path, kafka: str, source: Input) -> None:
    """The sink names the lost range and the setting; with that setting it goes on behind the hole."""
    source.commit(range(10), partition=0)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, {(source.topic, 0): 11}))
        store.stop()
    source.commit(range(10, 30), partition=0)
    admin = AdminClient({"bootstrap.servers": kafka})
    next(iter(admin.delete_records([TopicPartition(source.topic, 0, 20)]).values())).result(30)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        code = store.process.wait(60)
        said = store.log.read_text()
    with StoreProcess(tmp_path, kafka, source.topic, store={"on_lost_offsets": "earliest"}) as store:
        wait_until(lambda: caught_up(store.url, {(source.topic, 0): 32}))

        assert 1 == code
        assert "Offsets 11 to 19" in said
        assert "store.on_lost_offsets" in said
        assert [21, 21, 21] == counts(store)


def test_a_topic_that_was_made_anew_stops_the_sink(tmp_path: Path, kafka: str, source: Input) -> None:
    """Rows beyond the end of the topic mean another topic of the same name, whose first messages would be lost."""
    source.commit(range(50), partition=0)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, {(source.topic, 0): 51}))
        store.stop()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([source.topic])[source.topic].result(30)
    time.sleep(1)
    Input(kafka, source.topic).commit(range(5), partition=0)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        assert 1 == store.process.wait(60)
        assert "was made anew" in " ".join(store.log.read_text().split())


def forget_all(kafka: str, topic: str) -> None:
    """Deletes everything of a topic, as retention does where nothing comes for long."""
    admin = AdminClient({"bootstrap.servers": kafka})
    everything = [TopicPartition(topic, partition, -1) for partition in range(3)]
    for done in admin.delete_records(everything).values():
        done.result()


def test_markers_that_kafka_deletes_are_no_loss(tmp_path: Path, kafka: str, source: Input) -> None:
    """Behind the last row lie markers and aborted messages only: where retention takes them, the store goes on."""
    source.commit(range(90))
    source.abort(range(1000, 1030))
    ends = {(source.topic, partition): 42 for partition in range(3)}
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, ends))
        assert 0 == store.stop()
    forget_all(kafka, source.topic)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        source.commit(range(90, 120))
        wait_until(lambda: counts(store)[0] == 120, what="the rows behind the markers")

        assert [120, 120, 120] == counts(store)
    source.commit(range(120, 150))
    forget_all(kafka, source.topic)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        assert 1 == store.process.wait(60)

    assert "deleted from Kafka before they were stored" in store.log.read_text()


def test_a_dropped_table_is_made_anew_from_what_kafka_holds(tmp_path: Path, kafka: str, source: Input) -> None:
    """What the store was told of ends and batches does not outlive the rows that it is about."""
    source.commit(range(90))
    ends = {(source.topic, partition): 31 for partition in range(3)}
    with StoreProcess(tmp_path, kafka, source.topic, store=ADMIN) as store:
        wait_until(lambda: caught_up(store.url, ends))
        assert 0 == store.stop()
    with StoreProcess(tmp_path, kafka, source.topic, store=ADMIN) as store:
        wait_until(lambda: caught_up(store.url, ends))
        store.ask("DROP TABLE readings SYNC")
        store.kill()
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: counts(store)[0] == 90, what="the rows once more")


def test_a_dropped_table_is_filled_from_before_its_rejects(tmp_path: Path, kafka: str, source: Input) -> None:
    """Rejects that are older than the table say nothing of where it goes on, however often the store is killed."""
    source.commit_raw([*map(value, range(60)), b"{", *map(value, range(60, 90)), b"{"], partition=0)
    ends = {(source.topic, 0): 93}
    with StoreProcess(tmp_path, kafka, source.topic, store=ADMIN) as store:
        wait_until(lambda: caught_up(store.url, ends))
        assert [90, 90, 90] == counts(store)
        store.ask("DROP TABLE readings SYNC")
        store.kill()
    for _ in range(2):
        with StoreProcess(tmp_path, kafka, source.topic) as store:
            wait_until(lambda: caught_up(store.url, ends))
            found = counts(store), store.ask("SELECT DISTINCT _offset FROM sink_rejects ORDER BY _offset")
            store.kill()

            assert ([90, 90, 90], [["60"], ["91"]]) == (found[0], [[str(row[0])] for row in found[1]])
