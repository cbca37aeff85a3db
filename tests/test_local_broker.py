"""The embedded broker is a real one, keeps its data, and dies with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from processes import gone

from streams.local.broker import Broker, BrokerError
from streams.local.locks import LockedError
from streams.local.topics import TopicSpec, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_QUIET = {"log_level": 0}


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for the tests that need its folder or process, not its life."""
    with Broker.start(tmp_path_factory.mktemp("own")) as broker:
        yield broker


def _read(bootstrap: str, topic: str, count: int, isolation: str = "read_committed") -> list[bytes | None]:
    consumer = Consumer({**_QUIET, "bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": isolation})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes | None] = []
    deadline = time.monotonic() + 20
    try:
        while len(values) < count and time.monotonic() < deadline:
            values += [message.value() for message in consumer.consume(count, 0.2) if message.error() is None]
    finally:
        consumer.close()
    return values


def _write(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = Producer({**_QUIET, "bootstrap.servers": bootstrap})
    for value in values:
        producer.produce(topic, value)

    assert producer.flush(20) == 0


def test_committed_transactions_alone_are_read(kafka: str, topic_name: Callable[..., str]) -> None:
    """A reader of committed events sees the committed transaction and nothing of the aborted one."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    producer = Producer({**_QUIET, "bootstrap.servers": kafka, "transactional.id": topic_name("tx")})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"aborted")
    producer.flush(20)
    producer.abort_transaction(20)
    producer.begin_transaction()
    producer.produce(topic, b"committed")
    producer.commit_transaction(20)

    assert _read(kafka, topic, 1) == [b"committed"]
    assert _read(kafka, topic, 2, "read_uncommitted") == [b"aborted", b"committed"]


def test_offsets_of_a_transaction_are_committed_with_it(kafka: str, topic_name: Callable[..., str]) -> None:
    """Offsets sent in a transaction are the group's once it commits, and not before."""
    topic, group = topic_name(), topic_name("group")
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    _write(kafka, topic, b"a", b"b")
    consumer = Consumer({**_QUIET, "bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
    producer = Producer({**_QUIET, "bootstrap.servers": kafka, "transactional.id": topic_name("tx")})
    producer.init_transactions(20)
    seen = []
    for end in (producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.produce(topic, b"result")
        offsets = [TopicPartition(topic, 0, 2)]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 20)
        end(20)
        seen.append(consumer.committed([TopicPartition(topic, 0)], timeout=20)[0].offset)
    consumer.close()

    assert [-1001, 2] == seen


def test_a_zombie_is_fenced(kafka: str, topic_name: Callable[..., str]) -> None:
    """A producer whose transactional id was taken over cannot commit any more."""
    topic, transactional_id = topic_name(), topic_name("tx")
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    config = {**_QUIET, "bootstrap.servers": kafka, "transactional.id": transactional_id}
    zombie, heir = Producer(config), Producer(config)
    zombie.init_transactions(20)
    zombie.begin_transaction()
    zombie.produce(topic, b"of the zombie")
    heir.init_transactions(20)

    with pytest.raises(KafkaException) as caught:
        zombie.commit_transaction(20)

    assert caught.value.args[0].code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


def test_topics_are_not_made_by_accident(kafka: str, topic_name: Callable[..., str]) -> None:
    """Writing to a topic that nobody made fails instead of making one with defaults."""
    errors: list[int] = []
    producer = Producer({**_QUIET, "bootstrap.servers": kafka, "message.timeout.ms": 2000})
    producer.produce(topic_name("typo"), b"x", on_delivery=lambda error, _: errors.append(error.code()))
    producer.flush(20)

    assert errors[0] in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._MSG_TIMED_OUT)


def test_a_stopped_broker_is_gone_and_leaves_its_data(tmp_path: Path) -> None:
    """Stopped in order and started again: same port, same topic, same events, and a clean end of the first."""
    with Broker.start(tmp_path) as first:
        ensure_topics({"bootstrap.servers": first.bootstrap}, {"kept": TopicSpec(1)})
        _write(first.bootstrap, "kept", b"one", b"two")
        alive_before = first.alive()
    with Broker.start(tmp_path) as second:
        values = _read(second.bootstrap, "kept", 2)

    assert alive_before
    assert not first.alive()
    assert gone(first.pid)
    assert first.bootstrap == second.bootstrap
    assert [b"one", b"two"] == values


def test_a_killed_broker_comes_back_with_what_it_had_acknowledged(tmp_path: Path) -> None:
    """After kill -9 a start on the same data serves every acknowledged event, on the same port, within seconds."""
    with Broker.start(tmp_path) as first:
        ensure_topics({"bootstrap.servers": first.bootstrap}, {"kept": TopicSpec(1)})
        _write(first.bootstrap, "kept", *(b"%d" % number for number in range(1000)))
        os.kill(first.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while first.alive() and time.monotonic() < deadline:
            time.sleep(0.01)

        assert not first.alive()
    with Broker.start(tmp_path) as second:
        values = _read(second.bootstrap, "kept", 1000)

    assert first.port == second.port
    assert [b"%d" % number for number in range(1000)] == values


def test_a_taken_port_is_left_for_another(tmp_path: Path) -> None:
    """Where the remembered port is taken the broker takes another; where the asked one is, it says so."""
    with Broker.start(tmp_path) as first:
        port = first.port
    with socket.create_server(("127.0.0.1", port)):
        with Broker.start(tmp_path) as second:
            other = second.port
        with pytest.raises(BrokerError, match=f"port {port} of 127.0.0.1 is taken"):
            Broker.start(tmp_path, port)

    assert port != other


def test_two_brokers_never_share_data(own_broker: Broker) -> None:
    """A second start on the same data is refused and names the process that has it."""
    with pytest.raises(LockedError, match=f"process {own_broker.pid} already runs a broker on"):
        Broker.start(own_broker.folder.parent)

    assert own_broker.alive()


def test_it_listens_on_loopback_only(own_broker: Broker) -> None:
    """No listener of the broker can be reached from another machine."""
    listeners = [
        connection.laddr.ip
        for connection in psutil.Process(own_broker.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert listeners
    assert {"127.0.0.1", "::ffff:127.0.0.1"} >= set(listeners)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own death signal is Linux's")
def test_a_killed_parent_leaves_no_broker(tmp_path: Path) -> None:
    """Kill -9 of the process that started a broker ends the broker, and its data can be used at once."""
    code = (
        "import sys, time, threading\n"
        "from streams.local.broker import Broker\n"
        "made = []\n"
        "thread = threading.Thread(target=lambda: made.append(Broker.start(sys.argv[1])))\n"
        "thread.start(); thread.join()\n"  # the thread that asked ends: the broker must not end with it
        "print(made[0].pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        outlives_the_thread = not gone(pid, 0.3)
    finally:
        parent.kill()
        parent.communicate()

    assert outlives_the_thread
    assert gone(pid)
    with Broker.start(tmp_path) as heir:
        assert heir.alive()


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    """A broker that cannot start says why, in its own log's words, and gives the data directory back."""
    with pytest.raises(BrokerError, match=r"(?s)laid out\. The end of .*broker\.log:.*Invalid maximum heap size"):
        Broker.start(tmp_path, heap="lots")
    with Broker.start(tmp_path) as broker:
        identity = broker.folder / "data" / "meta.properties"
    identity.write_text(identity.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(BrokerError, match=r"(?s)exit code 1 at its start\. The end of .*broker\.log:.*node id.* 7"):
        Broker.start(tmp_path)
