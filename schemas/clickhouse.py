"""ClickHouse tables from Structs: their DDL, their migration, and rows as Arrow.

Every table also holds where each row came from (`_topic`, `_partition`, `_offset`, `_timestamp`): a sink resumes
behind the greatest offset of each partition, and two rows of one offset are one row. Months of `_timestamp`, Kafka's
own, are the table's partitions: a batch of one Kafka partition normally lies in one of them, so its insert is atomic.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from schemas._arrow import EARLIEST_MS, LATEST_MS, arrow_schema, to_arrow
from schemas._docs import field_docs, summary
from schemas._nodes import Node, fields_of, node_of
from schemas._rows import JsonRows
from schemas.codec import JsonCodec, RefusedError, without
from schemas.dead_letter import DeadLetterRow, from_record, to_row
from schemas.envelope import Record, Reject
from schemas.times import check_times, parse_times
from schemas.topics import TopicType, domains

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from schemas.codec import Codec

__all__ = [
    "COORDINATES",
    "INSERTED_AT",
    "Column",
    "JsonRows",
    "MigrationError",
    "Table",
    "arrow_schema",
    "migrate_sql",
    "read_rows",
    "table_of",
    "tables",
    "to_arrow",
]

# Blocks whose tokens are remembered per table: a sink repeats only its last insert of each Kafka partition.
_DEDUPLICATION_WINDOW = 10_000


class Column(msgspec.Struct, frozen=True):
    """One column of a table."""

    name: str
    type: str
    """As ClickHouse writes it in `system.columns`, but for white space."""
    node: Node | None
    """What the values are in Python; None for the coordinates."""
    codec: str = ""
    comment: str = ""
    default: str = ""
    """Expression; only of columns that are not inserted."""

    def sql(self) -> str:
        """The column's declaration."""
        parts = [f"`{self.name}` {self.type}"]
        if self.default:
            parts.append(f"DEFAULT {self.default}")
        if self.comment:
            parts.append(f"COMMENT {_quoted(self.comment)}")
        if self.codec:
            parts.append(f"CODEC({self.codec})")
        return " ".join(parts)


COORDINATES = (
    Column("_topic", "LowCardinality(String)", None, "", "Where the message lay on Kafka."),
    Column("_partition", "UInt32", None, "T64, ZSTD(1)"),
    Column("_offset", "UInt64", None, "Delta(8), ZSTD(1)"),
    Column("_timestamp", "DateTime64(3, 'UTC')", None, "DoubleDelta, ZSTD(1)", "Kafka's timestamp of the message."),
)
"""Columns that every table has besides its row's."""

INSERTED_AT = Column(
    "_inserted_at",
    "DateTime",
    None,
    "DoubleDelta, ZSTD(1)",
    "When the row was stored; its retention starts here.",
    "now()",
)
"""Filled by ClickHouse. Kafka's timestamp would not do for retention: a replay of old messages would vanish at once."""


