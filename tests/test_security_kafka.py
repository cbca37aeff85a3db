"""TLS and SCRAM to Kafka: every process the whole way with its own user and rights, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from events import transaction
from secured import PROCESSES, USERS, Authority, SecuredBroker

from streams.cli._app import run
from streams.clients import UnreachableError, reach
from streams.errors import SetupError
from streams.local import endpoints
from streams.local.connection import kafka_config
from streams.local.topics import TopicsError, TopicSpec, ensure_topics
from streams.monitor._merchants import RISK
from streams.monitor.merchant_risk import GROUP
from streams.rights import rights
from streams.settings import KafkaSettings, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60.0
HOUR_MS = 3_600_000
EVENTS = 60
Captured = pytest.CaptureFixture[bytes]


class Site:
    """Users with exactly their rights, and their processes."""

    def __init__(
        self, secured: SecuredBroker, folder: Path, monkeypatch: pytest.MonkeyPatch, captured: Captured
    ) -> None:
        self.secured = secured
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._captured = captured
        for process, wanted in rights(Settings(), "fraud").items():
            secured.grant(process, wanted)

    def headrace(self, user: str, *words: str) -> list[Any]:
        """What a command prints as JSON lines when a user runs it."""
        for name, value in self.environment(user).items():
            self._monkeypatch.setenv(name, value)
        self._captured.readouterr()
        code = run(words)
        said = self._captured.readouterr()
        assert 0 == code, said.err
        return [json.loads(line) for line in said.out.splitlines()]

    def environment(self, user: str) -> dict[str, str]:
        """Of a process; the store and the commands that ask it share a data directory."""
        return self.secured.environment(user, self.folder / user)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Worker, store and monitor, each as its own user; logs are kept beside their data."""
        started = []
        try:
            for user, *words in (("worker", "worker", "fraud"), ("store", "store"), ("monitor", "monitor", "fraud")):
                with self.log(user).open("ab") as log:
                    started.append(
                        subprocess.Popen(command(*words), env=self.environment(user), stdout=log, stderr=log)
                    )
            yield
            assert [None] * 3 == [process.poll() for process in started], self.said()
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(30)

    def log(self, user: str) -> Path:
        """What a process says."""
        (self.folder / user).mkdir(parents=True, exist_ok=True)
        return self.folder / user / "log"

    def said(self) -> str:
        """Everything that the processes said."""
        return "".join(self.log(user).read_text() for user in ("worker", "store", "monitor"))

    def ready(self) -> bool:
        """Whether all three say so."""
        keys = {"worker": "metrics", "store": "store", "monitor": "monitor"}
        urls = [endpoints.read(self.folder / user).get(key, "") for user, key in keys.items()]
        return all(url and fine(f"{url}/health/ready") for url in urls)


def command(*words: str) -> list[str]:
    """The monitor sums soon, so that the test need not wait for a week of labels."""
    settings = ["monitor.label_delay_days=0.01", "monitor.keep_interval_s=0.3", "monitor.emit_interval_s=0.2"]
    return [sys.executable, "-m", "streams", *(part for s in settings for part in ("--set", s)), *words]


def fine(url: str) -> bool:
    """Whether a page answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_until(check: Callable[[], bool], site: Site, what: str) -> None:
    """Returns when the check holds; shows what the processes said where it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < deadline, f"{what} did not come: {site.said()[-4000:]}"
        time.sleep(0.2)


@pytest.mark.timeout(240)
def test_the_whole_way_with_tls_users_and_the_least_rights(
    secured: SecuredBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Captured
) -> None:
    """Every process does its work as a user of its own, over TLS, with the rights of the list and no other."""
    site = Site(secured, tmp_path, monkeypatch, capsysbinary)
    now = time.time_ns() // 1_000_000
    events = [
        transaction(event_id=f"e{i}", card=f"41111111111{i:05}", event_time=now - (EVENTS - i) * HOUR_MS // 4)
        for i in range(EVENTS)
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f"{json.dumps(event)}\n" for event in events) + "{broken\n")
    [made] = site.headrace("topics", "topics", "fraud", "--create", "--json")

    with site.running():
        wait_until(site.ready, site, "three ready processes")
        [produced] = site.headrace("producer", "produce", "fraud", str(file), "--send-invalid", "--json")
        wait_until(lambda: rows(site) == EVENTS, site, "the rows")
        results = site.headrace("consumer", "consume", "fraud-scores", "--json")
        [retried] = site.headrace("retry", "dlq", "retry", "fraud", "--json")
        wait_until(lambda: letters(site) == 2, site, "the dead letter of the second try")
        wait_until(lambda: figures(secured) > 0, site, "figures of the monitor")

    assert all(made.values())
    assert EVENTS + 1 == produced["delivered"]
    assert {event["event_id"] for event in events} == {result["value"]["event_id"] for result in results}
    assert 1 == retried["sent"]
    assert [] == [user for user in PROCESSES if USERS[user] in site.said()]
    assert '"level": "error"' not in site.said()


def rows(site: Site) -> int:
    """Scores in the store."""
    question = "SELECT count() FROM fraud_scores"
    return int(site.headrace("store", "query", question, "--format", "JSONCompactEachRow")[0][0])


def letters(site: Site) -> int:
    """Dead letters."""
    return int(site.headrace("retry", "dlq", "list", "fraud", "--json")[0]["total"])


def figures(secured: SecuredBroker) -> int:
    """Merchants that the monitor told of, whose group has committed what it read."""
    reader = Consumer({"bootstrap.servers": secured.plain, "group.id": GROUP, "log_level": 0})
    try:
        partitions = reader.list_topics(RISK, timeout=10).topics[RISK].partitions
        ends = [reader.get_watermark_offsets(TopicPartition(RISK, p), timeout=10)[1] for p in partitions]
        committed = reader.committed([TopicPartition("merchant-tallies", p) for p in range(4)], timeout=10)
        return sum(ends) if any(place.offset > 0 for place in committed) else 0
    finally:
        reader.close()


