"""Materialised views on the sink's tables: a kill between rows and view leaves neither without the other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import send
from stores import TOKEN, Input, StoreProcess, value, wait_until

VIEW = (
    "CREATE MATERIALIZED VIEW {name} ENGINE = SummingMergeTree ORDER BY partition"
    " SETTINGS non_replicated_deduplication_window = 1000"
    " AS SELECT _partition AS partition, count() AS number, sum(_offset) AS offsets FROM readings GROUP BY partition"
)


@pytest.fixture
def source(kafka: str, topic_name: Callable[..., str]) -> Input:
    """A topic of the test's own."""
    return Input(kafka, topic_name("readings"))


def start(data: Path, kafka: str, topic: str, flush_ms: float) -> StoreProcess:
    return StoreProcess(data, kafka, topic, store={"admin_token": TOKEN, "flush_interval_ms": flush_ms})


def seen_by(store: StoreProcess, view: str) -> list[list[int]]:
    found = store.ask(f"SELECT partition, sum(number), sum(offsets) FROM {view} GROUP BY partition ORDER BY partition")
    return [[int(cell) for cell in row] for row in found]


def in_rows(store: StoreProcess) -> list[list[int]]:
    found = store.ask("SELECT _partition, count(), sum(_offset) FROM readings GROUP BY _partition ORDER BY _partition")
    return [[int(cell) for cell in row] for row in found]


def count(store: StoreProcess) -> int:
    return sum(number for _partition, number, _offsets in in_rows(store))


def test_what_a_view_lacks_of_the_last_batch_is_made_good(tmp_path: Path, kafka: str, source: Input) -> None:
    """The batch before a kill goes through once more: a view that lacks it gets it, and nobody has it twice.

    A view made after the rows is in the state in which a kill leaves one: the rows are there, it knows nothing of them.
    """
    with start(tmp_path, kafka, source.topic, flush_ms=500) as store:
        store.ask(VIEW.format(name="had_it"))
        # Without markers behind the last row, whose end would be told after a rest: then the batch before is done with.
        send(kafka, source.topic, [(None, value(number)) for number in range(30)])
        wait_until(lambda: count(store) == 30, what="the rows")
        store.ask(VIEW.format(name="lacks_it"))
        store.kill()
    with start(tmp_path, kafka, source.topic, flush_ms=500) as store:
        wait_until(lambda: sum(row[1] for row in seen_by(store, "lacks_it")) == 30, what="the view")
        send(kafka, source.topic, [(None, value(number)) for number in range(30, 60)])
        wait_until(lambda: count(store) == 60, what="the rows that came later")

        assert in_rows(store) == seen_by(store, "had_it") == seen_by(store, "lacks_it")
        assert 0 == store.stop()


@pytest.mark.timeout(200)
def test_kills_while_rows_come_leave_views_as_the_rows_say(tmp_path: Path, kafka: str, source: Input) -> None:
    """Killed again and again in the middle of small inserts: rows and view agree, partition by partition."""
    chance = random.Random(3)
    sent = 0
    with start(tmp_path, kafka, source.topic, flush_ms=20) as store:
        wait_until(lambda: count(store) == 0, what="the table")
        store.ask(VIEW.format(name="agrees"))
        store.kill()
    for _ in range(4):
        with start(tmp_path, kafka, source.topic, flush_ms=20) as store:
            before = count(store)
            until = time.monotonic() + chance.uniform(0.3, 0.8)
            while time.monotonic() < until or count(store) == before:
                source.commit(range(sent, sent + 60))
                sent += 60
            store.kill()
    with start(tmp_path, kafka, source.topic, flush_ms=20) as store:
        wait_until(lambda: count(store) == sent, what="all rows")
        wait_until(lambda: store.status()["ready"], what="an idle store")
        time.sleep(0.5)

        assert in_rows(store) == seen_by(store, "agrees")
