"""The whole way under kill -9: worker and store die at random moments, and the output is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import Follower, end_offsets, processes

from processors.fraud.chaos import living
from processors.fraud.demo import simulate
from schemas.envelope import Record
from streams._messages import record
from streams.chaos.audit import compacted
from streams.inference import infer_all
from streams.loading import open_domain
from streams.local import endpoints
from streams.local.broker import Broker
from streams.local.supervisor import headrace_command
from streams.running import changelog_of, ensure_domain_topics
from streams.settings import Settings, WorkerSettings
from streams.store.asking import ask_over_http

EVENTS = 12_000
KILLS = 10
SCORES = "fraud-scores"


class Restarting:
    """A headrace process that is started again as soon as it was killed."""

    def __init__(self, started: list[subprocess.Popen[bytes]], data: Path, *command: str) -> None:
        self._started = started
        self._data = data
        self._command = headrace_command("--set", f"data={data}", "--set", "worker.session_timeout_ms=4000", *command)
        self.start()

    def start(self) -> None:
        with (self._data / f"{'-'.join(self._command[-2:])}.log").open("ab") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=env)
        self._started.append(self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()


def read_all(bootstrap: str, topic: str) -> list[Record]:
    """Every committed message of a topic, aborted ones left out, in the order of each partition."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "all", "enable.partition.eof": True})
    ends = end_offsets(bootstrap, topic)
    reader.assign([TopicPartition(topic, p, 0) for p in ends])
    found, open_partitions = [], set(ends)
    while open_partitions:
        for message in reader.consume(10_000, 1.0):
            if message.error() is None:
                found.append(record(message))
            else:
                open_partitions.discard(message.partition())
    reader.close()
    return found


def answers(values: Sequence[bytes | None]) -> dict[str, dict[str, Any]]:
    """Scores by event id, without what differs between two runs: the times of scoring."""
    scores = [json.loads(value or b"") for value in values]
    for score in scores:
        del score["scored_at"], score["latency_ms"]
    assert len(scores) == len({score["event_id"] for score in scores})
    return {score["event_id"]: score for score in scores}


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A broker and topics of the test's own."""
    with Broker.start(tmp_path) as broker:
        endpoints.publish(tmp_path, "kafka", broker.bootstrap)
        chosen = Settings(data=tmp_path, worker=WorkerSettings(session_timeout_ms=4000))
        ensure_domain_topics(chosen, "fraud", {"bootstrap.servers": broker.bootstrap})
        yield chosen
    endpoints.withdraw(tmp_path)


def undisturbed(
    settings: Settings, records: list[Record]
) -> tuple[dict[str, dict[str, Any]], dict[int, dict[bytes, bytes]]]:
    """What one process answers that is never disturbed, and the state it is left with: without Kafka or batches."""
    opened = open_domain(settings, "fraud")
    by_partition: dict[int, list[Record]] = {}
    for each in records:
        by_partition.setdefault(each.partition, []).append(each)
    values = [
        answer.value  # type: ignore[union-attr]  # nothing is refused here
        for part in by_partition.values()
        for _record, answer in infer_all(opened.processor, opened.session, part, lambda: 0, max_size=257)
    ]
    return answers(values), {p: opened.processor.state.dump(p) for p in by_partition}  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_kill_9_of_worker_and_store_changes_nothing(settings: Settings) -> None:
    """Ten kills of each: scores, features, state and rows in ClickHouse equal those of an undisturbed run."""
    chance = random.Random(11)
    bootstrap = endpoints.read(settings.data)["kafka"]
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5})
    follower = Follower(bootstrap, SCORES)
    with processes() as started:
        worker = Restarting(started, settings.data, "worker", "fraud")
        store = Restarting(started, settings.data, "store")
        kills = sorted(
            [(chance.uniform(0.1, 0.95), victim) for victim in (worker, store) for _ in range(KILLS)],
            key=lambda k: k[0],
        )
        sent = 0
        for events in simulate(EVENTS, seed=5):
            for key, value in zip(events.keys, events.values, strict=True):
                producer.produce("transactions", value, key)
            producer.poll(0)
            sent += len(events.keys)
            pause_until = time.monotonic() + 1.6
            while time.monotonic() < pause_until:
                follower.read(0.1)
                if kills and kills[0][0] < sent / EVENTS:
                    kills.pop(0)[1].kill()
        assert producer.flush(30) == 0
        while kills:
            kills.pop(0)[1].kill()
        scores = follower.read_until(EVENTS, 90)
        url = endpoints.wait_for(settings.data, "clickhouse", 60)
        rows = rows_when_there(url, EVENTS)

    expected, state = undisturbed(settings, read_all(bootstrap, "transactions"))
    assert expected == answers([each.value for each in scores])
    changelog = compacted(read_all(bootstrap, changelog_of(settings, "fraud")))
    assert {p: living(entries) for p, entries in state.items()} == {p: living(e) for p, e in changelog.items()}
    assert sorted((e["event_id"], e["decision"], e["features"]["card_count_30d"]) for e in expected.values()) == rows


def rows_when_there(url: str, count: int) -> list[tuple[Any, ...]]:
    """The rows of ClickHouse, once there are that many or nothing more comes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and ask(url, "SELECT toUInt32(count()) FROM fraud_scores")[0][0] < count:
        time.sleep(0.3)
    found = ask(url, "SELECT event_id, decision, features['card_count_30d'] FROM fraud_scores ORDER BY event_id")
    return [tuple(row) for row in found]


def ask(url: str, sql: str) -> list[list[Any]]:
    answer = ask_over_http(url, "", "headrace", sql, "JSONCompactEachRow")
    return [json.loads(line) for line in answer.body.splitlines()]
