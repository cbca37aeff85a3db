"""A ClickHouse server over HTTP(S): many sinks may share it, so every insert is guarded by who owns the partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from streams._settings_kinds import database_of
from streams.store._arrow import arrow_stream, column_list, identifier
from streams.store.client import BATCH_SETTINGS, StoreRefusedError, StoreUnavailableError, translate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from streams.store.client import Guard

__all__ = ["ServerStore"]

_CONNECT_TIMEOUT_S = 5
# An insert of a full batch takes well under a second; a server that needs a minute is as good as away.
_ANSWER_TIMEOUT_S = 60


class ServerStore:
    """A client of one server; connects when first asked, and again after every failure."""

    exclusive = False

    def __init__(self, url: str, database: str, ca_file: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreRefusedError(
                f"clickhouse.url {parts.scheme}://{parts.hostname or ''} is no ClickHouse address: write"
                " https://user:password@host:8443/database"
            )
        self.database = database_of(url, database)
        self._url = parts._replace(path="").geturl()
        port = f":{parts.port}" if parts.port else ""
        self._where = f"{parts.scheme}://{parts.hostname}{port}"
        self._ca_file = ca_file
        self._client: Any = None
        self._types: dict[str, dict[str, str]] = {}

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """The answer to a query."""
        answer: Sequence[Sequence[Any]] = self._call("query", sql, parameters=dict(params or {})).result_rows
        return answer

    def execute(self, sql: str, params: Mapping[str, Any] | None = None) -> None:
        """A statement without an answer."""
        self._call("command", sql, parameters=dict(params or {}))

    def insert(self, table: str, batch: pa.Table, token: str, guard: Guard | None = None) -> None:
        """Inserts a batch as one block; the server itself looks at the guard as it begins."""
        target = f"{identifier(self.database)}.{identifier(table)}"
        columns = column_list(batch)
        structure = self._structure(table, batch.column_names)
        condition = f" WHERE {guard.sql()}" if guard else ""
        self._call(
            "command",
            f"INSERT INTO {target} ({columns}) SELECT {columns} FROM input({structure}){condition} FORMAT ArrowStream",
            data=arrow_stream(batch, compress=True),
            settings={**BATCH_SETTINGS, "wait_end_of_query": "1", "insert_deduplication_token": token},
        )

    def why_not(self, within_s: float) -> None:
        """A server says so itself when an insert fails."""

    def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._connected(), method)(*arguments, **options)
        except (ClickHouseError, OSError) as error:
            found = translate(error, self._where)
            if isinstance(found, StoreUnavailableError):
                self.close()
            raise found from error

    def _connected(self) -> Any:
        if self._client is None:
            self._client = clickhouse_connect.get_client(
                dsn=self._url,
                # The database may have to be made first; every name we use is qualified.
                database="default",
                # The client looks at the port alone, and takes any but 443 and 8443 for one without TLS.
                interface=urlsplit(self._url).scheme,
                # None is certifi's list.
                ca_cert=self._ca_file or None,
                autogenerate_session_id=False,
                connect_timeout=_CONNECT_TIMEOUT_S,
                send_receive_timeout=_ANSWER_TIMEOUT_S,
                query_retries=0,
                show_clickhouse_errors=True,
            )
            self._types.clear()
        return self._client

    def _structure(self, table: str, columns: Sequence[str]) -> str:
        """The columns' types as `input()` takes them: asked once a connection, for migrations may add columns."""
        types = self._types.get(table)
        if types is None or not set(columns) <= set(types):
            found = self.rows(
                "SELECT name, type FROM system.columns WHERE database = {database:String} AND table = {table:String}",
                {"database": self.database, "table": table},
            )
            types = self._types[table] = {str(name): str(type_) for name, type_ in found}
        declared = ", ".join(f"{identifier(name)} {types[name]}" for name in columns)
        return "'" + declared.replace("\\", "\\\\").replace("'", "\\'") + "'"
