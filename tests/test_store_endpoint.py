"""The endpoint speaks ClickHouse's HTTP interface to real clients, and lets readers only read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import TOKEN, StoreProcess, wait_until

from streams.store._native import frame
from streams.store._packing import CorruptBodyError, pack, unpack

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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store that only answers, with a table of three rows."""
    folder = tmp_path_factory.mktemp("store")
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


WRITES = [
    "INSERT INTO t (a) VALUES (9)",
    'INSERT INTO t FORMAT JSONEachRow\n{"a": 9}',
    "/* SELECT */ INSERT INTO t SELECT 9, '', 0",
    "DROP TABLE t",
    "DROP /* harmless */ TABLE t",
    "TRUNCATE TABLE t",
    "ALTER TABLE t DELETE WHERE 1",
    "CREATE TABLE u (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE u (a Int8)",
    "CREATE FUNCTION f AS x -> x",
    "CREATE USER u",
    "SET readonly = 0",
    "SET max_execution_time = 0",
    "USE system",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
    "OPTIMIZE TABLE t FINAL",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE t TO Disk('a', 'b')",
    "EXECUTE AS default SELECT 1",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1; DROP TABLE t",
    "SELECT 1;\n-- and then\nDROP TABLE t",
    "SELECT 1 /* ; */ ; SELECT 2",
    "SELECT 1 PARALLEL WITH DROP TABLE t",
]
REACHES_OUT = [
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "SELECT FILE('/etc/passwd')",
    "SELECT file /* now */ ('/etc/passwd')",
    "WITH (SELECT file('/etc/passwd')) AS x SELECT x",
    "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
    "EXPLAIN SELECT file('/etc/passwd')",
    "DESCRIBE TABLE file('/etc/passwd', 'LineAsString')",
    "DESCRIBE (SELECT file('/etc/passwd'))",
    "SELECT * FROM view(SELECT file('/etc/passwd'))",
    "SELECT * FROM eval('SELECT file(''/etc/passwd'')')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/key.csv', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM executable('ls', 'TSV', 'a String')",
    "CREATE TABLE f (a String) ENGINE = File(CSV, '/etc/passwd')",
    "CREATE TABLE f (a String) ENGINE = URL('http://127.0.0.1:1/', 'CSV')",
    "CREATE TABLE f (a String) ENGINE = Executable('ls', 'TSV')",
    "CREATE DATABASE f ENGINE = MySQL('127.0.0.1:1', 'd', 'u', 'p')",
    "CREATE TABLE f AS file('/etc/passwd', 'LineAsString')",
    "INSERT INTO t (s) FROM INFILE '/etc/passwd' FORMAT LineAsString",
    "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM sqlite('{out}', 't')",
    "SELECT * FROM sqlite('/', 't')",
    "DESCRIBE TABLE SQLite('{out}', 't')",
    "CREATE TABLE hole (a Int8) ENGINE = SQLite('{out}', 't')",
    "CREATE DATABASE hole ENGINE = SQLite('{out}')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM Python(os)",
    "SELECT 1 INTO OUTFILE '{out}'",
    "(SELECT 1) INTO OUTFILE '{out}'",
    "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{out}' TRUNCATE FORMAT CSV",
    "SHOW TABLES INTO OUTFILE '{out}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{out}'",
    "DESCRIBE TABLE t INTO OUTFILE '{out}'",
    "INSERT INTO FUNCTION file('{out}', 'CSV', 'a Int8') SELECT 1",
]


@pytest.mark.parametrize("sql", WRITES)
def test_readers_change_nothing(store: StoreProcess, sql: str) -> None:
    """Whatever a reader sends, the table stays as it was, and the answer is ClickHouse's refusal."""
    reply = send(store, sql.encode())
    rows = store.ask("SELECT count(), sum(a) FROM t")

    assert reply.status in (400, 403, 404)
    assert reply.code in (62, 164, 446, 497)
    assert [[3, 6]] == [[int(value) for value in row] for row in rows]


@pytest.mark.parametrize("sql", REACHES_OUT)
@pytest.mark.parametrize("token", [READ_TOKEN, TOKEN], ids=["reader", "administrator"])
def test_nobody_reaches_files_or_the_network(store: StoreProcess, tmp_path: Path, sql: str, token: str) -> None:
    """Neither a reader nor an administrator gets out of the tables."""
    out = tmp_path / "out"
    reply = send(store, sql.replace("{out}", str(out)).encode(), token=token)

    assert reply.status in (400, 403, 404)
    assert b"root:" not in reply.body
    assert not out.exists()


