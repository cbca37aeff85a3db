"""The endpoint speaks ClickHouse's HTTP interface to real clients, and lets readers only read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from store_asked import READ_TOKEN, answering, send
from stores import TOKEN, StoreProcess

from streams.store._packing import pack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store that only answers, with a table of three rows."""
    with answering(tmp_path_factory.mktemp("store")) as process:
        yield process


def test_curl_asks_by_url_and_by_body(store: StoreProcess) -> None:
    """Curl, as in ClickHouse's documentation: the query in the URL, in the body, or half in each."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on this machine")
    login = ["-s", "-u", f"default:{READ_TOKEN}"]
    by_url = subprocess.check_output([curl, *login, f"{store.url}/?query=SELECT%201"])
    by_body = subprocess.check_output([curl, *login, store.url, "-d", "SELECT 1, 'a b'"])
    by_both = subprocess.check_output([curl, *login, f"{store.url}/?query=SELECT", "-d", "2 FORMAT JSONEachRow"])

    assert [b"1\n", b"1\ta b\n", b'{"2":2}\n'] == [by_url, by_body, by_both]


@pytest.mark.parametrize(
    ("asked", "format_"),
    [
        ({"query": "SELECT 1 FORMAT CSVWithNames"}, "CSVWithNames"),
        ({"query": "SELECT 1", "default_format": "JSONCompact"}, "JSONCompact"),
        ({"query": "SELECT 1", "h_X_ClickHouse_Format": "Pretty"}, "Pretty"),
        ({"query": "SELECT 1 FORMAT CSV", "h_X_ClickHouse_Format": "Pretty"}, "CSV"),
        ({"query": "SELECT 1"}, "TabSeparated"),
    ],
)
def test_the_format_is_the_statements_or_the_requests(store: StoreProcess, asked: dict[str, str], format_: str) -> None:
    """FORMAT in the statement wins over the header, the header over the URL; the answer says which it is."""
    reply = send(store, **asked)

    assert (200, format_) == (reply.status, reply.headers["x-clickhouse-format"])


def test_answers_say_who_and_how_much(store: StoreProcess) -> None:
    """The headers that clients read: the query's id, the server's name, and a summary."""
    reply = send(store, b"SELECT * FROM t", query_id="mine")

    assert "mine" == reply.headers["x-clickhouse-query-id"]
    assert reply.headers["x-clickhouse-server-display-name"]
    assert {"read_rows": "3", "result_bytes": str(len(reply.body))}.items() <= json.loads(
        reply.headers["x-clickhouse-summary"]
    ).items()


def test_parameters_are_bound_by_the_engine(store: StoreProcess) -> None:
    """A value is never SQL, whatever is in it."""
    reply = send(
        store, b"SELECT {x:String} AS s, {n:UInt8} + 1 AS m FORMAT JSONEachRow", param_x="'; DROP TABLE t", param_n="3"
    )

    assert {"s": "'; DROP TABLE t", "m": 4} == json.loads(reply.body)
    assert (400, 457) == (lambda r: (r.status, r.code))(send(store, b"SELECT {n:UInt8}", param_n="x"))


@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("SELECT nope", 404, 47),
        ("SELECT * FROM nope", 404, 60),
        ("SELECT nope()", 404, 46),
        ("SELEC 1", 400, 62),
        ("SELECT 1 FORMAT Nope", 500, 73),
        ("SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", 408, 159),
        ("SELECT number FROM numbers(200000)", 500, 396),
        ("SELECT repeat('x', 1000000) FROM numbers(20)", 500, 396),
        ("\udcff", 400, 36),
    ],
)
def test_errors_are_clickhouses(store: StoreProcess, sql: str, status: int, code: int) -> None:
    """An error has ClickHouse's code, text and status; a limit reached is an error, not a short answer."""
    reply = send(store, sql.encode(errors="surrogateescape"))

    assert (status, code) == (reply.status, reply.code)
    assert reply.body.startswith(f"Code: {code}. DB::Exception: ".encode())


def test_health_and_metrics(store: StoreProcess) -> None:
    """Health answers without a password, metrics are Prometheus's."""
    assert [200, 200] == [send(store, token="", path=f"/health/{check}").status for check in ("live", "ready")]
    assert b"headrace_sink_rows" in send(store, token="", path="/metrics").body


