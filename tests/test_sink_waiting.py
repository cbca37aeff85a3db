"""What waits for its insert: decoded as it comes, and one batch of all that came while the one before was stored."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_process import readings
from stores import ADMIN, StoreProcess, pieces_of, server_url, value, wait_until

from schemas.envelope import Record, Records
from streams.observe.metrics import SinkMetrics
from streams.settings import StoreSettings
from streams.store import _waiting
from streams.store._reader import Place
from streams.store._server import ServerStore
from streams.store._waiting import Waiting
from streams.store.destination import Destination
from streams.store.sink import Sink
from streams.store.tables import ensure_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pyarrow as pa

    from streams.store.client import Guard
    from streams.store.destination import Piece

JANUARY, FEBRUARY = 1_769_900_000_000, 1_769_990_000_000
ROWS = 100


class HeldStore(ServerStore):
    """Begins an insert, and ends it when it is let go."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "headrace")
        self.begun, self.go = threading.Event(), threading.Event()
        self.inserted: list[int] = []

    def insert(self, table: str, batch: pa.Table, token: str, guard: Guard | None = None) -> None:
        """One insert; its rows are counted once it is done."""
        self.begun.set()
        assert self.go.wait(30)
        super().insert(table, batch, token, guard)
        self.inserted.append(batch.num_rows)


class FedReader:
    """Gives what it is fed, and knows of so many messages more."""

    generation = 1

    def __init__(self, place: Place, more: int = 0) -> None:
        self.assigned = frozenset({place})
        self.ends: dict[Place, int] = {}
        self._place, self._more = place, more
        self._given = 0
        self.food: list[int] = []

    def read(self, most: int, timeout_s: float) -> list[Records]:
        """The next portion."""
        if not self.food:
            time.sleep(0.001)
            return []
        portion = records_of(self._place.topic, self._given, self._given + self.food.pop(0))
        self._given += len(portion)
        return [portion]

    def read_from(self, offsets: Mapping[Place, int]) -> None:
        """It reads on."""

    def bounds(self, place: Place) -> tuple[int, int]:
        """Everything is still there."""
        return 0, 10**6

    def known_end(self, place: Place) -> int:
        """Behind what is still to come."""
        return self._given + self._more


def records_of(topic: str, start: int, stop: int) -> Records:
    return Records.of([Record(topic, 0, n, None, value(n), JANUARY) for n in range(start, stop)])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, kafka: str) -> Iterator[str]:
    """An engine that is written to over HTTP, as a server is."""
    with StoreProcess(tmp_path_factory.mktemp("engine"), kafka, sinks=False, store=ADMIN) as process:
        wait_until(lambda: bool(process.status()["ready"]), what="the engine")
        yield server_url(process)


def sink_of(url: str, topic: str, reader: FedReader, flush_ms: float) -> tuple[Sink, HeldStore]:
    destination = Destination(readings(topic))
    store = HeldStore(url)
    ensure_tables(store, [destination.table], 30)
    settings = StoreSettings(flush_rows=ROWS, flush_interval_ms=flush_ms)
    return Sink(store, reader, {topic: destination}, settings, SinkMetrics()), store  # type: ignore[arg-type]  # a double


def test_what_comes_while_a_batch_is_stored_is_the_next_batch(url: str, topic_name: Callable[..., str]) -> None:
    """The loop reads on beside an insert that takes long, and what became due meanwhile goes in one insert."""
    topic = topic_name("readings")
    reader = FedReader(Place(topic, 0))
    sink, store = sink_of(url, topic, reader, flush_ms=60_000)
    stop = threading.Event()
    running = threading.Thread(target=sink.run, args=(stop,))
    running.start()
    reader.food.append(ROWS)
    assert store.begun.wait(30)
    reader.food += [ROWS] * 4
    wait_until(lambda: not reader.food, what="reading beside the insert")
    while_held = list(store.inserted)
    store.go.set()
    wait_until(lambda: sum(store.inserted) == 5 * ROWS, what="all rows")
    stop.set()
    running.join()
    store.close()

    assert ([], [ROWS, 4 * ROWS]) == (while_held, store.inserted)
    assert [(5 * ROWS, 0)] == [(found["next_offset"], found["rejects"]) for found in sink.positions()]


@pytest.mark.parametrize(("more", "batches"), [(0, [ROWS // 2]), (ROWS, [])])
def test_a_batch_that_can_be_filled_is_waited_for(
    url: str, topic_name: Callable[..., str], more: int, batches: list[int]
) -> None:
    """Half a batch is stored after the interval where nothing more is there, and later where Kafka holds the rest."""
    topic = topic_name("readings")
    reader = FedReader(Place(topic, 0), more)
    sink, store = sink_of(url, topic, reader, flush_ms=200)
    store.go.set()
    # The end is known once the loop has looked for it.
    sink.step()
    time.sleep(0.25)
    sink.step()
    reader.food.append(ROWS // 2)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        sink.step()
    stored = list(store.inserted)
    stop = threading.Event()
    stop.set()
    sink.run(stop)
    store.close()

    assert (batches, [ROWS // 2]) == (stored, store.inserted)


messages = st.lists(st.sampled_from([b"{", None, *(value(number) for number in range(5))]), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(messages, st.sets(st.integers(1, 29)), st.integers(1, 8))
def test_how_records_come_changes_no_insert(values: list[bytes | None], cuts: set[int], at_once: int) -> None:
    """Read in one portion or many, decoded at once or in slices: the same pieces, offsets and rejects."""
    destination = Destination(readings("readings"))
    records = Records.of(
        [Record("readings", 0, 2 * n, None, v, (JANUARY, FEBRUARY)[n % 3 == 0]) for n, v in enumerate(values)]
    )
    bounds = [0, *sorted(cut for cut in cuts if cut < len(records)), len(records)]
    waiting = Waiting(destination)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_waiting, "_SLICE", at_once)
        for start, stop in pairwise(bounds):
            waiting.add(records[start:stop])
        found = waiting.pieces()
    expected = pieces_of(destination, records)

    assert (0, 2 * len(records) - 2, len(records)) == (waiting.first, waiting.last, waiting.count)
    assert expected[1] == found[1]
    assert [_content(piece) for piece in expected[0]] == [_content(piece) for piece in found[0]]


def _content(piece: Piece) -> tuple[object, ...]:
    return piece.table, piece.first, piece.last, piece.batch.to_pylist()


def test_records_of_several_partitions_are_parted_in_their_order() -> None:
    """Each partition's records come together, as they were read."""
    numbers = [1, 0, 1, 1, 0]
    mixed = Records.of([Record("t", number, at, None, b"", 0) for at, number in enumerate(numbers)])

    assert [[(0, 1), (0, 4)], [(1, 0), (1, 2), (1, 3)]] == [list(part.positions()) for part in mixed.by_partition()]
    assert [] == mixed[:0].by_partition()
