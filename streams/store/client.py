"""One way to speak to ClickHouse, embedded or a server, and its errors by whose fault they are.

StoreError
├── StoreUnavailableError   the world's: away, overloaded, full; the same may work later
└── StoreRefusedError       ours or the asker's: wrong SQL, wrong password, not allowed; it would fail again
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from streams.errors import HeadraceError, WorldError
from streams.store._trust import advice, trusting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from streams.settings import ClickHouseSettings

__all__ = [
    "BATCH_SETTINGS",
    "INSERT_SETTINGS",
    "PASSING",
    "Guard",
    "Store",
    "StoreError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "open_store",
    "translate",
]

_CODE = re.compile(r"Code: (\d+)")

# What ClickHouse says when it is busy, full, shutting down, or lost a peer; every other code is an answer for good.
PASSING = {
    75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
    76,  # CANNOT_FSYNC
    159,  # TIMEOUT_EXCEEDED
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    225,  # NO_ZOOKEEPER
    236,  # ABORTED
    241,  # MEMORY_LIMIT_EXCEEDED
    242,  # TABLE_IS_READ_ONLY
    243,  # NOT_ENOUGH_SPACE
    252,  # TOO_MANY_PARTS
    279,  # ALL_CONNECTION_TRIES_FAILED
    285,  # TOO_FEW_LIVE_REPLICAS
    319,  # UNKNOWN_STATUS_OF_INSERT
    394,  # QUERY_WAS_CANCELLED
    425,  # SYSTEM_ERROR
    439,  # CANNOT_SCHEDULE_TASK
    745,  # SERVER_OVERLOADED
    999,  # KEEPER_EXCEPTION
}

INSERT_SETTINGS = {
    # One block, one part: atomic. A batch is smaller than a block (see `sink`).
    "async_insert": "0",
    "max_insert_threads": "1",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
}
# A batch has no two rows of one key for the engine to look for before it writes: 5.0 instead of 8.4 µs of CPU a row.
BATCH_SETTINGS = {**INSERT_SETTINGS, "optimize_on_insert": "0"}


class StoreError(HeadraceError):
    """ClickHouse did not do what was asked; `code` is its own number of the error, 0 where it gave none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class StoreUnavailableError(StoreError, WorldError):
    """ClickHouse is away, busy or full; the same may work later."""


class StoreRefusedError(StoreError):
    """ClickHouse will not do this, now or later."""


class Guard(Protocol):
    """Who may write rows of one Kafka partition (`streams.store._owners`)."""

    def sql(self) -> str:
        """A condition that holds as long as nobody else claimed the partition."""


class Store(Protocol):
    """ClickHouse, wherever it is. Every call may raise `StoreError`; none may be used by two threads at once."""

    database: str
    exclusive: bool
    """Whether nobody but this process can write: the embedded engine has one owner by its lock."""

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """The answer to a query; `{name:Type}` in it is bound by ClickHouse itself, never pasted."""

    def execute(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """A statement without an answer."""

    def insert(self, table: str, batch: pa.Table, token: str, guard: Guard | None = None) -> None:
        """Inserts a batch as one block: all of it or nothing, where it lies in one partition of the table.

        A block whose token was seen before is not inserted again. With a guard whose condition no longer holds
        nothing is inserted either, and no error says so: ask who owns the partition afterwards.
        """

    def why_not(self, within_s: float) -> StoreUnavailableError | None:
        """Why rows inserted so recently are not there although `insert` raised nothing; None where it may not pass."""

    def close(self) -> None:
        """Lets go of the engine or the connections."""


def open_store(settings: ClickHouseSettings, data: Path) -> Store:
    """The server that the settings name, or else the embedded engine in the data directory.

    Raises:
        StoreRefusedError: Another process owns the embedded engine; the message says how to ask it.
        StoreUnavailableError: The server does not answer.
    """
    if settings.url:
        from streams.store._server import ServerStore

        trusting(settings.ca_file)
        return ServerStore(settings.url, settings.database, settings.ca_file)
    from streams.store._embedded import EmbeddedStore

    return EmbeddedStore(data, settings.database)


def translate(error: Exception, where: str) -> StoreError:
    """ClickHouse's own error as ours: its code says whether the same may work later."""
    text = str(error)
    found = _CODE.search(text)
    if found is None and (what_to_do := advice(text)):
        return StoreRefusedError(f"TLS with ClickHouse at {where} fails: {_short(text)}{what_to_do}")
    if found is None:
        return StoreUnavailableError(f"ClickHouse at {where} does not answer: {_short(text)}")
    code = int(found.group(1))
    kind = StoreUnavailableError if code in PASSING else StoreRefusedError
    return kind(f"ClickHouse at {where}: {_short(text[found.start() :])}", code)


def _short(text: str) -> str:
    """One line, and not a whole query in it."""
    line = " ".join(text.split())
    return line if len(line) <= 600 else f"{line[:600]}…"