@pytest.mark.parametrize(
    ("accepted", "opened"),
    [("gzip", gzip.decompress), ("lz4", lz4.frame.decompress), ("gzip;q=0, lz4", lz4.frame.decompress)],
)
def test_answers_are_compressed_on_demand(store: StoreProcess, accepted: str, opened: object) -> None:
    """HTTP's compression comes where `enable_http_compression` asks for it, as with a server."""
    query = b"SELECT repeat('a', 10000)"
    plain = send(store, query, h_Accept_Encoding=accepted)
    packed = send(store, query, h_Accept_Encoding=accepted, enable_http_compression="1")

    assert "content-encoding" not in plain.headers
    assert len(packed.body) < 200
    assert plain.body == opened(packed.body)  # type: ignore[operator]


def test_bodies_may_be_compressed_but_not_without_end(store: StoreProcess) -> None:
    """A compressed body is read; one over the limit is refused, before or after it is unpacked."""
    bomb = gzip.compress(b"SELECT 1 --" + b" " * 50_000_000)

    assert b"7\n" == send(store, gzip.compress(b"SELECT 7"), h_Content_Encoding="gzip").body
    assert b"7\n" == send(store, pack(b"SELECT 7"), decompress="1").body
    assert 400 == send(store, bomb, h_Content_Encoding="gzip").status
    assert 413 == send(store, b"SELECT 1 --" + b" " * 2_000_000).status
    assert 400 == send(store, b"no gzip", h_Content_Encoding="gzip").status


def test_clickhouse_connect_reads(store: StoreProcess) -> None:
    """The client library's queries, Arrow, commands, parameters and errors work as with a server."""
    host, port = store.url.removeprefix("http://").split(":")
    client = clickhouse_connect.get_client(host=host, port=int(port), password=READ_TOKEN, database="headrace")
    everything = client.query(
        "SELECT a, s, n, [s, 'z'] AS l, map(s, a) AS m, (a, s) AS t, toDateTime64(a, 3, 'UTC') AS d FROM t ORDER BY a"
    )
    empty = client.query("SELECT a, s FROM t WHERE a > 100")
    arrow = client.query_arrow("SELECT a, toString(s) AS s FROM t ORDER BY a")

    assert (2, "y", None, ["y", "z"], {"y": 2}, (2, "y")) == everything.result_rows[1][:6]
    assert (("a", "s"), []) == (empty.column_names, empty.result_rows)
    assert [1, 2, 3] == arrow["a"].to_pylist()
    assert 3 == client.command("SELECT count() FROM t")
    assert [("it's\n\\",)] == client.query("SELECT {x:String}", parameters={"x": "it's\n\\"}).result_rows
    with pytest.raises(DatabaseError, match="code: 164"):
        client.command("DROP TABLE t")
    client.close()


def test_clickhouse_connect_writes_as_administrator(store: StoreProcess) -> None:
    """With the administrator's password tables are made, filled in three ways and dropped."""
    host, port = store.url.removeprefix("http://").split(":")
    client = clickhouse_connect.get_client(host=host, port=int(port), password=TOKEN, database="headrace")
    client.command("CREATE TABLE w (a UInt64, s LowCardinality(String)) ENGINE = MergeTree ORDER BY a")
    client.insert("w", [[1, "x"], [2, "y"]], column_names=["a", "s"])
    client.insert_arrow("w", pa.table({"a": pa.array([3], pa.uint64()), "s": ["z"]}))
    client.command("INSERT INTO w VALUES (4, 'q')")
    rows = client.query("SELECT a, s FROM w ORDER BY a").result_rows
    client.command("DROP TABLE w")

    assert [(1, "x"), (2, "y"), (3, "z"), (4, "q")] == rows
    client.close()


def test_query_command_prints_and_fails_readably(store: StoreProcess, tmp_path: Path) -> None:
    """`headrace query` prints tables, any format, and ClickHouse's own words with exit code 1."""
    url = store.url.replace("http://", f"http://default:{READ_TOKEN}@") + "/headrace"
    environment = {**os.environ, "HEADRACE_CLICKHOUSE": url, "HEADRACE_DATA": str(tmp_path)}

    def query(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "streams", "query", *arguments],
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    plain = query("SELECT a, s FROM t ORDER BY a LIMIT 2")
    lines = query(
        "-", "--format", "JSONEachRow", "--param", "least=3", given="SELECT a FROM t WHERE a >= {least:UInt8}"
    )
    table = query("-f", "table", "SELECT 'x' AS name, 2 AS n")
    wrong = query("SELECT nope")

    assert "a\ts\n1\tx\n2\ty\n" == plain.stdout
    assert '{"a":3}\n' == lines.stdout
    assert ["name", "n", "x", "2"] == table.stdout.split()[:4]
    assert (1, True) == (wrong.returncode, "Unknown expression identifier" in wrong.stderr)
    assert READ_TOKEN not in wrong.stderr
