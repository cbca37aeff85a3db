"""Batches that take several inserts, of which some failed or came to nothing: every row is there once in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_process import readings
from stores import TOKEN, StoreProcess, pieces_of, value, wait_until

from schemas.envelope import Record, Records
from streams.observe.metrics import SinkMetrics
from streams.store._partition import Partition
from streams.store._progress import Progress, Resume
from streams.store._reader import Place
from streams.store._server import ServerStore
from streams.store._writer import Batch, Writer
from streams.store.destination import Destination
from streams.store.tables import ensure_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JANUARY, FEBRUARY = 1_769_900_000_000, 1_769_990_000_000
REJECTED = 7
ALL = set(range(20))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, kafka: str) -> Iterator[ServerStore]:
    """An engine that is written to over HTTP, as a server is."""
    options = {"admin_token": TOKEN, "max_body_bytes": 64_000_000}
    with StoreProcess(tmp_path_factory.mktemp("engine"), kafka, sinks=False, store=options) as process:
        wait_until(lambda: bool(process.status()["ready"]), what="the engine")
        engine = ServerStore(process.url.replace("http://", f"http://default:{TOKEN}@") + "/headrace", "headrace")
        yield engine
        engine.close()


class Torn:
    """A partition of twenty messages of two months, one of them no row: a batch of three inserts."""

    def __init__(self, engine: ServerStore, topic: str) -> None:
        self.engine = engine
        self.place = Place(topic, 0)
        self.destination = Destination(readings(topic))
        ensure_tables(engine, [self.destination.table], 30)
        values = [b"{" if number == REJECTED else value(number) for number in range(20)]
        self.records = Records.of(
            [Record(topic, 0, number, None, values[number], (JANUARY, FEBRUARY)[number % 2]) for number in range(20)]
        )
        self.pieces, _ = pieces_of(self.destination, self.records)
        self.progress = Progress(engine)

    def insert(self, at: int) -> None:
        """One of the inserts, in vain or not."""
        piece = self.pieces[at]
        self.engine.insert(piece.table, piece.batch, piece.token(*self.place))

    def lose(self, at: int) -> None:
        """One of the inserts fails in the middle: its token is known, its rows are not there."""
        self.insert(at)
        piece = self.pieces[at]
        self.engine.execute(
            f"ALTER TABLE headrace.{piece.table} DELETE WHERE _topic = {{topic:String}} SETTINGS mutations_sync = 2",
            {"topic": self.place.topic},
        )

    def resumed(self) -> tuple[Partition, Resume]:
        """The partition as a sink that takes it has it."""
        claim, resume = self.progress.take(self.destination.table.name, *self.place)
        partition = Partition(self.place, self.destination)
        partition.begin(claim, resume, resume.offset or 0)
        return partition, resume

    def store(self, partition: Partition) -> bool | Exception | None:
        """What waits of the partition goes through the writer; what it says."""
        pieces, rejects = partition.waiting.pieces()
        sent = partition.send()
        writer = Writer(self.engine, self.progress, SinkMetrics())
        writer.begin(Batch(partition, pieces, partition.claim, sent.first, sent.last, sent.count - rejects, rejects))
        found = writer.finish()
        writer.close()
        return found and found[1]

    def stored(self) -> tuple[list[int], list[int]]:
        """Offsets of rows and of rejects."""
        rows, rejects = (
            sorted(
                int(offset)
                for (offset,) in self.engine.rows(
                    f"SELECT _offset FROM headrace.{table} WHERE _topic = {{topic:String}}", {"topic": self.place.topic}
                )
            )
            for table in ("readings", "sink_rejects")
        )
        return rows, rejects


def offsets_of(partition: Partition) -> list[int]:
    """Of the messages that the next batch of a partition is made of."""
    pieces, _ = partition.waiting.pieces()
    return sorted(offset for piece in pieces for offset in piece.batch["_offset"].to_pylist())


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_only_what_is_missing_goes_under_another_token(
    engine: ServerStore, topic_name: Callable[..., str], lost: int
) -> None:
    """Whichever insert of a batch left its token and no rows, they come; the others' rows do not come twice."""
    torn = Torn(engine, topic_name("readings"))
    torn.lose(lost)
    partition, _ = torn.resumed()
    partition.add(torn.records, now=0)
    said = torn.store(partition)

    assert (True, (sorted(ALL - {REJECTED}), [REJECTED])) == (said, torn.stored())


