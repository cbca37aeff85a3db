"""The embedded engine (chDB): one process owns it, any number of threads ask it, each through a session of its own.

Its one account is granted tables and nothing else. What reaches outside (files, URLs, other databases, scripts,
SYSTEM) is refused by the engine's own access control, to the sink as to anybody: a configuration file says so.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import chdb

from streams.local.locks import DirectoryLock, LockedError
from streams.store._arrow import arrow_stream, column_list, identifier, literal, parameters
from streams.store.client import BATCH_SETTINGS, PASSING, StoreRefusedError, StoreUnavailableError, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from streams.store.client import Guard

__all__ = ["EmbeddedStore", "insert_block", "quoted_settings"]

_GRANTS = (
    "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE,"
    " DROP, TRUNCATE, OPTIMIZE, TABLE ENGINE ON *.*"
)
_CONFIG = """<clickhouse>
  <user_directories><users_xml><path>{users}</path></users_xml></user_directories>
  <users_config>{users}</users_config>
</clickhouse>
"""
_USERS = f"""<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password/>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants><query>GRANT {_GRANTS}</query></grants>
    </default>
  </users>
</clickhouse>
"""

# What must be free before an insert besides twice the batch: the engine's streams of inserts were seen to end well on a
# full disk with nothing stored, and to commit broken parts where writing itself failed. Merges reserve theirs.
_SPARE_BYTES = 64_000_000


class EmbeddedStore:
    """chDB in `data/store`; owns the directory for as long as it is open."""

    exclusive = True

    def __init__(self, data: Path, database: str) -> None:
        self.database = database
        folder = (data / "store").resolve()
        if "?" in str(folder) or "&" in str(folder):
            raise StoreRefusedError(f"The embedded engine cannot live in {folder}: a path must not hold ? or &.")
        folder.mkdir(parents=True, exist_ok=True)
        self._where = str(folder)
        self._lock = _own(folder)
        try:
            users, config = folder / "users.xml", folder / "config.xml"
            _write(users, _USERS)
            _write(config, _CONFIG.format(users=escape(str(users))))
            self._target = f"{folder / 'db'}?config-file={config}"
            self._session = self._connect()
            self._mutex = threading.Lock()
            self._query(f"CREATE DATABASE IF NOT EXISTS {identifier(database)}")
            self._query(f"USE {identifier(database)}")
        except Exception:
            self._lock.release()
            raise

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """The answer to a query."""
        answer = self._query(sql, "JSONCompactEachRow", params)
        return [json.loads(line) for line in answer.splitlines()]

    def execute(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """A statement without an answer."""
        self._query(sql, params=params)

    def insert(self, table: str, batch: pa.Table, token: str, guard: Guard | None = None) -> None:
        """Inserts a batch as one block; the guard holds by the directory's lock."""
        del guard
        self._require_room(batch.nbytes)
        target = f"{identifier(self.database)}.{identifier(table)} ({column_list(batch)})"
        with self._mutex:
            insert_block(self._session, self._where, target, batch, token)

    def why_not(self, within_s: float) -> StoreUnavailableError | None:
        """The newest error of the engine in that time that passes by itself, such as a full disk.

        A streamed insert that fails when its part is to be written ends as if all were well (chDB 26.9). Questions have
        such errors too, so older ones say nothing of the insert.
        """
        found = self.rows(
            "SELECT code, last_error_message FROM system.errors WHERE has({codes:Array(Int32)}, code)"
            " AND last_error_time >= now() - {seconds:UInt32} ORDER BY last_error_time DESC LIMIT 1",
            {"codes": sorted(PASSING), "seconds": math.ceil(within_s) + 1},
        )
        if not found:
            return None
        code, said = found[0]
        return StoreUnavailableError(f"ClickHouse at {self._where} did not store what it took: {said}", int(code))

    @contextlib.contextmanager
    def session(self, database: str) -> Iterator[Any]:
        """A session of its own for one caller (0.4 ms to make), so that nothing of it outlives the request."""
        connection = self._connect()
        try:
            if database:
                connection.query(f"USE {identifier(database)}", "Null")
            yield connection
        except Exception as error:
            if isinstance(error, chdb.ChdbError | RuntimeError):
                raise translate(error, self._where) from error
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Closes the engine and lets the next owner in."""
        self._session.close()
        self._lock.release()

    def _require_room(self, size: int) -> None:
        free = min(int(found[0]) for found in self.rows("SELECT unreserved_space FROM system.disks"))
        needed = 2 * size + _SPARE_BYTES
        if free < needed:
            raise StoreUnavailableError(
                f"The disk of {self._where} is full: {free // 10**6:,} MB are free, {needed // 10**6:,} MB are needed."
                " Make room, or shorten store.ttl_days"
            )

    def _connect(self) -> Any:
        try:
            return chdb.connect(self._target)
        except RuntimeError as error:
            raise StoreRefusedError(
                f"The embedded engine in {self._where} does not open: {error}. A process opens one engine at a time,"
                " and one process at a time opens this one."
            ) from error

    def _query(self, sql: str, form: str = "TabSeparated", params: Mapping[str, Any] | None = None) -> bytes:
        with self._mutex:
            try:
                answer: bytes = self._session.query(sql, form, params=parameters(params)).bytes()
            except (chdb.ChdbError, RuntimeError) as error:
                raise translate(error, self._where) from error
        return answer


def insert_block(session: Any, where: str, target: str, batch: pa.Table, token: str) -> None:
    """Streams a batch into the engine as one block of `INSERT INTO target`."""
    settings = quoted_settings({**BATCH_SETTINGS, "insert_deduplication_token": token})
    try:
        with session.send_insert(f"INSERT INTO {target} SETTINGS {settings}", "ArrowStream") as stream:
            stream.append(arrow_stream(batch))
            stream.finish()
    except (chdb.ChdbError, RuntimeError) as error:
        raise translate(error, where) from error


def quoted_settings(settings: Mapping[str, str]) -> str:
    """`name = 'value', …`, as SET and SETTINGS take it; names are ours or were checked."""
    return ", ".join(f"{name} = {literal(value)}" for name, value in settings.items())


def _write(file: Path, text: str) -> None:
    """Leaves a file that is right alone: on a full disk writing it again would empty it."""
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)


def _own(folder: Path) -> DirectoryLock:
    try:
        return DirectoryLock.acquire(folder, "the store")
    except LockedError as error:
        raise StoreRefusedError(
            f"{error}. One process owns the embedded engine: ask it through its endpoint, with `headrace query` or the"
            " `clickhouse` URL in endpoints.json."
        ) from error
