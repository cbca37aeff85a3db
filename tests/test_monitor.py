"""The monitor as a process against a real broker: what it tells equals the ledger, whatever happens to it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from processors.fraud.merchant_risk import HOUR_MS, MerchantRiskLedger
from schemas.dead_letter import from_record
from schemas.envelope import Record
from schemas.fraud import MerchantRisk, MerchantTally, TransactionLabel
from streams._messages import record
from streams.local import endpoints
from streams.local.broker import Broker
from streams.monitor._merchants import DEAD_LETTERS, INPUTS, LABELS, RISK, TALLIES
from streams.monitor.merchant_risk import CHANGELOG, GROUP
from streams.monitor.run import ensure
from streams.settings import Settings

# An hour of 2025: neither now nor ahead of it.
FIRST_HOUR = 485_000
# A killed member stays in the group for its session time-out (10 s), and the machine may be busy.
PATIENCE_S = 60.0

pytestmark = pytest.mark.timeout(180)


class World:
    """A broker, what was sent to it, and a ledger that was told the same, once."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.expected = MerchantRiskLedger()
        self._offsets = [0, 0]
        self._random = random.Random(11)
        self._events = 0
        config = {"bootstrap.servers": broker.bootstrap, "compression.type": "lz4", "linger.ms": 1}
        self._worker = Producer({**config, "transactional.id": "worker"})
        self._worker.init_transactions(30)
        self._anybody = Producer({**config, "partitioner": "random"})
        ensure({"bootstrap.servers": broker.bootstrap}, Settings())
        # So that every later day has merchants with figures.
        self.send_tallies(4, day=0)

    def send_tallies(self, count: int, day: int, *, abort: bool = False, again: bool = False) -> None:
        """Tallies of two sources, each with a transaction of its own; some day after the first."""
        for _ in range(count):
            source = self._random.randrange(2)
            tally = self._tally(source, day)
            self._worker.begin_transaction()
            self._worker.produce(TALLIES, msgspec.json.encode(tally), key=f"transactions/{source}")
            if abort:
                self._worker.flush(10)
                self._worker.abort_transaction(30)
                continue
            if again:
                self._worker.produce(TALLIES, msgspec.json.encode(tally), key=f"transactions/{source}")
            self._worker.commit_transaction(30)
            self.expected.add_tally(tally)
            self._offsets[source] = tally.last_offset + 1

    def send_labels(self, count: int, day: int, *, reversed_share: float = 0.2) -> int:
        """Labels from anybody, in any partition: some are sent twice, some take back what they said; how many."""
        sent = 0
        for _ in range(count):
            self._events += 1
            at = (FIRST_HOUR + 24 * day + self._random.randrange(24)) * HOUR_MS
            fraud = TransactionLabel(f"event-{self._events}", self._merchant(), True, at, at + 1000)
            labels = [fraud, fraud] if self._random.random() < 0.2 else [fraud]
            if self._random.random() < reversed_share:
                labels.append(msgspec.structs.replace(fraud, is_fraud=False, labelled_at=at + 2000))
            self._random.shuffle(labels)
            sent += len(labels)
            for label in labels:
                self._anybody.produce(LABELS, msgspec.json.encode(label), key=label.merchant)
                self.expected.add_label(
                    label.event_id, label.merchant, label.is_fraud, int(label.event_time), int(label.labelled_at)
                )
        self._anybody.flush(10)
        return sent

    def send_raw(self, topic: str, value: bytes) -> None:
        """Bytes as they are."""
        self._anybody.produce(topic, value, key=b"anybody")
        self._anybody.flush(10)

    def run_monitor(self, name: str = "monitor", *options: str) -> Monitor:
        """A monitor process with its own data directory."""
        return Monitor(self.broker.bootstrap, self.folder / name, options)

    def read_all(self, topic: str) -> list[Record]:
        """Everything on a topic."""
        reader = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "reader"})
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        starts = [TopicPartition(topic, p, 0) for p in partitions]
        ends = {p.partition: reader.get_watermark_offsets(p, timeout=10)[1] for p in starts}
        reader.assign(starts)
        records: list[Record] = []
        while any(
            reader_at.offset < ends[reader_at.partition]
            for reader_at in reader.position(starts)
            if ends[reader_at.partition]
        ):
            records += [record(m) for m in reader.consume(10_000, 0.2) if m.error() is None]
        reader.close()
        return records

    def told(self) -> dict[str, MerchantRisk]:
        """The newest figures of each merchant on the topic."""
        figures: dict[str, MerchantRisk] = {}
        for told in self.read_all(RISK):
            merchant = (told.key or b"").decode()
            if told.value is None:
                figures.pop(merchant, None)
            else:
                figures[merchant] = msgspec.json.decode(told.value, type=MerchantRisk)
        return figures

    def await_figures(self) -> None:
        """Waits until the topic says what the ledger says, and fails with the difference where it does not."""
        expected = {risk.merchant: whole(risk) for risk in self.expected.risk()}
        assert expected
        deadline = time.monotonic() + PATIENCE_S
        while (told := self.told()) is not None:
            actual = {merchant: whole(risk) for merchant, risk in told.items()}
            if expected == actual or time.monotonic() > deadline:
                break
            time.sleep(0.3)

        assert expected == actual
        for risk in self.expected.risk():
            assert rates(risk) == pytest.approx(rates(told[risk.merchant]), rel=0.011)

    def committed(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Per input partition the offset that the group committed, and the end."""
        reader = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": GROUP})
        partitions = [
            TopicPartition(t, p) for t in INPUTS for p in reader.list_topics(t, timeout=10).topics[t].partitions
        ]
        found = {
            (tp.topic, tp.partition): (tp.offset, reader.get_watermark_offsets(tp, timeout=10)[1])
            for tp in reader.committed(partitions, timeout=10)
        }
        reader.close()
        return found

    def _tally(self, source: int, day: int) -> MerchantTally:
        size = self._random.randrange(1, 40)
        pairs = {(self._merchant(), FIRST_HOUR + 24 * day + self._random.randrange(24)) for _ in range(size)}
        first = self._offsets[source]
        counts = [self._random.randrange(1, 5) for _ in pairs]
        return MerchantTally(
            topic="transactions",
            partition=source,
            first_offset=first,
            last_offset=first + sum(counts) - 1,
            merchants=[merchant for merchant, _ in pairs],
            hours=[hour for _, hour in pairs],
            counts=counts,
        )

    def _merchant(self) -> str:
        return f"merchant-{self._random.randrange(60)}"


class Monitor:
    """A process of `headrace monitor`."""

    def __init__(self, bootstrap: str, data: Path, options: tuple[str, ...]) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self.log = data / "log"
        settings = ["monitor.keep_interval_s=0.3", "monitor.emit_interval_s=0.2", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "streams",
                    *(part for s in settings for part in ("--set", s)),
                    "monitor",
                    "fraud",
                ],
                env={**environment, "HEADRACE_KAFKA": bootstrap, "HEADRACE_DATA": str(data)},
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        """Waits until it has its partitions and state."""
        deadline = time.monotonic() + PATIENCE_S
        while self.health("ready") != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def health(self, which: str) -> int:
        """The HTTP status of a health check; 0 where nobody answers."""
        url = endpoints.read(self.data).get("monitor")
        try:
            return urllib.request.urlopen(f"{url}/health/{which}", timeout=5).status if url else 0
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """What it says of itself."""
        with urllib.request.urlopen(f"{endpoints.read(self.data)['monitor']}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def read(self) -> dict[str, float]:
        """How many messages of each topic it has read."""
        return {
            topic: float(count)
            for topic, count in re.findall(
                r'^headrace_monitor_messages_total{topic="(.+)"} (.+)$', self.metrics(), re.M
            )
        }

    def kill(self) -> None:
        """Kills it as a crash would."""
        self.process.kill()
        self.process.wait(10)

    def end(self) -> tuple[int, bytes]:
        """Asks it to end; its exit code and what it wrote to standard output."""
        self.process.send_signal(signal.SIGTERM)
        try:
            output, _ = self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        return self.process.returncode, output


def whole(risk: MerchantRisk) -> tuple[int, ...]:
    """Counts and frauds."""
    return risk.count_1d, risk.count_7d, risk.count_30d, risk.frauds_1d, risk.frauds_7d, risk.frauds_30d


def rates(risk: MerchantRisk) -> tuple[float, ...]:
    """Rates."""
    return risk.rate_1d, risk.rate_7d, risk.rate_30d


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A broker of this file alone: topics have fixed names, and one test stops it."""
    with Broker.start(tmp_path_factory.mktemp("monitor-broker")) as broker:
        yield World(broker, tmp_path_factory.mktemp("monitors"))


@pytest.fixture
def monitor(world: World) -> Iterator[Any]:
    """Makes monitors, and ends what is left of them in order: the group is free at once for the next test."""
    made: list[Monitor] = []

    def start(name: str = "monitor", *options: str) -> Monitor:
        made.append(world.run_monitor(name, *options))
        return made[-1]

    yield start
    for process in made:
        if process.process.poll() is None:
            process.end()


def test_figures_equal_the_ledger_and_what_makes_no_sense_is_a_dead_letter(world, monitor):
    """Labels first, aborted transactions, repetition, reversal, nonsense; then an orderly end with all committed."""
    world.send_labels(30, day=0)
    world.send_tallies(3, day=0, abort=True)
    world.send_tallies(10, day=0, again=True)
    for topic in INPUTS:
        world.send_raw(topic, b'{"topic": 1}')
    running = monitor()
    running.wait_until_ready()
    world.send_tallies(10, day=8)
    world.send_labels(30, day=0)
    world.await_figures()
    code, output = end_when_committed(world, running)

    assert (0, b"") == (code, output)
    letters = [from_record(letter) for letter in world.read_all(DEAD_LETTERS)]
    assert {TALLIES, LABELS} == {letter.topic for letter, _ in letters}
    assert {b'{"topic": 1}'} == {original.value for _, original in letters}


def end_when_committed(world: World, running: Monitor) -> tuple[int, bytes]:
    """Ends the monitor once its group committed all messages; behind the last there may be one transaction mark."""
    deadline = time.monotonic() + PATIENCE_S
    while any(end - max(done, 0) > 1 for done, end in world.committed().values()):
        assert time.monotonic() < deadline, world.committed()
        time.sleep(0.2)
    return running.end()


def test_a_killed_monitor_counts_nothing_twice_and_loses_nothing(world, monitor):
    """Killed in mid-stream, more and repeated messages meanwhile, and a restart from the changelog."""
    running = monitor()
    running.wait_until_ready()
    world.send_tallies(15, day=9)
    world.send_labels(20, day=1)
    time.sleep(0.25)
    running.kill()
    world.send_tallies(10, day=9, again=True)
    restarted = monitor()
    world.send_labels(20, day=1)
    world.await_figures()

    assert 0 == restarted.end()[0]


def test_each_merchant_has_one_place_in_the_changelog(world, monitor):
    """Events of a merchant come from many partitions, its records lie in one, and the newest restores all figures."""
    running = monitor()
    running.wait_until_ready()
    world.send_labels(40, day=2)
    world.send_tallies(10, day=10)
    world.await_figures()
    assert 0 == running.end()[0]
    places: dict[bytes | None, set[int]] = {}
    for kept in world.read_all(CHANGELOG):
        places.setdefault(kept.key, set()).add(kept.partition)

    assert 4 == len({label.partition for label in world.read_all(LABELS)})
    assert {1} == {len(partitions) for partitions in places.values()}


def test_what_was_read_last_is_kept_before_the_end(world, monitor):
    """Asked to end long before anything is due: what was read is told and kept first, and nothing is read again."""
    running = monitor("monitor", "monitor.keep_interval_s=3600", "monitor.emit_interval_s=3600")
    running.wait_until_ready()
    world.send_tallies(10, day=10)
    sent = {TALLIES: 10, LABELS: world.send_labels(30, day=2)}
    deadline = time.monotonic() + PATIENCE_S
    # Its lag would not do: it is looked at once a second, and may be that of before these messages.
    while any(running.read().get(topic, 0) < count for topic, count in sent.items()):
        assert time.monotonic() < deadline, running.metrics()
        time.sleep(0.2)

    assert 0 == running.end()[0]
    world.await_figures()
    assert [] == [place for place, (done, end) in world.committed().items() if end - max(done, 0) > 1]


def test_a_busy_topic_does_not_make_a_quiet_one_look_stalled(world, monitor):
    """Behind the last tally lies a transaction mark that nobody reads; labels go on for longer than the time-out."""
    running = monitor("monitor", "monitor.stall_timeout_s=3")
    running.wait_until_ready()
    world.send_tallies(2, day=11)
    for _ in range(24):
        world.send_labels(2, day=2)
        time.sleep(0.25)

    assert 200 == running.health("live")
    assert running.process.poll() is None


def test_a_broker_that_restarts_is_awaited(world, monitor):
    """The monitor lives through a restart of its broker, or leaves to be started again, and the figures are right."""
    running = monitor("monitor", "monitor.stall_timeout_s=15")
    running.wait_until_ready()
    world.send_tallies(5, day=11)
    port, data = world.broker.port, world.broker.folder.parent
    world.broker.stop()
    world.broker = Broker.start(data, port)
    world.send_tallies(10, day=12)
    world.send_labels(20, day=3)
    deadline = time.monotonic() + PATIENCE_S
    while running.health("ready") != 200 and time.monotonic() < deadline:
        if running.process.poll() is not None:
            running = monitor("monitor")
        time.sleep(0.3)
    world.await_figures()


def test_a_second_monitor_leaves_and_the_first_goes_on(world, monitor):
    """Figures need all partitions in one process: the newcomer says so and ends, and the first one missed nothing."""
    first = monitor("first")
    first.wait_until_ready()
    second = monitor("second")
    deadline = time.monotonic() + PATIENCE_S
    while (code := second.process.poll()) is None and time.monotonic() < deadline:
        world.send_tallies(2, day=13)
        world.send_labels(2, day=4)
        time.sleep(0.05)
    world.await_figures()

    assert code
    assert "another monitor" in second.log.read_text()
    assert first.process.poll() is None


def test_one_data_directory_has_one_monitor(world, monitor):
    """A second monitor on the same data directory is refused at once, by name of the first."""
    first = monitor("shared")
    endpoints.wait_for(first.data, "monitor", PATIENCE_S)
    second = monitor("shared")

    assert 1 == second.process.wait(PATIENCE_S)
    assert f"process {first.process.pid} already runs a monitor" in second.log.read_text()
    assert json.loads((first.data / "endpoints.json").read_text())["monitor"].startswith("http://127.0.0.1:")
