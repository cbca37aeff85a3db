"""The sink stores every committed message once, over kills, pauses, other sinks and a store that is away."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from store_process import readings
from stores import TOKEN, Input, StoreProcess, pieces_of, value, wait_until

from schemas.envelope import Record
from streams.chaos.disk import SmallDisk
from streams.store._progress import Progress, Resume
from streams.store._server import ServerStore
from streams.store.client import StoreError, StoreRefusedError
from streams.store.destination import Destination
from streams.store.status import caught_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COUNTS = "SELECT count(), uniqExact(number), uniqExact(_partition, _offset) FROM readings"
ADMIN = {"admin_token": TOKEN, "max_body_bytes": 64_000_000}


def counts(store: StoreProcess) -> list[int]:
    """Rows, different numbers, different offsets: all equal where each message is one row."""
    return [int(count) for count in store.ask(COUNTS)[0]]


@pytest.fixture
def source(kafka: str, topic_name: Callable[..., str]) -> Input:
    """A topic of three partitions."""
    return Input(kafka, topic_name("readings"))


@pytest.fixture
def server(tmp_path: Path, kafka: str) -> Iterator[StoreProcess]:
    """An engine that other processes write to over HTTP, as they would to a server."""
    with StoreProcess(tmp_path / "server", kafka, sinks=False, store=ADMIN) as process:
        wait_until(lambda: bool(process.status()["ready"]), what="the server")
        yield process


def server_url(server: StoreProcess) -> str:
    """Its address with the administrator's password."""
    return server.url.replace("http://", f"http://default:{TOKEN}@") + "/headrace"


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


def test_a_batch_torn_by_a_kill_is_completed(tmp_path: Path, kafka: str, source: Input, server: StoreProcess) -> None:
    """A batch over a month's end takes two inserts; dying between them loses and doubles nothing."""
    january, february = 1_769_900_000_000, 1_769_990_000_000
    months = [(january, february)[number % 2] for number in range(20)]
    source.commit(range(20), partition=1, timestamps=months)
    url = server_url(server)
    table = readings(source.topic)
    engine = ServerStore(url, "headrace")
    records = [Record(source.topic, 1, n, None, value(n), months[n]) for n in range(20)]
    pieces, rejects = pieces_of(Destination(table), records)
    progress = Progress(engine, "the one that dies")
    claim, _ = progress.take(table.name, source.topic, 1)
    progress.announce(table.name, source.topic, 1, 0, 19)
    engine.insert(pieces[1].table, pieces[1].batch, pieces[1].token(source.topic, 1), claim)
    resumed = progress.resume(table.name, source.topic, 1)

    assert ([10, 10], 0) == ([piece.batch.num_rows for piece in pieces], rejects)
    assert Resume(0, frozenset(range(1, 20, 2)), again=19) == resumed
    with StoreProcess(tmp_path / "sink", kafka, source.topic, url=url) as sink:
        wait_until(lambda: caught_up(sink.url, {(source.topic, 1): 21}))

        assert [20, 20, 20] == counts(server)
    engine.close()


def test_an_older_claim_can_insert_nothing(server: StoreProcess, topic_name: Callable[..., str]) -> None:
    """Once a partition was claimed again, an insert under the older claim has no effect and is seen to have none."""
    topic = topic_name("readings")
    engine = ServerStore(server_url(server), "headrace")
    pieces, _ = pieces_of(Destination(readings(topic)), [Record(topic, 0, 7, None, value(7), 1_790_000_000_000)])
    older, newer = Progress(engine, "older"), Progress(engine, "newer")
    old_claim, _ = older.take("readings", topic, 0)
    new_claim, resumed = newer.take("readings", topic, 0)
    assert old_claim is not None
    assert new_claim is not None
    engine.insert("readings", pieces[0].batch, "one", old_claim)
    refused = older.stored_until("readings", topic, 0)
    engine.insert("readings", pieces[0].batch, "two", new_claim)
    engine.insert("readings", pieces[0].batch, "two", new_claim)

    assert Resume(None) == resumed
    assert refused is None
    assert (False, True) == (older.owns(old_claim), newer.owns(new_claim))
    assert [[1]] == [[int(row[0])] for row in server.ask("SELECT count() FROM readings")]
    engine.close()