def test_a_get_never_writes(store: StoreProcess) -> None:
    """As with a server, even an administrator's GET only reads."""
    reply = send(store, token=TOKEN, query="DROP TABLE t")

    assert (403, 164) == (reply.status, reply.code)


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


def test_limits_can_be_lowered_but_not_raised(store: StoreProcess) -> None:
    """A client may ask for less than the limit; for more it still gets the limit."""
    query = b"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
    began = time.monotonic()
    lower = send(store, query, max_execution_time="0.3")
    between = time.monotonic()
    higher = send(store, query, max_execution_time="600")
    none = send(store, b"SELECT number FROM numbers(200000)", max_result_rows="0")

    assert [159, 159, 396] == [lower.code, higher.code, none.code]
    assert between - began < 2
    assert time.monotonic() - between < 20


def test_settings_of_clients_are_taken_or_named(store: StoreProcess) -> None:
    """Settings that shape the answer are taken; those that are not are named in a header, not an error."""
    taken = send(store, b"SELECT toUInt64(1) AS n FORMAT JSONEachRow", output_format_json_quote_64bit_integers="1")
    left = send(store, b"SELECT 1", readonly="0", async_insert="1")

    assert b'{"n":"1"}\n' == taken.body
    assert "async_insert,readonly" == left.headers["x-headrace-ignored-settings"]


def test_passwords_are_asked_for_and_compared(store: StoreProcess) -> None:
    """Basic, Bearer, header and URL carry the password; none is 401, a wrong one 403; /ping needs none."""
    import base64

    basic = base64.b64encode(f"anybody:{READ_TOKEN}".encode()).decode()
    given = [
        send(store, b"SELECT 1", token="", h_Authorization=f"Basic {basic}"),
        send(store, b"SELECT 1", token="", h_Authorization=f"Bearer {READ_TOKEN}"),
        send(store, b"SELECT 1", token="", user="default", password=READ_TOKEN),
        send(store, b"SELECT 1", token=READ_TOKEN),
    ]

    assert [200] * 4 == [reply.status for reply in given]
    assert (401, 194) == (lambda r: (r.status, r.code))(send(store, b"SELECT 1", token=""))
    assert (403, 516) == (lambda r: (r.status, r.code))(send(store, b"SELECT 1", token="wrong"))
    assert 401 == send(store, token="", path="/status").status
    assert b"Ok.\n" == send(store, token="", path="/ping").body
    assert b"Ok.\n" == send(store, token="", path="/replicas_status").body


def test_without_a_password_a_foreign_name_is_refused(tmp_path: Path) -> None:
    """A web page cannot read the store through a name of its own that points to this machine."""
    with StoreProcess(tmp_path, "127.0.0.1:1", sinks=False) as open_store:
        reply = send(open_store, b"SELECT 1", token="", h_Host="evil.example:80")
        local = send(open_store, b"SELECT 1", token="")

    assert (403, 200) == (reply.status, local.status)


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


def go_client(store: StoreProcess, query: bytes, **url: str) -> Reply:
    """What clickhouse-go, and so Grafana's data source with protocol HTTP, sends: recorded from its source."""
    return send(store, query, default_format="Native", client_protocol_version="54460", max_execution_time="60", **url)


def read_blocks(data: bytes) -> list[tuple[list[tuple[str, str]], int]]:
    """Names, types and row count of Native blocks of revision 54460, for columns of UInt64 alone."""
    blocks, at = [], 0
    while at < len(data):
        assert data[at : at + 8] == b"\x01\x00\x02\xff\xff\xff\xff\x00"
        columns, rows = data[at + 8], data[at + 9]
        at += 10
        found = []
        for _ in range(columns):
            name = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
            kind = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
            assert data[at] == 0
            at += 1 + 8 * rows
            found.append((name.decode(), kind.decode()))
        blocks.append((found, rows))
    return blocks


