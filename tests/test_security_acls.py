"""The list of rights is what Kafka asks for: with all of it everything works, and what is missing is named."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from commands import say
from events import transaction
from test_security_kafka import PATIENCE_S, command

from schemas.envelope import Message
from streams.cli._app import run
from streams.clients import Reader, UnreachableError, Writer
from streams.groups import state_keys
from streams.local.allowed import DeniedError, missing_rights, require_some
from streams.local.topics import TopicsError
from streams.monitor.run import ensure
from streams.rights import PROCESSES, Process, Right, rights
from streams.running import ensure_domain_topics
from streams.settings import ClickHouseSettings, Settings, StoreSettings, WorkerSettings
from streams.top.offsets import AskedKafka

if TYPE_CHECKING:
    from pathlib import Path

    from secured import SecuredBroker

WANTED = rights(Settings(), "fraud")


@pytest.fixture(scope="module")
def ready(secured: SecuredBroker) -> SecuredBroker:
    """The broker with all topics of the domain, made by somebody else."""
    plain = {"bootstrap.servers": secured.plain}
    ensure_domain_topics(Settings(), "fraud", plain)
    ensure(plain, Settings())
    return secured


@pytest.mark.parametrize("process", [process for process in PROCESSES if process in WANTED])
def test_every_missing_right_is_named(ready: SecuredBroker, process: Process) -> None:
    """Whichever half of its rights on topics and groups a process lacks, Kafka's answer names exactly that half."""
    wanted = [right for right in WANTED[process] if right.resource != "transactional-id"]
    for first in (0, 1):
        granted = wanted[first::2]
        ready.revoke("other")
        ready.grant("other", granted)

        told = missing_rights(ready.config("other"), WANTED[process])

        assert {*map(str, wanted)} - {*map(str, granted)} | unseen(granted) == {*map(str, told)}


def unseen(granted: list[Right]) -> set[str]:
    """Rights that Kafka does not tell of: it describes a topic only to those who may describe, read or write it."""
    seen = {right.name for right in granted if right.operation in ("Describe", "Read", "Write")}
    return {str(right) for right in granted if right.name not in seen}


LACKING: dict[str, tuple[Process, str, tuple[str, ...]]] = {
    "worker-less": ("worker", "Write topic fraud-scores", ("worker", "fraud")),
    "worker-else": ("worker", "Write transactional-id headrace-fraud-*", ("worker", "fraud")),
    "store-less": ("store", "Read topic fraud-scores", ("store",)),
    "monitor-less": ("monitor", "Write topic merchant-risk", ("monitor", "fraud")),
}


