"""Avro in, Protobuf out, the whole way: registry, worker process, topics and ClickHouse."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from harness import Follower, processes, send
from registry_double import RegistryDouble

from processors.fraud.demo import simulate
from schemas.codec import codec_for
from schemas.fraud import FraudScore, Transaction
from streams.local import endpoints
from streams.local.broker import Broker
from streams.local.supervisor import headrace_command
from streams.running import ensure_domain_topics
from streams.settings import RegistrySettings, Settings, TopicSettings
from streams.store.asking import ask_over_http


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, since the topics have fixed names."""
    with Broker.start(tmp_path) as started:
        yield started


@pytest.mark.slow
def test_avro_in_protobuf_out(broker: Broker, tmp_path: Path) -> None:
    """A topic's format is a setting: the worker reads Avro and writes Protobuf, and the store reads that.

    The registry is a double that speaks the real one's HTTP interface, since no real one can be had here.
    """
    kafka = broker.bootstrap
    registry = RegistryDouble()
    address = RegistrySettings(url=registry.url)
    avro = codec_for("transactions", Transaction, TopicSettings("avro"), address)
    protobuf = codec_for("fraud-scores", FraudScore, TopicSettings("protobuf"), address)
    (events,) = simulate(300, seed=9)
    transactions = [msgspec.json.decode(value, type=Transaction) for value in events.values]
    ensure_domain_topics(Settings(data=tmp_path), "fraud", {"bootstrap.servers": kafka})
    out = Follower(kafka, "fraud-scores")
    options = [f"--set=data={tmp_path}", f"--set=kafka.bootstrap={kafka}", f"--set=registry.url={registry.url}"]
    formats = ["--set=topics.transactions.format=avro", "--set=topics.fraud-scores.format=protobuf"]

    with processes() as started, (tmp_path / "log").open("wb") as log:
        for command in (["worker", "fraud"], ["store"]):
            started.append(subprocess.Popen(headrace_command(*options, *formats, *command), stdout=log, stderr=log))
        send(kafka, "transactions", list(zip(events.keys, avro.encode(transactions), strict=True)))
        scores = {score.event_id: score for score in map(protobuf.decode, (r.value for r in out.read_until(300, 60)))}
        stored = await_rows(endpoints.wait_for(tmp_path, "clickhouse", 60), 300)
    registry.close()

    assert {transaction.event_id for transaction in transactions} == set(scores)
    assert [transaction.amount for transaction in transactions] == [scores[i].amount for i in events.ids if i]
    assert 300 == stored


def await_rows(url: str, count: int) -> int:
    """Rows of `fraud_scores`, once there are that many, or after a while."""
    deadline = time.monotonic() + 30
    rows = -1
    while rows < count and time.monotonic() < deadline:
        rows = int(ask_over_http(url, "", "headrace", "SELECT count() FROM fraud_scores", "TabSeparated").body)
        time.sleep(0.2)
    return rows
