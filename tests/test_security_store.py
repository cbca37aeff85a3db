"""TLS and passwords between sink, ClickHouse, its readers and the store's own endpoint; an engine answers for real."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from secured import Authority
from stores import TOKEN, Input, StoreProcess, wait_until

from streams.cli._app import run
from streams.errors import SetupError
from streams.settings import ClickHouseSettings, Settings, StoreSettings
from streams.store._trust import trusting
from streams.store.asking import ask_over_http
from streams.store.client import StoreError, StoreRefusedError, open_store
from streams.store.service import StoreService
from streams.store.status import caught_up, fetch_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ_TOKEN = "read-and-nothing-else"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the certificates here."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that signed nothing here."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


class TlsStore(StoreProcess):
    """A store that speaks TLS; an engine behind a password, as ClickHouse servers are."""

    def __init__(self, folder: Path, authority: Authority, *addresses: str) -> None:
        certificate, key = authority.issue(f"store-{len(addresses)}", *addresses)
        self.ca_file = str(authority.file)
        limits = {"admin_token": TOKEN, "token": READ_TOKEN, "max_body_bytes": 64_000_000}
        limits |= {"tls_certificate": str(certificate), "tls_key_file": str(key)}
        super().__init__(folder, "127.0.0.1:1", sinks=False, store=limits)

    def ask(self, sql: str, **params: str) -> list[list[Any]]:
        """Rows of an answer, read with the reader's password."""
        answer = ask_over_http(self.url, READ_TOKEN, "headrace", sql, "JSONCompactEachRow", params, self.ca_file)
        return [json.loads(line) for line in answer.body.splitlines()]

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        return fetch_status(self.url, READ_TOKEN, 30, self.ca_file)

    def address(self, password: str = TOKEN, scheme: str = "https") -> str:
        """As `clickhouse.url` would name it."""
        return self.url.replace("https://", f"{scheme}://default:{password}@") + "/headrace"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsStore]:
    """An engine with TLS and passwords."""
    with TlsStore(tmp_path_factory.mktemp("server"), authority) as process:
        wait_until(lambda: bool(process.status()["ready"]), what="the server")
        yield process


def test_the_sink_writes_and_readers_read_over_tls(
    server: TlsStore, tmp_path: Path, kafka: str, topic_name: Callable[..., str]
) -> None:
    """Messages become rows of a server with TLS, by its administrator's password; a reader's password reads them."""
    source = Input(kafka, topic_name("readings"))
    source.commit(range(300))
    ends = {(source.topic, partition): 101 for partition in range(3)}
    options = {"url": server.address(), "ca_file": server.ca_file}
    with StoreProcess(tmp_path, kafka, source.topic, **options) as sink:
        wait_until(lambda: caught_up(sink.url, ends), what="the end")
        [[rows, different]] = server.ask("SELECT count(), uniqExact(number) FROM readings")
        said = sink.log.read_text()

    assert (300, 300) == (int(rows), int(different))
    assert TOKEN not in said