@pytest.mark.timeout(200)
def test_a_sink_that_was_stopped_wakes_up_harmless(
    tmp_path: Path, kafka: str, source: Input, server: StoreProcess
) -> None:
    """Two sinks share a server; one is stopped until it lost its partitions, then goes on: no row is doubled."""
    options = {
        "url": server_url(server),
        "store": {"session_timeout_ms": 6000, "flush_interval_ms": 50, "group": f"{source.topic}-sinks"},
    }
    with (
        StoreProcess(tmp_path / "a", kafka, source.topic, **options) as first,
        StoreProcess(tmp_path / "b", kafka, source.topic, **options) as second,
    ):
        wait_until(lambda: bool(first.status()["partitions"] and second.status()["partitions"]), what="sharing")
        source.commit(range(300))
        wait_until(lambda: counts(server)[0] == 300)
        source.commit(range(300, 600))
        first.signal(signal.SIGSTOP)
        source.commit(range(600, 900))
        wait_until(lambda: len(second.status()["partitions"]) == 3, what="the other sink to take over")
        wait_until(lambda: counts(server)[0] == 900)
        source.commit(range(900, 1200))
        first.signal(signal.SIGCONT)
        source.commit(range(1200, 1500))
        wait_until(lambda: counts(server)[0] >= 1500)
        wait_until(lambda: len(first.status()["partitions"]) in (1, 2), what="sharing again")
        source.commit(range(1500, 1800))
        wait_until(lambda: counts(server)[0] >= 1800)

        assert [1800] * 3 == counts(server)


class Gate:
    """A TCP proxy that can be closed: connections are refused, and those that are open are cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition("//")[2].rpartition(":")
        self._target = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open = threading.Event()
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set_open(self, state: bool) -> None:
        """Opens or closes."""
        if state:
            self._open.set()
            return
        self._open.clear()
        for one in self._pairs:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        """Stops for good."""
        self.set_open(False)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if not self._open.is_set():
                client.close()
                continue
            upstream = socket.create_connection(self._target)
            self._pairs += [client, upstream]
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with closing(source), closing(sink), suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)


def test_a_store_that_is_away_is_waited_for(tmp_path: Path, kafka: str, source: Input, server: StoreProcess) -> None:
    """From the start and in the middle of the flow: Kafka holds the data, and nothing is lost or doubled."""
    gate = Gate(server.url)
    url = f"http://default:{TOKEN}@127.0.0.1:{gate.port}/headrace"
    with StoreProcess(tmp_path / "sink", kafka, source.topic, url=url, store={"flush_interval_ms": 20}) as sink:
        source.commit(range(300))
        wait_until(lambda: bool(sink.status()["away"]), what="the news that the server is away")
        gate.set_open(True)
        wait_until(lambda: counts(server)[0] == 300)
        for start in range(300, 900, 100):
            source.commit(range(start, start + 100))
            gate.set_open(start % 200 == 0)
        gate.set_open(True)
        wait_until(lambda: counts(server)[0] >= 900)

        assert [900] * 3 == counts(server)
        assert "" == sink.status()["away"]
    gate.close()


def test_a_second_owner_of_the_engine_is_told_where_to_ask(tmp_path: Path, kafka: str) -> None:
    """The error names the process that owns the directory and the way to ask it."""
    from streams.settings import ClickHouseSettings
    from streams.store.client import open_store

    with StoreProcess(tmp_path, kafka, sinks=False) as store:
        with pytest.raises(StoreRefusedError) as refused:
            open_store(ClickHouseSettings(), tmp_path)

        assert str(store.process.pid) in str(refused.value)
        assert "headrace query" in str(refused.value)


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
    from confluent_kafka.admin import AdminClient

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
