"""The sink stores every committed message once, over kills, long questions and a full disk."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from stores import Input, StoreProcess, counts, value, wait_until

from streams.chaos.disk import SmallDisk
from streams.store.client import StoreError, StoreRefusedError
from streams.store.status import caught_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def source(kafka: str, topic_name: Callable[..., str]) -> Input:
    """A topic of three partitions."""
    return Input(kafka, topic_name("readings"))


def test_committed_messages_become_rows_and_aborted_ones_do_not(tmp_path: Path, kafka: str, source: Input) -> None:
    """Only committed messages are rows, and the store knows that it is behind the last marker."""
    source.commit(range(300))
    source.abort(range(10_000, 10_300))
    source.commit(range(300, 600))
    source.abort(range(10_300, 10_600))
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        ends = {(source.topic, partition): 404 for partition in range(3)}
        wait_until(lambda: caught_up(store.url, ends), what="the end behind the markers")
        positions = store.status()["partitions"]

        assert [600, 600, 600] == counts(store)
        assert [404, 404, 404] == [position["next_offset"] for position in positions]
        assert [0, 0, 0] == [position["lag"] for position in positions]
        assert not caught_up(store.url, {(source.topic, 0): 405})
        assert caught_up(store.url, {("a topic that is not kept", 0): 99})
        assert 0 == store.stop()


def test_rows_hold_what_the_messages_held(tmp_path: Path, kafka: str, source: Input) -> None:
    """Values, nested ones too, and coordinates arrive unchanged."""
    source.commit([5], partition=2)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, {(source.topic, 2): 1}), what="the row")
        row = store.ask(
            "SELECT number, sensor, value, tags, toUnixTimestamp64Milli(at), _topic, _partition, _offset FROM readings"
        )

        assert [[5, "s5", 5 / 3, ["a", "b"], 1_790_000_000_000, source.topic, 2, 0]] == row


@pytest.mark.timeout(280)
def test_kills_under_load_lose_and_double_nothing(tmp_path: Path, kafka: str, source: Input) -> None:
    """Kill -9 at random moments while messages come, aborted ones between: every committed one is one row."""
    kills, batches, size = 6, 60, 500
    chance = random.Random(4)

    def produce() -> None:
        for batch in range(batches):
            source.commit(range(batch * size, (batch + 1) * size))
            if batch % 5 == 0:
                source.abort(range(10**6, 10**6 + 50))
            time.sleep(0.05)

    producing = threading.Thread(target=produce)
    producing.start()
    flush = {"flush_interval_ms": 20, "flush_rows": 200}
    for _ in range(kills):
        with StoreProcess(tmp_path, kafka, source.topic, store=flush) as store:
            time.sleep(chance.uniform(0.2, 1.5))
            store.kill()
    producing.join()
    with StoreProcess(tmp_path, kafka, source.topic, store=flush) as store:
        wait_until(lambda: counts(store)[0] >= batches * size, what="all rows")

        assert [batches * size] * 3 == counts(store)


def test_a_restarted_store_reads_nothing_twice(tmp_path: Path, kafka: str, source: Input) -> None:
    """A new process goes on behind what the tables hold, not behind what Kafka remembers."""
    source.commit(range(90))
    ends = {(source.topic, partition): 30 for partition in range(3)}
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, ends))
        store.stop()
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, ends))

        assert 0 == store.status()["rows"]
        assert [90, 90, 90] == counts(store)


def test_messages_that_are_no_rows_are_kept_apart(tmp_path: Path, kafka: str, source: Input) -> None:
    """Broken messages go to sink_rejects with their coordinates and reasons; the others are rows."""
    broken: list[bytes | None] = [b"{", b"\xff\xfe", b'{"number": "x"}', None, b'{"number": 1e400}', b"[" * 10_000]
    huge = value(7).replace(b'"number":7', b'"number":123456789012345678901234567890')
    source.commit_raw([*broken, huge, value(1), value(2)], partition=0)
    with StoreProcess(tmp_path, kafka, source.topic) as store:
        wait_until(lambda: caught_up(store.url, {(source.topic, 0): 9}))
        kept = store.ask("SELECT _offset, reason, value_size FROM sink_rejects ORDER BY _offset")

        assert [0, 1, 2, 3, 4, 5, 6] == [int(row[0]) for row in kept]
        assert [1, 2, 15, 0, 17, 10_000, len(huge)] == [int(row[2]) for row in kept]
        assert all(row[1] for row in kept)
        assert [2, 2, 2] == counts(store)
        assert 7 == store.status()["rejects"]


def test_a_second_owner_of_the_engine_is_told_where_to_ask(tmp_path: Path, kafka: str) -> None:
    """The error names the process that owns the directory and the way to ask it."""
    from streams.settings import ClickHouseSettings
    from streams.store.client import open_store

    with StoreProcess(tmp_path, kafka, sinks=False) as store:
        with pytest.raises(StoreRefusedError) as refused:
            open_store(ClickHouseSettings(), tmp_path)

        assert str(store.process.pid) in str(refused.value)
        assert "headrace query" in str(refused.value)


def test_long_questions_do_not_keep_the_sink_waiting(tmp_path: Path, kafka: str, source: Input) -> None:
    """While questions that never end take all their places, messages still become rows."""
    limits = {"max_queries": 2, "max_query_s": 60, "flush_interval_ms": 50}
    endless = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"

    def ask(store: StoreProcess) -> None:
        with suppress(StoreError):
            store.ask(endless)

    with StoreProcess(tmp_path, kafka, source.topic, store=limits) as store:
        wait_until(lambda: bool(store.status()["ready"]))
        asking = [threading.Thread(target=ask, args=(store,)) for _ in range(2)]
        for thread in asking:
            thread.start()
        source.commit(range(3000))
        wait_until(lambda: store.status()["rows"] == 3000, timeout_s=45, what="rows beside questions")

        assert all(thread.is_alive() for thread in asking)
        store.kill()
    for thread in asking:
        thread.join()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk for the store's data alone."""
    try:
        made = SmallDisk(tmp_path / "store")
    except OSError as error:
        pytest.skip(f"user namespaces are refused here: {error}")
    yield made
    made.close()


def test_a_full_disk_is_waited_for(tmp_path: Path, kafka: str, source: Input, disk: SmallDisk) -> None:
    """With no room left the sink keeps its place, says so everywhere, and goes on by itself when there is some."""
    options: dict[str, Any] = {"disk": disk, "store": {"flush_interval_ms": 50}}
    with StoreProcess(tmp_path, kafka, source.topic, **options) as store:
        source.commit(range(300))
        wait_until(lambda: counts(store)[0] == 300, what="the rows before")
        disk.fill(store.process.pid)
        source.commit(range(300, 600))
        wait_until(lambda: "is full" in store.status()["away"], what="the news of the full disk")
        while_full = counts(store), store.status()["ready"], store.get("/health/ready"), store.get("/metrics")
        # A store that is killed meanwhile starts again, and waits too.
        store.kill()
    with StoreProcess(tmp_path, kafka, source.topic, **options) as store:
        wait_until(lambda: "is full" in store.status()["away"], what="the news after a start")
        disk.free(store.process.pid)
        source.commit(range(600, 900))
        wait_until(lambda: counts(store)[0] >= 900, what="the rows behind")

        assert ([300, 300, 300], False, 503) == (while_full[0], while_full[1], while_full[2][0])
        assert "headrace_sink_failures_total 0.0" not in while_full[3][1]
        assert "headrace_sink_failures_total" in while_full[3][1]
        assert [900, 900, 900] == counts(store)
        assert store.status()["ready"]
        assert "is full" in store.log.read_text()
