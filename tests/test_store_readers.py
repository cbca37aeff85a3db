"""What a reader of the store's endpoint can not do: change, reach out, exhaust, or come without a password."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_asked import READ_TOKEN, answering, send
from stores import TOKEN, StoreProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store that only answers, with a table of three rows."""
    with answering(tmp_path_factory.mktemp("store")) as process:
        yield process


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
