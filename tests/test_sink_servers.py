"""Sinks of a server, which others may write to as well, and which may be away: every message is one row."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from store_process import readings
from stores import ADMIN, TOKEN, Input, StoreProcess, counts, pieces_of, server_url, value, wait_until

from schemas.envelope import Record
from streams.store._progress import Progress, Resume
from streams.store._server import ServerStore
from streams.store.destination import Destination
from streams.store.status import caught_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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
    options: dict[str, Any] = {
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
