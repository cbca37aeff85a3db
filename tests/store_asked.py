"""A store that only answers, and requests to it as a client of ClickHouse makes them."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from stores import TOKEN, StoreProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_TOKEN = "read-for-tests"
LIMITS = {
    "token": READ_TOKEN,
    "admin_token": TOKEN,
    "max_query_s": 2,
    "max_result_rows": 100_000,
    "max_result_bytes": 10_000_000,
    "max_body_bytes": 1_000_000,
    "max_queries": 2,
}


@contextmanager
def answering(folder: Path) -> Iterator[StoreProcess]:
    """A store that only answers, with a table of three rows."""
    with StoreProcess(folder, "127.0.0.1:1", sinks=False, store=LIMITS) as process:
        wait_until(lambda: bool(process.status()["ready"]), what="the store")
        create = (
            "CREATE TABLE t (a UInt64, s LowCardinality(String), n Nullable(Float64)) ENGINE = MergeTree ORDER BY a"
        )
        process.ask(create)
        process.ask("INSERT INTO t VALUES (1, 'x', 0.5), (2, 'y', NULL), (3, 'x', 1)")
        yield process


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def code(self) -> int:
        """ClickHouse's code of an error; 0 without."""
        return int(self.headers.get("x-clickhouse-exception-code", 0))


def send(
    store: StoreProcess, body: bytes = b"", method: str = "", token: str = READ_TOKEN, path: str = "/", **url: str
) -> Reply:
    """One request; header names are given as `h_Accept_Encoding`."""
    headers = {name[2:].replace("_", "-"): url.pop(name) for name in list(url) if name.startswith("h_")}
    if token:
        headers["X-ClickHouse-Key"] = token
    method = method or ("POST" if body else "GET")
    request = urllib.request.Request(
        f"{store.url}{path}?{urlencode({'database': 'headrace', **url})}", body or None, headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return Reply(answer.status, answer.read(), {name.lower(): found for name, found in answer.headers.items()})
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.read(), {name.lower(): found for name, found in error.headers.items()})