WRONG = {
    "another authority": (
        lambda server, other: (server.address(), str(other)),
        r"TLS .* fails.*set clickhouse\.ca_file",
    ),
    "no authority": (lambda server, _: (server.address(), ""), r"TLS .* fails.*set clickhouse\.ca_file"),
    "wrong password": (
        lambda server, _: (server.address("wrong"), server.ca_file),
        r"Code: 516.*AUTHENTICATION_FAILED",
    ),
    "no password": (lambda server, _: (server.url, server.ca_file), r"Code: 194.*REQUIRED_PASSWORD"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_work_is_refused_at_once(server: TlsStore, stranger: Authority, what: str) -> None:
    """Authority and password: the sink's client and that of questions say the same, and neither shows a password."""
    make, said = WRONG[what]
    url, ca_file = make(server, stranger.file)
    store = open_store(ClickHouseSettings(url, ca_file=ca_file), server.log.parent)

    with pytest.raises(StoreRefusedError, match=said) as first:
        store.rows("SELECT 1")
    with pytest.raises(StoreRefusedError, match=said):
        ask_over_http(url, "", "headrace", "SELECT 1", "JSON", ca_file=ca_file)
    assert TOKEN not in str(first.value)
    assert "wrong@" not in str(first.value)


def test_a_certificate_of_another_name_is_refused(tmp_path: Path, authority: Authority) -> None:
    """The right authority is not enough: the certificate must be for the address that was asked."""
    with TlsStore(tmp_path, authority, "elsewhere.example") as server:
        with pytest.raises(StoreRefusedError, match=r"TLS .* fails.*or ask by its name"):
            ask_over_http(server.url, READ_TOKEN, "headrace", "SELECT 1", "JSON", ca_file=server.ca_file)
        with pytest.raises(StoreRefusedError, match=r"TLS .* fails.*or ask by its name"):
            open_store(ClickHouseSettings(server.address(), ca_file=server.ca_file), tmp_path).rows("SELECT 1")


def test_tls_to_a_port_without_it_is_told(tmp_path: Path, authority: Authority) -> None:
    """Where https is asked of a plain port, the error says so; and plain HTTP gets nothing from a TLS port."""
    with StoreProcess(tmp_path, "127.0.0.1:1", sinks=False) as plain:
        url = plain.url.replace("http://", "https://")
        with pytest.raises(StoreRefusedError, match=r"TLS .* fails.*it seems to speak no TLS"):
            ask_over_http(url, "", "headrace", "SELECT 1", "JSON", ca_file=str(authority.file))
        with pytest.raises(StoreRefusedError, match=r"TLS .* fails.*it seems to speak no TLS"):
            open_store(ClickHouseSettings(url, ca_file=str(authority.file)), tmp_path).rows("SELECT 1")


def test_a_tls_port_answers_nothing_in_the_clear(server: TlsStore) -> None:
    """Neither SQL, nor state, metrics or health are to be had without TLS."""
    for path in ("/?query=SELECT+1", "/status", "/metrics", "/health/live"):
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(server.url.replace("https://", "http://") + path, timeout=10)
    with pytest.raises(StoreError):
        ask_over_http(server.address(scheme="http"), "", "headrace", "SELECT 1", "JSON")


def test_old_protocols_are_not_spoken(server: TlsStore) -> None:
    """TLS 1.1 and older end in a failed handshake."""
    context = trusting(server.ca_file)
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{server.url}/health/live", timeout=10, context=context)


def test_the_query_command_trusts_the_authority_of_the_settings(
    server: TlsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`headrace query` asks over TLS by a URL from a file and `clickhouse.ca_file`; without, it says what to set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "url").write_text(server.address(READ_TOKEN) + "\n")
    monkeypatch.setenv("HEADRACE_CLICKHOUSE_FILE", str(tmp_path / "url"))

    assert 1 == run(("query", "SELECT 41 + 1"))
    refused = capfdbinary.readouterr().err.decode()
    monkeypatch.setenv("HEADRACE_CLICKHOUSE__CA_FILE", server.ca_file)
    assert 0 == run(("query", "SELECT 41 + 1", "--format", "TabSeparated"))
    assert b"42\n" == capfdbinary.readouterr().out
    assert "set clickhouse.ca_file" in refused
    assert READ_TOKEN not in refused


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("there", "", "belong together: set both, or neither"),
        ("", "there", "belong together: set both, or neither"),
        ("there", "/nowhere", r"store\.tls_key_file names /nowhere, which is not there"),
        ("/nowhere", "there", r"store\.tls_certificate names /nowhere, which is not there"),
        ("there", "other", "cannot be used together"),
    ],
)
def test_certificates_that_cannot_be_shown_stop_the_start(
    tmp_path: Path, authority: Authority, certificate: str, key: str, said: str
) -> None:
    """Half a pair, a missing file, a key of another certificate: the store says so and does not start."""
    own, other = authority.issue("own"), authority.issue("other")
    places = {"there": 0, "other": 1}
    files = [
        str((own, other)[places[one]][side]) if one in places else one for side, one in enumerate((certificate, key))
    ]
    settings = Settings(data=tmp_path, store=StoreSettings(tls_certificate=files[0], tls_key_file=files[1]))

    with pytest.raises(SetupError, match=said):
        StoreService(settings, {}, [], sinks=False)


def test_an_authority_that_is_no_file_is_named(tmp_path: Path) -> None:
    """Before the first connection."""
    with pytest.raises(SetupError, match=r"clickhouse\.ca_file: /nowhere cannot be used: No such file"):
        open_store(ClickHouseSettings("https://here:8443", ca_file="/nowhere"), tmp_path)