def test_grafanas_requests_are_answered(store: StoreProcess) -> None:
    """Its greeting, queries in gzip and in ClickHouse's own blocks, and answers without rows are as it expects."""
    hello = go_client(store, b"SELECT displayName(), version(), revision(), timezone()")
    query = b"SELECT a, a + 1 AS b FROM t"
    plain = go_client(store, query, h_Accept_Encoding="gzip")
    zipped = go_client(store, query, h_Accept_Encoding="gzip", enable_http_compression="1")
    blocks = go_client(store, query, compress="1")
    empty = go_client(store, b"SELECT a FROM t WHERE 0")
    failed = go_client(store, b"SELECT nope", compress="1")

    assert b"UInt32" in hello.body
    assert [([("a", "UInt64"), ("b", "UInt64")], 3)] == read_blocks(plain.body)
    assert plain.body == gzip.decompress(zipped.body) == unpack(blocks.body, 10**6)
    assert [([("a", "UInt64")], 0)] == read_blocks(empty.body)
    assert unpack(failed.body, 10**6).startswith(b"Code: 47.")


TYPES = [
    "a",
    "s",
    "n",
    "toString(a)",
    "[a, 1]",
    "arrayFilter(x -> 0, [s])",
    "[s]",
    "map(s, [a])",
    "(a, s, [(s, a)])",
    "toLowCardinality(toNullable(s))",
    "CAST(a AS Enum8('a, (b' = 1, 'c' = 2, 'd' = 3))",
    "toDecimal128(a, 3)",
    "toDateTime64(a, 6, 'UTC')",
    "toUUID('00000000-0000-0000-0000-00000000000' || toString(a))",
    "repeat(toString(s), 200)",
    "toFixedString(toString(s), 4)",
    "NULL",
    "[NULL, a]",
    "CAST([(1, 'x')] AS Nested(`a b` UInt8, c String))",
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(TYPES), min_size=1, max_size=6), st.sampled_from([1, 2, 65_536]))
def test_every_protocol_version_gets_the_same_rows(store: StoreProcess, columns: list[str], block: int) -> None:
    """Framed for a client's version, an answer holds the same columns: only the marks between them differ."""
    query = f"SELECT {', '.join(f'{column} AS c{at}' for at, column in enumerate(columns))} FROM t ORDER BY a"
    ask = {"default_format": "Native", "max_block_size": str(block)}
    old = send(store, query.encode(), **ask)
    new = send(store, query.encode(), client_protocol_version="54460", **ask)
    blocks = new.body.count(b"\x01\x00\x02\xff\xff\xff\xff\x00")

    assert 200 == new.status
    assert frame(old.body, 54460) == new.body
    assert len(old.body) + blocks * (8 + len(columns)) == len(new.body)


@given(st.binary(max_size=5000), st.integers(0, 4999), st.integers(1, 255))
def test_blocks_are_packed_and_checked(body: bytes, at: int, change: int) -> None:
    """What is packed is unpacked again; one changed byte is noticed, never another content."""
    packed = bytearray(pack(body))

    assert body == unpack(bytes(packed), 10_000)
    if packed:
        packed[at % len(packed)] ^= change
        with pytest.raises(CorruptBodyError):
            unpack(bytes(packed), 10_000)


@given(st.binary(max_size=300))
def test_unpacking_survives_any_bytes(body: bytes) -> None:
    """Bytes that are no blocks are an error of ours, not a crash."""
    with suppress(CorruptBodyError):
        unpack(body, 10_000)


def test_blocks_have_clickhouses_own_checksums(store: StoreProcess) -> None:
    """The engine's files on disk are the same blocks: they unpack, so the checksum is ClickHouse's."""
    store.ask(
        "CREATE TABLE c (a UInt64 CODEC(LZ4), b UInt64 CODEC(ZSTD(1)), c UInt64 CODEC(NONE)) ENGINE = MergeTree"
        " ORDER BY a SETTINGS min_bytes_for_wide_part = 0"
    )
    store.ask("INSERT INTO c SELECT number, number, number FROM numbers(50000)")
    [[path]] = store.ask("SELECT path FROM system.parts WHERE table = 'c' AND active")
    found = [unpack((Path(path) / f"{column}.bin").read_bytes(), 10**6) for column in "abc"]

    assert [struct.pack("<50000Q", *range(50_000))] * 3 == found


def test_queries_beyond_the_limit_wait_and_the_rest_goes_on(store: StoreProcess) -> None:
    """Slow queries fill their places; others wait for one, while state and health are answered at once."""
    slow = b"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
    running = [threading.Thread(target=send, args=(store, slow)) for _ in range(2)]
    for thread in running:
        thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    health = send(store, token="", path="/health/live")
    answered = time.monotonic() - began
    waited = send(store, b"SELECT 1")
    for thread in running:
        thread.join()

    assert (200, 200) == (health.status, waited.status)
    assert answered < 1.5


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