class Table(msgspec.Struct, frozen=True):
    """A table, the topic that fills it, and the Struct of its rows."""

    name: str
    topic: str
    row: type[msgspec.Struct]
    columns: tuple[Column, ...]
    """What is inserted: the row's, then the coordinates."""
    order_by: tuple[str, ...]
    lookups: tuple[str, ...]
    comment: str

    def create_sql(self, database: str, ttl_days: int) -> str:
        """The table's DDL, harmless where the table is there already.

        ReplacingMergeTree is the last net under a sink that inserts a message twice: merges, and FINAL, leave one.
        """
        declared = [column.sql() for column in (*self.columns, INSERTED_AT)]
        declared += [f"INDEX `by_{name}` `{name}` TYPE bloom_filter(0.01) GRANULARITY 4" for name in self.lookups]
        # Where to resume is asked at every start: the greatest offset must not cost a scan of the table.
        declared.append("PROJECTION positions (SELECT _topic, _partition, max(_offset) GROUP BY _topic, _partition)")
        lines = ",\n    ".join(declared)
        primary = ", ".join(self.order_by)
        return (
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{self.name}`\n(\n    {lines}\n)\n"
            "ENGINE = ReplacingMergeTree\n"
            "PARTITION BY toYYYYMM(_timestamp)\n"
            f"PRIMARY KEY ({primary})\n"
            f"ORDER BY ({primary}, _topic, _partition, _offset)\n"
            f"TTL _inserted_at + INTERVAL {ttl_days} DAY\n"
            f"SETTINGS non_replicated_deduplication_window = {_DEDUPLICATION_WINDOW},"
            " deduplicate_merge_projection_mode = 'rebuild', ttl_only_drop_parts = 1\n"
            f"COMMENT {_quoted(self.comment)}"
        )


class MigrationError(Exception):
    """The world's fault: a table is there whose columns these schemas cannot write."""


def tables(domain: str | None = None) -> list[Table]:
    """The tables of a domain, or of all."""
    return [
        table_of(topic)
        for name, declared in domains().items()
        if domain in (None, name)
        for topic in declared
        if topic.table is not None
    ]


def table_of(topic: TopicType) -> Table:
    """The table that a topic's messages are kept in; a ValueError where the topic has none."""
    spec = topic.table
    if spec is None:
        raise ValueError(f"Topic {topic.name!r} is not kept in ClickHouse: its declaration has no table.")
    row = spec.row or topic.message
    return Table(
        name=spec.name,
        topic=topic.name,
        row=row,
        columns=(*_columns_of(row), *COORDINATES),
        order_by=spec.order_by,
        lookups=spec.lookups,
        comment=f"{summary(row)} Topic {topic.name}.",
    )


def migrate_sql(table: Table, existing_columns: Mapping[str, str], database: str) -> list[str]:
    """Statements that add what an existing table lacks; a column that is no longer declared stays.

    Args:
        table: The table as declared.
        existing_columns: Types by name, as in `system.columns`.
        database: Where the table is.

    Raises:
        MigrationError: A column has another type than declared, which rows in it would not survive.
    """
    statements: list[str] = []
    after = ""
    for column in (*table.columns, INSERTED_AT):
        existing = existing_columns.get(column.name)
        if existing is None:
            statements.append(f"ALTER TABLE `{database}`.`{table.name}` ADD COLUMN IF NOT EXISTS {column.sql()}{after}")
        elif _canonical(existing) != _canonical(column.type):
            raise MigrationError(
                f"Column {database}.{table.name}.{column.name} has the type {existing}, declared is {column.type}."
                " Rename the table and let a new one be made, or alter the column by hand."
            )
        after = f" AFTER `{column.name}`"
    return statements


def read_rows(
    table: Table, records: Sequence[Record], codec: Codec[Any] | None = None
) -> tuple[list[Any], Sequence[Record], list[Reject]]:
    """Rows of a table from records of its topic, the records they came from, and rejects for the others.

    The codec is JSON unless one is given; dead letters carry theirs in the headers and use none.
    """
    if table.row is DeadLetterRow:
        return _read_dead_letters(records)
    rows, kept, rejects = (codec or JsonCodec(table.row)).decode_records(records)
    reasons: dict[int, Reject] = {}
    for column in table.columns:
        if column.node is not None and _is_written_by_others(column.node):
            values = [getattr(row, column.name) for row in rows]
            for row, refusal in _refused_times(values, column.name).items():
                reasons.setdefault(row, Reject(kept[row], refusal.reason, refusal.path, refusal.detail))
    if not reasons:
        return rows, kept, rejects
    good = [row for row in range(len(rows)) if row not in reasons]
    return [rows[row] for row in good], without(kept, reasons), [*rejects, *(reasons[row] for row in sorted(reasons))]


def _refused_times(values: Sequence[str | float], name: str) -> dict[int, RefusedError]:
    times, reasons = parse_times(values)
    reasons = {**check_times(times, EARLIEST_MS, LATEST_MS), **reasons}
    return {row: RefusedError(reason, f"$.{name}") for row, reason in reasons.items()}


def _read_dead_letters(records: Sequence[Record]) -> tuple[list[Any], list[Record], list[Reject]]:
    rows: list[DeadLetterRow] = []
    kept: list[Record] = []
    rejects: list[Reject] = []
    for record in records:
        try:
            letter, original = from_record(record)
        except RefusedError as error:
            rejects.append(Reject(record, error.reason, error.path, error.detail))
        else:
            rows.append(to_row(letter, original.value))
            kept.append(record)
    return rows, kept, rejects


def _columns_of(row: type[msgspec.Struct]) -> list[Column]:
    comments = field_docs(row)
    return [
        Column(field.name, clickhouse_type(field.node), field.node, _codec_of(field.node), comments.get(field.name, ""))
        for field in fields_of(row)
    ]


def clickhouse_type(node: Node) -> str:
    """The column type of a value; lists and maps are never NULL there, so a nullable one is refused."""
    name = _bare_type(node)
    if node.kind == "word":
        return f"LowCardinality(Nullable({name}))" if node.nullable else f"LowCardinality({name})"
    if node.nullable and name.startswith(("Array(", "Map(", "Tuple(")):
        raise TypeError(f"{name} cannot be NULL in ClickHouse: make the field empty instead of None.")
    return f"Nullable({name})" if node.nullable else name


def _bare_type(node: Node) -> str:
    if node.kind == "time":
        return "DateTime64(3, 'UTC')"
    match node.type:
        case inspect.StrType() | inspect.BytesType() | inspect.LiteralType() | inspect.EnumType():
            return "String"
        case inspect.BoolType():
            return "Bool"
        case inspect.IntType():
            return _integer_type(node.type)
        case inspect.FloatType():
            return "Float64"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"Array({clickhouse_type(node_of(item))})"
        case inspect.DictType(key_type=key, value_type=value):
            return f"Map({clickhouse_type(node_of(key))}, {clickhouse_type(node_of(value))})"
        case inspect.StructType(cls=cls):
            inner = ", ".join(f"{field.name} {clickhouse_type(field.node)}" for field in fields_of(cls))
            return f"Tuple({inner})"
    raise TypeError(f"{node.type} has no column type; use numbers, strings, lists, maps or Structs of them.")


def _integer_type(type_: inspect.IntType) -> str:
    """The smallest type that the declared bounds fit in."""
    if type_.ge is None or type_.ge < 0:
        return "Int64"
    for bits in (8, 16, 32):
        if type_.le is not None and type_.le < 2**bits:
            return f"UInt{bits}"
    return "UInt64"


def _codec_of(node: Node) -> str:
    """Times and counters differ little from row to row; of the rest, general compression does as well."""
    if node.kind == "word":
        return ""
    if node.kind == "time":
        return "Delta(8), ZSTD(1)"
    return "T64, ZSTD(1)" if isinstance(node.type, inspect.IntType) else "ZSTD(1)"


def _is_written_by_others(node: Node) -> bool:
    return node.kind == "time" and isinstance(node.type, inspect.UnionType)


def _canonical(type_: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", type_.strip()).replace("`", "")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