def test_a_token_without_rows_stops_nothing_where_a_view_is(
    engine: ServerStore, topic_name: Callable[..., str]
) -> None:
    """The table gets the rows past the view, which has them already: neither lacks one, neither has one twice."""
    torn = Torn(engine, topic_name("readings"))
    engine.execute(
        "CREATE MATERIALIZED VIEW headrace.by_topic ENGINE = SummingMergeTree ORDER BY topic"
        " SETTINGS non_replicated_deduplication_window = 1000"
        " AS SELECT _topic AS topic, count() AS number FROM headrace.readings GROUP BY topic"
    )
    torn.lose(0)
    partition, _ = torn.resumed()
    partition.add(torn.records, now=0)
    said = torn.store(partition)
    seen = engine.rows("SELECT sum(number) FROM headrace.by_topic WHERE topic = {t:String}", {"t": torn.place.topic})
    tables = {str(name) for (name,) in engine.rows("SELECT name FROM system.tables WHERE database = 'headrace'")}
    engine.execute("DROP TABLE headrace.by_topic SYNC")

    assert (True, (sorted(ALL - {REJECTED}), [REJECTED])) == (said, torn.stored())
    assert [[19]] == [[int(number)] for (number,) in seen]
    assert not {name for name in tables if name.startswith("_readings")}


def test_the_rest_of_a_batch_is_missed_where_its_token_is_known(
    engine: ServerStore, topic_name: Callable[..., str]
) -> None:
    """Offsets behind the rest are there already, so the greatest one says nothing of it."""
    torn = Torn(engine, topic_name("readings"))
    torn.lose(0)
    torn.progress.announce("readings", *torn.place, 0, 19)
    torn.insert(1)
    torn.insert(2)
    partition, resume = torn.resumed()
    partition.add(torn.records, now=0)
    rest = offsets_of(partition)
    said = torn.store(partition)

    assert Resume(0, frozenset({*range(1, 20, 2)}), again=19) == resume
    assert list(range(0, 20, 2)) == rest
    assert (True, (sorted(ALL - {REJECTED}), [REJECTED])) == (said, torn.stored())


def test_the_rest_of_a_batch_goes_as_a_whole(engine: ServerStore, topic_name: Callable[..., str]) -> None:
    """A part of it, announced in its turn, would hide what is missing between offsets that are there."""
    torn = Torn(engine, topic_name("readings"))
    torn.progress.announce("readings", *torn.place, 0, 19)
    torn.insert(0)
    partition, _ = torn.resumed()
    partition.add(torn.records[:12], now=0)
    too_early = partition.due(now=99, rows=1, size=1, age_s=0)
    partition.add(torn.records[12:], now=0)
    whole = partition.due(now=0, rows=1000, size=10**9, age_s=99)
    rest = offsets_of(partition)

    assert (False, True, list(range(1, 20, 2))) == (too_early, whole, rest)


def test_a_batch_that_is_there_holds_nothing_up() -> None:
    """Where all of an announced batch is stored, what comes behind it is due as anything is."""
    topic = "readings"
    partition = Partition(Place(topic, 0), Destination(readings(topic)))
    partition.begin(None, Resume(0, frozenset({0, 2}), again=2), 0)
    records = Records.of([Record(topic, 0, offset, None, value(offset), JANUARY) for offset in (0, 2, 5)])
    partition.add(records[:1], now=0)
    before = partition.idle
    partition.add(records[1:2], now=0)
    after = partition.idle
    partition.add(records[2:], now=0)

    assert (False, True) == (before, after)
    assert partition.due(now=1, rows=100, size=10**6, age_s=1)
    assert [5] == offsets_of(partition)


def test_an_insert_that_was_given_up_and_comes_late_has_no_effect(
    engine: ServerStore, topic_name: Callable[..., str]
) -> None:
    """A server that stood still may begin an insert after its sink asked again where to go on: it inserts nothing."""
    torn = Torn(engine, topic_name("readings"))
    given_up, _ = torn.progress.take("readings", *torn.place)
    taken, _ = torn.progress.take("readings", *torn.place)
    (late, _), (again, _) = (pieces_of(torn.destination, torn.records[:end:2]) for end in (6, 10))
    engine.insert("readings", again[0].batch, again[0].token(*torn.place), taken)
    engine.insert("readings", late[0].batch, late[0].token(*torn.place), given_up)

    assert ([0, 2, 4, 6, 8], []) == torn.stored()


def test_what_an_older_sink_announces_hides_nothing(engine: ServerStore, topic_name: Callable[..., str]) -> None:
    """It was stopped before it announced and wakes up: of two of one offset a merge would keep its, the later one."""
    torn = Torn(engine, topic_name("readings"))
    older, _ = Progress(engine).take("readings", *torn.place)
    newer, _ = torn.progress.take("readings", *torn.place)
    torn.progress.announce("readings", *torn.place, 0, 19, newer)
    torn.insert(0)
    torn.progress.announce("readings", *torn.place, 0, 4, older)
    engine.execute("OPTIMIZE TABLE headrace._sink_batches FINAL")
    _, resume = torn.resumed()

    assert Resume(0, frozenset(range(0, 20, 2)), again=19) == resume