@pytest.mark.timeout(180)
def test_a_process_without_a_right_leaves_and_names_it(ready: SecuredBroker, tmp_path: Path) -> None:
    """Worker, store and monitor do not start where they could not do their work, and say which right they lack."""
    started = {}
    for user, (process, lacking, words) in LACKING.items():
        ready.grant(user, [right for right in WANTED[process] if str(right) != lacking])
        started[user] = subprocess.Popen(
            command(*words),
            env=ready.environment(user, tmp_path / user),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    said = {user: process.communicate(timeout=PATIENCE_S)[0] for user, process in started.items()}
    ended = {user: process.returncode for user, process in started.items()}

    assert dict.fromkeys(LACKING, 1) == ended, said
    for user in ("worker-less", "store-less", "monitor-less"):
        assert LACKING[user][1] in said[user]
        assert "headrace acls" in said[user]
    assert "needs Write on the transactional id headrace-fraud-0" in said["worker-else"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("consume", "fraud-scores"), "no topic 'fraud-scores'"),
        (("produce", "fraud", "events.jsonl"), "topic transactions is not there, or this user may not see it"),
        (("dlq", "retry", "fraud"), "no topic 'fraud.dead-letters'"),
        (("topics", "fraud", "--create"), "topic transactions is not there, or this user may not see it"),
        (("acls", "fraud", "--check", "-p", "worker"), "missing: Write topic fraud-scores (results)"),
    ],
)
def test_commands_of_a_user_without_rights_say_so(
    ready: SecuredBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    """A command ends with 1 and says what this user does not see, or lacks."""
    ready.revoke("other")
    come_as(ready, "other", tmp_path, monkeypatch)
    (tmp_path / "events.jsonl").write_text(json.dumps(transaction()) + "\n")

    code = run(words)

    printed = capsys.readouterr()
    assert 1 == code
    assert said in printed.out + printed.err


def come_as(secured: SecuredBroker, user: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process come as a user from now on."""
    monkeypatch.chdir(folder)
    for name, value in secured.environment(user, folder).items():
        monkeypatch.setenv(name, value)


def test_a_user_with_all_rights_is_told_so(
    ready: SecuredBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`headrace acls --check` ends with 0 where nothing is missing."""
    ready.grant("worker", WANTED["worker"])
    come_as(ready, "worker", tmp_path, monkeypatch)

    assert 0 == run(("acls", "fraud", "--check", "--process", "worker"))
    assert "all 14 rights are there" in capsys.readouterr().out


def test_nobody_but_the_maker_of_topics_may_make_any(ready: SecuredBroker) -> None:
    """No process but `topics` has Create, and none has a right on the cluster: topics made beforehand are enough."""
    makers = {process for process, wanted in WANTED.items() for right in wanted if right.operation == "Create"}
    ready.revoke("other")
    ready.grant("other", WANTED["worker"])

    assert {"topics"} == makers
    with pytest.raises(TopicsError, match=r"topic monitor\.dead-letters is not there, or this user may not see it"):
        ensure(ready.config("other"), Settings())


def test_an_observer_sees_the_lag_and_nothing_else(ready: SecuredBroker) -> None:
    """What `headrace top` and autoscalers ask is answered, and no message may be read."""
    ready.revoke("other")
    ready.grant("other", WANTED["observer"])
    config = ready.config("other")

    seen = AskedKafka(config, {"fraud": ("transactions", "headrace-fraud")}).ask()

    assert {0, 1, 2, 3} == set(seen["fraud"].end)
    with pytest.raises(UnreachableError, match="lacks a right on the topic"), Reader(config, "transactions") as reader:
        list(reader.records(follow=True))


def test_a_reset_needs_no_more_than_its_rights(
    ready: SecuredBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Whoever has them, and is no worker, moves the group and drops its state."""
    settings = Settings(worker=WorkerSettings(group="moved"))
    plain = {"bootstrap.servers": ready.plain}
    ensure_domain_topics(settings, "fraud", plain)
    with Writer(plain) as writer:
        writer.send(Message("moved-fraud-changelog", b"key", b"entry", partition=1))
    ready.revoke("other")
    ready.grant("other", rights(settings, "fraud")["reset"])
    come_as(ready, "other", tmp_path, monkeypatch)

    [told] = say(
        capsysbinary, "-s", "worker.group=moved", "reset", "fraud", "--to", "latest", "--state", "--yes", "--json"
    )

    assert {0: 0, 1: 1, 2: 0, 3: 0} == {move["partition"]: move["state_entries"] for move in told["partitions"]}
    assert {0: [], 1: [], 2: [], 3: []} == state_keys(ready.config("other"), "moved-fraud-changelog", range(4))


def test_a_store_leaves_out_what_is_somebody_elses(ready: SecuredBroker) -> None:
    """A domain of which nothing may be read is left out; one that may be read in part, or none, is an error."""
    mine, half, theirs = (Right("Read", "topic", name, "rows") for name in ("fraud-scores", "transactions", "else"))
    ready.revoke("other")
    ready.grant("other", [mine])
    config = ready.config("other")

    assert ["theirs"] == require_some(config, {"mine": [mine], "theirs": [theirs]}, "store")
    with pytest.raises(DeniedError, match=r"lacks:\nRead topic transactions"):
        require_some(config, {"mine": [mine, half], "theirs": [theirs]}, "store")
    with pytest.raises(DeniedError, match="Read topic else"):
        require_some(config, {"theirs": [theirs]}, "store")


def test_a_broker_without_an_authorizer_lets_everybody(kafka: str) -> None:
    """Where nothing is forbidden nothing is missing, also of topics that are not there."""
    assert [] == missing_rights({"bootstrap.servers": kafka}, WANTED["worker"])


def test_rights_follow_the_settings() -> None:
    """Groups, transactional ids and the changelog are those of the settings; a server's sinks are a group."""
    settings = Settings(
        worker=WorkerSettings(group="scoring"),
        clickhouse=ClickHouseSettings("https://me:secret@there:8443/lake"),
        store=StoreSettings(),
    )
    found = rights(settings, "fraud")

    assert {"Read group scoring", "Write transactional-id scoring-fraud-*", "Write topic scoring-fraud-changelog"} <= {
        *map(str, found["worker"])
    }
    assert "Read group headrace-sink-lake" in [*map(str, found["store"])]
    assert not any("secret" in str(right) for wanted in found.values() for right in wanted)


def test_the_command_prints_lines_of_kafkas_own_tool(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per right, for the principals that were named."""
    assert 0 == run(
        ("--set", "kafka.bootstrap=k:9093", "acls", "fraud", "-p", "worker", "--principal", "worker=User:me")
    )
    first, *lines = capsys.readouterr().out.splitlines()
    split = [shlex.split(line) for line in lines]

    assert "# worker" == first
    assert len(WANTED["worker"]) == len(split)
    start = ["kafka-acls.sh", "--bootstrap-server", "k:9093", "--add", "--allow-principal", "User:me", "--operation"]
    assert [*start, "Read", "--topic", "transactions"] == split[0]
    prefixed = ["--transactional-id", "headrace-fraud-", "--resource-pattern-type", "prefixed"]
    assert [*start, "Write", *prefixed] in split


def test_the_command_prints_json(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """The same as objects, for those who manage ACLs by other means."""
    printed = say(capsysbinary, "acls", "fraud", "--process", "retry", "--json")

    assert [str(right) for right in WANTED["retry"]] == [
        str(Right(**{name: line[name] for name in Right._fields})) for line in printed
    ]
    assert {"User:headrace-retry"} == {line["principal"] for line in printed}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("acls", "fraud", "-p", "wrker"), "fraud has no wrker; there are worker, store"),
        (("acls", "fraud", "--principal", "me"), "'me' is no PROCESS=NAME"),
        (("acls", "froud"), "froud"),
    ],
)
def test_wrong_words_are_told(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    """A process, a principal or a domain that does not exist is named."""
    assert 0 != run(words)
    assert said in " ".join(capsys.readouterr().err.split())
