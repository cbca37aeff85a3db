"""What a run left behind, read from where it lies: topics from their beginning, rows of ClickHouse, an undisturbed run.

The undisturbed run is one process without Kafka that answers the same records, partition by partition, in micro-batches
of a size that no worker uses.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.clickhouse import Table, read_rows, tables, to_arrow
from schemas.codec import codec_for
from schemas.dead_letter import DeadLetterRow
from schemas.envelope import Message
from streams.chaos.audit import Found, row_faults
from streams.clients import Reader
from streams.inference import infer_all
from streams.loading import open_domain
from streams.store.asking import ask_over_http
from streams.store.client import StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from processors import Processor
    from processors._chaos import Chaos
    from processors._demo import Demo
    from schemas.envelope import Record
    from streams.demo.ledger import Coordinate
    from streams.settings import Settings

__all__ = ["Tables", "Undisturbed", "read_topic"]

_MICRO_BATCH = 257
# Rows that are compared at once: each is about 5 kB of Python objects.
_ROWS_AT_ONCE = 10_000
_GROUP_OF_OFFSETS = 1_000


def read_topic(kafka: Mapping[str, Any], topic: str) -> list[Record]:
    """Everything committed on a topic, in the order of its partitions."""
    with Reader(kafka, topic) as reader:
        return sorted(reader.records(), key=attrgetter("partition", "offset"))


class Undisturbed:
    """The same records, answered by one process that nothing happens to."""

    def __init__(self, settings: Settings, domain: str, demo: Demo, chaos: Chaos) -> None:
        self._opened = open_domain(settings, domain)
        self._demo = demo
        self._chaos = chaos

    @property
    def processor(self) -> Processor:
        """Its processor, whose state is as after the last record."""
        return self._opened.processor

    def answers(
        self,
        inputs: Sequence[Record],
        dead: set[Coordinate],
        results: Mapping[str, bytes],
        names: Mapping[Coordinate, str],
    ) -> Iterator[tuple[str, bytes]]:
        """Identity and value of each result.

        Args:
            inputs: Everything on the input topic.
            dead: Where records lie that became dead letters.
            results: What was answered, by identity: it tells what tables said at the time.
            names: Identities of the inputs, where known.
        """
        for partition in sorted({record.partition for record in inputs}):
            records = [record for record in inputs if record.partition == partition]
            alive = [(record.partition, record.offset) for record in records]
            alive = [at for at in alive if at not in dead]
            self._chaos.recall(self.processor, [results.get(names.get(at, "")) for at in alive])
            for _record, answer in infer_all(self.processor, self._opened.session, records, lambda: 0, _MICRO_BATCH):
                if isinstance(answer, Message) and answer.value is not None:
                    yield self._demo.read(answer.value).id, answer.value

    def entries(self, partition: int) -> Mapping[bytes, bytes]:
        """Its keyed state, as a changelog would have it."""
        return self._chaos.entries(self.processor, partition)


class Tables:
    """The tables of a domain, asked through the endpoint as anybody would.

    Args:
        settings: With the token of an administrator, who makes views.
        domain: Whose tables.
        url: Of the endpoint.
    """

    def __init__(self, settings: Settings, domain: str, url: str) -> None:
        self._settings = settings
        self._url = url
        self.tables = tables(domain)

    def ask(self, sql: str, form: str = "TabSeparated") -> bytes:
        """Asks as an administrator.

        Raises:
            StoreUnavailableError: Nobody answers.
            StoreRefusedError: ClickHouse refuses.
        """
        settings = self._settings
        token = settings.store.admin_token or settings.store.token
        return ask_over_http(self._url, token, settings.clickhouse.database, sql, form).body

    def count(self, topic: str) -> int:
        """Rows of a topic's table; -1 where it is not there yet."""
        try:
            return int(self.ask(f"SELECT count() FROM {self._of(topic).name} WHERE _topic = '{topic}'"))  # noqa: S608
        except StoreRefusedError:
            return -1

    def make_views(self) -> None:
        """A materialised view over each table: rows and offsets by partition and thousand of offsets."""
        for table in self.tables:
            self.ask(
                f"CREATE MATERIALIZED VIEW IF NOT EXISTS {_view(table)} ENGINE = SummingMergeTree"
                " ORDER BY (_partition, thousand) SETTINGS non_replicated_deduplication_window = 10000"
                f" AS {_summed(table)}"
            )

    def compare_views(self) -> Found:
        """Groups of which a view says something else than its table."""
        wrong = []
        for table in self.tables:
            right = set(self.ask(f"{_summed(table)} ORDER BY ALL").splitlines())
            found = self.ask(
                f"SELECT _partition, thousand, sum(number) AS number, sum(offsets) AS offsets FROM {_view(table)}"  # noqa: S608
                " GROUP BY ALL ORDER BY ALL"
            ).splitlines()
            groups = {line.rsplit(b"\t", 2)[0] for line in right.symmetric_difference(found)}
            wrong += [f"{_view(table)}: group {group.decode()!r} is not what the rows say" for group in sorted(groups)]
        return Found.of(wrong)

    def compare(self, table: Table, records: Sequence[Record]) -> tuple[Found, Found, Found]:
        """Rows missing, doubled, and wrong: every column of every row against its message."""
        totals = (Found(0), Found(0), Found(0))
        seen = 0
        for partition in sorted({record.partition for record in records}):
            own = [record for record in records if record.partition == partition]
            starts = range(0, len(own), _ROWS_AT_ONCE)
            for start in starts:
                chunk = own[start : start + _ROWS_AT_ONCE]
                first = chunk[0].offset if start else 0
                last = own[start + _ROWS_AT_ONCE].offset - 1 if start + _ROWS_AT_ONCE < len(own) else 2**63
                found = self._rows(table, partition, first, last)
                seen += len(found)
                totals = tuple(a + b for a, b in zip(totals, row_faults(self._right(table, chunk), found), strict=True))  # type: ignore[assignment]
        elsewhere = self.count(table.topic) - seen
        if elsewhere:
            totals = (
                totals[0],
                totals[1] + Found(abs(elsewhere), (f"{elsewhere} rows of other partitions",)),
                totals[2],
            )
        return totals

    def _right(self, table: Table, records: Sequence[Record]) -> dict[Coordinate, Any]:
        settings = self._settings
        dead = table.row is DeadLetterRow
        codec = None if dead else codec_for(table.topic, table.row, settings.topics.get(table.topic), settings.registry)
        rows, kept, _rejects = read_rows(table, records, codec)
        return dict(_keyed(to_arrow(table, rows, kept)))

    def _rows(self, table: Table, partition: int, first: int, last: int) -> list[tuple[Coordinate, Any]]:
        columns = ", ".join(f"`{column.name}`" for column in table.columns)
        body = self.ask(
            f"SELECT {columns} FROM {table.name} WHERE _topic = '{table.topic}'"  # noqa: S608
            f" AND _partition = {partition} AND _offset BETWEEN {first} AND {last}",
            "ArrowStream",
        )
        if not body:
            return []
        with pa.ipc.open_stream(body) as stream:
            return list(_keyed(stream.read_all()))

    def _of(self, topic: str) -> Table:
        return next(table for table in self.tables if table.topic == topic)


def _view(table: Table) -> str:
    return f"chaos_{table.name}"


def _summed(table: Table) -> str:
    return (
        f"SELECT _partition, intDiv(_offset, {_GROUP_OF_OFFSETS}) AS thousand, count() AS number,"  # noqa: S608
        f" sum(_offset) AS offsets FROM {table.name} GROUP BY _partition, thousand"
    )


def _keyed(rows: pa.Table) -> Iterator[tuple[Coordinate, Any]]:
    for row in rows.to_pylist():
        yield (row["_partition"], row["_offset"]), {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """A map is a dictionary, whatever its order; text is text."""
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        return {_plain(name): _plain(item) for name, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
