"""Columns of ClickHouse: how they come when a message grows, and what they cannot hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import pytest
from clickhouse_engine import Engine
from events import records

from schemas.clickhouse import (
    INSERTED_AT,
    MigrationError,
    Table,
    migrate_sql,
    table_of,
    to_arrow,
)
from schemas.fields import EpochMs, Word
from schemas.topics import TableSpec, TopicType, find_topic

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a database and no table."""
    engine = Engine(tmp_path_factory.mktemp("clickhouse"))
    engine.query("CREATE DATABASE headrace")
    yield engine
    engine.close()


class OldOrder(msgspec.Struct):
    """A message before it grew."""

    order_id: str
    total: float


class NewOrder(msgspec.Struct):
    """The same, grown."""

    order_id: str
    status: Word
    total: float
    notes: list[str] = []


class OtherOrder(msgspec.Struct):
    """The same, with another type."""

    order_id: str
    total: str


def order_table(row: type[msgspec.Struct]) -> Table:
    """The table of orders in one of its versions."""
    return table_of(TopicType("orders", row, "", "output", "", table=TableSpec("orders", ("order_id",))))


def test_migration_adds_columns(engine: Engine) -> None:
    """A new field becomes a new column where it is declared; rows that were there keep their values."""
    engine.query(order_table(OldOrder).create_sql("headrace", 30))
    old, new = order_table(OldOrder), order_table(NewOrder)
    engine.insert("headrace.orders", to_arrow(old, [OldOrder("a", 1.0)], records([b""])))

    for statement in migrate_sql(new, engine.columns("orders"), "headrace"):
        engine.query(statement)
    engine.insert("headrace.orders", to_arrow(new, [NewOrder("b", "paid", 2.0, ["x"])], records([b""])))

    assert [column.name for column in (*new.columns, INSERTED_AT)] == list(engine.columns("orders"))
    assert [] == migrate_sql(new, engine.columns("orders"), "headrace")
    assert [
        {"order_id": "a", "status": "", "total": 1, "notes": []},
        {"order_id": "b", "status": "paid", "total": 2, "notes": ["x"]},
    ] == engine.query("SELECT order_id, status, total, notes FROM headrace.orders ORDER BY order_id")


def test_migration_keeps_columns_that_are_no_longer_declared() -> None:
    """A field that is gone leaves its column alone: its rows may still be asked for."""
    existing = {column.name: column.type for column in (*order_table(NewOrder).columns, INSERTED_AT)}

    assert [] == migrate_sql(order_table(OldOrder), existing, "headrace")


def test_migration_refuses_another_type() -> None:
    """A changed type is refused with table, column and both types; white space is no change."""
    existing = {column.name: column.type for column in (*order_table(OldOrder).columns, INSERTED_AT)}
    table = table_of(find_topic("fraud-scores"))
    spread = {column.name: column.type.replace("(", "(\n    ").replace(", ", ",\n") for column in table.columns}

    with pytest.raises(MigrationError, match=r"headrace\.orders\.total has the type Float64, declared is String"):
        migrate_sql(order_table(OtherOrder), existing, "headrace")
    assert 1 == len(migrate_sql(table, spread, "headrace"))  # the time of insertion, which `spread` lacks


def test_our_times_are_cut_to_what_columns_hold() -> None:
    """A time of our own that no column can hold is stored as the nearest one that can: it must not stop a sink."""
    row = msgspec.defstruct("Row", [("at", EpochMs), ("until", EpochMs | None)])
    table = order_table(row)

    batch = to_arrow(table, [row(-(2**63), None), row(2**63 - 1, 0)], records([b"", b""]))

    assert [-2_208_988_800_000, 10_413_791_999_999] == batch["at"].cast("int64").to_pylist()
    assert [None, 0] == batch["until"].cast("int64").to_pylist()


def test_topic_without_a_table() -> None:
    """Asking for the table of a topic that has none is an error that says so."""
    with pytest.raises(ValueError, match="'t' is not kept in ClickHouse"):
        table_of(TopicType("t", OldOrder, "", "input", ""))


def test_types_that_a_column_cannot_hold() -> None:
    """A list that may be None, and a union, have no column: an error says what to do."""
    with pytest.raises(TypeError, match="make the field empty instead of None"):
        order_table(msgspec.defstruct("Row", [("tags", list[str] | None)]))
    with pytest.raises(TypeError, match="has no column type"):
        order_table(msgspec.defstruct("Row", [("either", int | str)]))


def test_rows_and_coordinates_must_match() -> None:
    """Rows without coordinates are a mistake of ours, and said so."""
    with pytest.raises(ValueError, match="1 rows and 0 records for table orders"):
        to_arrow(order_table(OldOrder), [OldOrder("a", math.nan)], [])