Changes = dict[str, str]
SAID: dict[str, tuple[Changes, str]] = {
    "wrong password": ({"sasl_password": "wrong-" * 3}, r"refuses the login: .*credentials.*check sasl\.username"),
    "no such user": ({"sasl_username": "nobody"}, r"refuses the login: .*that the user exists"),
    "other mechanism": ({"sasl_mechanism": "PLAIN"}, r"supported mechanisms: SCRAM-SHA-512; check .*sasl\.mechanism"),
    "unknown authority": ({"ssl_ca_location": "OTHER"}, r"TLS with .* fails: .*verif.*set ssl\.ca\.location"),
    "no TLS": ({"security_protocol": "PLAINTEXT"}, r"it wants TLS; set security\.protocol .* SASL_SSL"),
    "a user without TLS": ({"security_protocol": "SASL_PLAINTEXT"}, r"it wants TLS; set security\.protocol"),
}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that signed nothing here."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def changed(secured: SecuredBroker, stranger: Authority, changes: Changes) -> dict[str, str]:
    """The settings of a user with something wrong about them."""
    named = {name: str(stranger.file) if value == "OTHER" else value for name, value in changes.items()}
    return {**secured.config("worker", **named), "log_level": "0"}


@pytest.mark.parametrize("what", SAID)
def test_a_refused_client_says_at_once_what_to_do(secured: SecuredBroker, stranger: Authority, what: str) -> None:
    """Password, user, mechanism, authority, TLS: each error says in seconds what is wrong and what mends it."""
    changes, said = SAID[what]
    config = changed(secured, stranger, changes)
    began = time.monotonic()

    with pytest.raises(UnreachableError, match=said) as first:
        reach(config)
    with pytest.raises(TopicsError, match=said):
        ensure_topics(config, {"any": TopicSpec(1)})
    assert time.monotonic() - began < 10
    assert USERS["worker"] not in str(first.value)
    assert "wrong-wrong" not in str(first.value)


@pytest.mark.parametrize("words", [("produce", "fraud", "events.jsonl"), ("consume", "fraud-scores")])
def test_commands_pass_the_reason_on(
    secured: SecuredBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Any,
) -> None:
    """A command ends with 1 and the same sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.jsonl").write_text(json.dumps(transaction()) + "\n")
    for name, value in secured.environment("other", tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "password").write_text("not-the-password")

    code = run(words)

    error = capsys.readouterr().err
    assert 1 == code
    assert "refuses the login" in error
    assert "not-the-password" not in error


def test_a_store_does_not_wait_for_a_cluster_that_refuses_it(secured: SecuredBroker, tmp_path: Path) -> None:
    """Store and monitor leave with the reason instead of trying for ever."""
    environments = [secured.environment(user, tmp_path / user) for user in ("store", "monitor")]
    for user in ("store", "monitor"):
        (tmp_path / user / "password").write_text("wrong")
    started = [
        subprocess.Popen(command(*words), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words, env in zip((("store",), ("monitor", "fraud")), environments, strict=True)
    ]
    said = [process.communicate(timeout=PATIENCE_S)[0] for process in started]

    assert [1, 1] == [process.returncode for process in started]
    assert [True, True] == ["refuses the login" in text for text in said], said


def test_tls_to_a_plain_port_is_told(secured: SecuredBroker) -> None:
    """Where the client speaks TLS and the port does not, the error says so."""
    config = {**secured.config("worker"), "bootstrap.servers": secured.plain, "log_level": "0"}

    with pytest.raises(UnreachableError, match=r"it seems to speak no TLS; is security\.protocol"):
        reach(config, 2.0)


@pytest.mark.parametrize(
    ("security", "said"),
    [
        ({"ssl.ca.location": "/nowhere/ca.pem"}, r"ssl\.ca\.location names /nowhere/ca\.pem, which is not there"),
        ({"ssl.ca.loaction": "ca.pem"}, r'kafka\.security: .*"ssl\.ca\.loaction"'),
        ({"security.protocol": "SASL_SSL"}, r"kafka\.security: .*GSSAPI.*set sasl\.mechanism"),
        ({"security.protocol": "TLS"}, r'kafka\.security: .*"security\.protocol"'),
    ],
)
def test_what_no_client_can_use_is_told_before_anything_starts(security: dict[str, str], said: str) -> None:
    """Files that are not there, names that do not exist and a mechanism that nobody chose: one sentence each."""
    with pytest.raises(SetupError, match=said):
        kafka_config(Settings(kafka=KafkaSettings("here:9093", security)))


def test_nobody_at_home_is_not_taken_for_a_refusal() -> None:
    """Where nobody listens, nothing is said of TLS or passwords."""
    config = {"bootstrap.servers": "127.0.0.1:1", "security.protocol": "SSL", "log_level": "0"}

    with pytest.raises(UnreachableError, match=r"no broker answers at 127\.0\.0\.1:1: .*Is it running"):
        reach(config, 1.0)


def test_a_password_from_a_file_is_never_shown(secured: SecuredBroker, tmp_path: Path) -> None:
    """Neither the settings nor their origins nor their repr have it, however they are shown."""
    loaded = load_settings(env=secured.environment("worker", tmp_path))
    shown = repr(loaded.settings) + json.dumps(loaded.effective())

    assert USERS["worker"] == loaded.settings.kafka.security["sasl.password"]
    assert USERS["worker"] not in shown
    assert "HEADRACE_KAFKA__SECURITY__SASL_PASSWORD_FILE" in shown
