"""Tables made and brought up to date from their declarations, and the sink's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from schemas.clickhouse import COORDINATES, Table, migrate_sql, table_of
from schemas.fields import Count, Word
from schemas.topics import TableSpec, TopicType
from streams.store._arrow import identifier
from streams.store.client import StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.store.client import Store

__all__ = ["BATCHES", "OWNERS", "REJECTS", "SinkReject", "ensure_tables", "made_sql"]


class SinkReject(msgspec.Struct, frozen=True, gc=False):
    """A message that could not be made a row: why, and enough to find it on Kafka and to know it again."""

    reason: Word
    path: Word
    detail: str
    value_size: Count
    value_sha256: str
    """Hexadecimal; empty for a tombstone."""


REJECTS = table_of(
    TopicType(
        name="any",
        message=SinkReject,
        key="",
        direction="internal",
        description="Messages that the sink could not make rows of.",
        table=TableSpec("sink_rejects", order_by=("reason",)),
    )
)
OWNERS, BATCHES, CHANGES = "_sink_owners", "_sink_batches", "_schema_changes"

# The newest epoch of a partition owns it; older rows are history that merges may drop.
_OWN_TABLES = {
    OWNERS: """
    (
        topic String, partition UInt32, epoch UInt64, owner String, claimed_at DateTime64(3, 'UTC') DEFAULT now64(3)
    )
    ENGINE = ReplacingMergeTree(epoch) ORDER BY (topic, partition)
    COMMENT 'Which sink may write the rows of a Kafka partition: the one of the greatest epoch.'
    """,
    BATCHES: """
    (
        target String, topic String, partition UInt32, first_offset UInt64, last_offset UInt64,
        announced_at DateTime64(3, 'UTC') DEFAULT now64(3)
    )
    ENGINE = ReplacingMergeTree(first_offset) ORDER BY (target, topic, partition)
    COMMENT 'The newest batch of each Kafka partition that took more than one insert, announced before the first.'
    """,
    CHANGES: """
    (
        target String, statement String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
    )
    ENGINE = MergeTree ORDER BY applied_at
    COMMENT 'What was done to make and migrate tables; with a target, that the table was about to be made.'
    """,
}


def ensure_tables(store: Store, tables: Iterable[Table], ttl_days: int) -> list[str]:
    """Makes the database and tables that are missing and adds columns that are; returns what was done.

    Safe to call again, by several processes too. Nothing is ever dropped.

    Raises:
        MigrationError: A column has another type than declared.
        StoreError: ClickHouse is away, or does not let us.
    """
    done: list[str] = []
    if not store.rows("SELECT 1 FROM system.databases WHERE name = {name:String}", {"name": store.database}):
        _apply(store, done, f"CREATE DATABASE IF NOT EXISTS {identifier(store.database)}")
    existing = _columns(store)
    for name, definition in _OWN_TABLES.items():
        if name not in existing:
            _apply(store, done, f"CREATE TABLE IF NOT EXISTS {_qualified(store, name)}{definition}")
    for table in (*tables, REJECTS):
        if table.name not in existing:
            # Noted first: what was told of an older table of that name must not count, wherever this process ends.
            _note(store, table.name, "made anew")
            _apply(store, done, table.create_sql(store.database, ttl_days))
            continue
        _require_coordinates(store, table, existing[table.name])
        for statement in migrate_sql(table, existing[table.name], store.database):
            _apply(store, done, statement)
        if not _has_ttl(store, table.name, ttl_days):
            _apply(store, done, _ttl_sql(store, table.name, ttl_days))
    for statement in done:
        _note(store, "", statement)
    return done


def made_sql(database: str) -> str:
    """When the table `{target:String}` was made, for a query; long ago where that is not known."""
    qualified = f"{identifier(database)}.{identifier(CHANGES)}"
    return f"(SELECT max(applied_at) FROM {qualified} WHERE target = {{target:String}})"


def _note(store: Store, target: str, statement: str) -> None:
    store.execute(
        f"INSERT INTO {_qualified(store, CHANGES)} (target, statement) SELECT {{t:String}}, {{s:String}}",
        {"t": target, "s": statement},
    )


def _apply(store: Store, done: list[str], statement: str) -> None:
    store.execute(statement)
    done.append(" ".join(statement.split()))


def _columns(store: Store) -> dict[str, dict[str, str]]:
    """Types by name of every table that is there."""
    found: dict[str, dict[str, str]] = {}
    for table, name, type_ in store.rows(
        "SELECT table, name, type FROM system.columns WHERE database = {database:String}", {"database": store.database}
    ):
        found.setdefault(str(table), {})[str(name)] = str(type_)
    return found


def _require_coordinates(store: Store, table: Table, existing: dict[str, str]) -> None:
    """A table without coordinates belongs to somebody else; adding them would make old rows offset 0."""
    missing = [column.name for column in COORDINATES if column.name not in existing]
    if missing:
        raise StoreRefusedError(
            f"Table {store.database}.{table.name} exists without the columns {', '.join(missing)}, so it was not made"
            " by headrace: rename it, or set clickhouse.database to another one."
        )


def _has_ttl(store: Store, table: str, ttl_days: int) -> bool:
    [[engine]] = store.rows(
        "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {name:String}",
        {"database": store.database, "name": table},
    )
    return f"toIntervalDay({ttl_days})" in str(engine)


def _ttl_sql(store: Store, table: str, ttl_days: int) -> str:
    return f"ALTER TABLE {_qualified(store, table)} MODIFY TTL _inserted_at + INTERVAL {ttl_days} DAY"


def _qualified(store: Store, table: str) -> str:
    return f"{identifier(store.database)}.{identifier(table)}"
