"""Files into topics and topics onto the screen, on a real broker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import orjson
import pytest
from commands import say, write

from schemas.envelope import Message
from schemas.topics import find_topic
from streams.cli import _decoding, _domain
from streams.cli._app import run
from streams.clients import Mover, UnreachableError, reach
from streams.local.topics import TopicSpec, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRANSACTION = find_topic("transactions")
LINE = b'{"event_id":"%d","card":"4111-%d","merchant":"m","amount":3.5,"event_time":"2026-01-01T00:00:00Z"}'


@pytest.fixture
def config(kafka: str) -> dict[str, str]:
    """How the clients of tests reach the broker."""
    return {"bootstrap.servers": kafka}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADRACE_KAFKA", kafka)


@pytest.fixture
def transactions(topic_name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of this test's own that stands for `transactions`."""
    topic = topic_name("transactions")
    own = msgspec.structs.replace(TRANSACTION, name=topic)
    monkeypatch.setattr(_domain, "input_topic", lambda _domain, _topic="": own)
    monkeypatch.setattr(_decoding, "topics", lambda: {topic: own})
    return topic


def test_what_is_produced_can_be_consumed(
    transactions: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Valid rows arrive byte for byte under their key; invalid ones are shown with line and field, and left out."""
    file = tmp_path / "events.jsonl"
    bad = LINE.replace(b"3.5", b"-3") % (2, 2)
    file.write_bytes(b"\n".join([LINE % (1, 1), bad, b"", b"nonsense", LINE % (5, 1)]) + b"\n")

    assert 0 == run(["produce", "fraud", str(file), "--json"])
    captured = capsysbinary.readouterr()
    messages = say(capsysbinary, "consume", transactions, "--json")

    assert {
        "topic": transactions,
        "delivered": 2,
        "invalid": {"invalid_field": 1, "empty_payload": 1, "invalid_json": 1},
        "sent_invalid": False,
    } == orjson.loads(captured.out)
    assert ["line 2: invalid_field $.amount", "line 3: empty_payload", "line 4: invalid_json"] == [
        line.rpartition(": ")[0] for line in captured.err.decode().splitlines()
    ]
    assert [("1", "4111-1"), ("5", "4111-1")] == [(one["value"]["event_id"], one["key"]) for one in messages]


def test_invalid_rows_can_be_sent_too(
    transactions: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """With --send-invalid everything is produced as it stands, and consume says what is wrong with it."""
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"nonsense\n\xff\xfe\n" + LINE % (1, 1))

    assert 0 == run(["produce", "fraud", str(file), "--send-invalid"])
    assert b"3 delivered" in capsysbinary.readouterr().out
    messages = say(capsysbinary, "consume", transactions, "--json")

    assert {("nonsense", "invalid_json"), (None, "invalid_json")} == {
        (value if isinstance(value := one["value"], str) else None, one["problem"])
        for one in messages
        if "problem" in one
    }


def test_equal_keys_share_a_partition_whoever_writes(
    transactions: str, tmp_path: Path, config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The partition of a key is the murmur2 hash of Java's producers, here for two keys whose hash is known."""
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(LINE % (i, i % 50) for i in range(200)))

    assert 0 == run(["produce", "fraud", str(file)])
    capsysbinary.readouterr()
    messages = say(capsysbinary, "consume", transactions, "--json")

    assert 200 == len(messages)
    assert all(one["partition"] == murmur2(one["key"].encode()) % 4 for one in messages)


def murmur2(data: bytes) -> int:
    """The positive hash of org.apache.kafka.common.utils.Utils.murmur2, written down from its description."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    for at in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = data[len(data) // 4 * 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def test_rate_holds(transactions: str, tmp_path: Path) -> None:
    """--rate spreads the events over the time that they need."""
    import time

    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(LINE % (i, i) for i in range(40)))
    assert 0 == run(["produce", "fraud", str(file), "--limit", "1"])
    began = time.monotonic()

    assert 0 == run(["produce", "fraud", str(file), "--rate", "100"])

    assert 0.35 < time.monotonic() - began < 5


def test_csv_goes_through_a_preset(
    transactions: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A preset of the domain names the columns; rows are counted from 1."""
    file = tmp_path / "events.csv"
    file.write_text(
        "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD\n"
        "1,2018-04-01 00:00:31,596,3156,57.16,0\n"
        "2,2018-04-01 00:02:10,4961,3412,-81.51,0\n"
    )

    assert 0 == run(["produce", "fraud", str(file), "--preset", "handbook"])
    assert b"row 2: invalid_field $.amount" in capsysbinary.readouterr().err
    [message] = say(capsysbinary, "consume", transactions, "--json")

    assert ("596", "1", 57.16) == (message["key"], message["value"]["event_id"], message["value"]["amount"])


def test_an_unknown_preset_is_told(transactions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A preset that is not there is an error that names the nearest."""
    file = tmp_path / "events.csv"
    file.touch()

    assert 1 == run(["produce", "fraud", str(file), "--preset", "sparkof"])
    assert "did you mean 'sparkov'?" in capsys.readouterr().err


def test_other_inputs_of_a_domain(kafka: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """--topic takes another input topic, with that topic's schema."""
    file = tmp_path / "labels.jsonl"
    file.write_text(
        '{"event_id":"1","merchant":"m","is_fraud":true,"event_time":1,"labelled_at":2}\n{"event_id":"1"}\n'
    )

    assert 0 == run(["produce", "fraud", str(file), "--topic", "transaction-labels", "--json"])
    assert {"missing_field": 1} == orjson.loads(capsysbinary.readouterr().out)["invalid"]
    assert 1 == run(["produce", "fraud", str(file), "--topic", "fraud-scores"])
    assert b"no input topic 'fraud-scores'" in capsysbinary.readouterr().err
    assert 1 == run(["produce", "nothing", str(file)])
    assert b"no domain 'nothing'; there are fraud" in capsysbinary.readouterr().err


def test_messages_that_do_not_fit_are_told(
    transactions: str, tmp_path: Path, config: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that the broker refuses makes the command fail: nothing is lost in silence."""
    ensure_topics(config, {transactions: TopicSpec(1, {"max.message.bytes": "1000"})})
    file = tmp_path / "events.jsonl"
    noise = "".join(str(hash(str(i))) for i in range(500))
    file.write_bytes(LINE.replace(b'"m"', b'"m","unknown":"%s"' % noise.encode()) % (1, 1))

    assert 1 == run(["produce", "fraud", str(file)])
    assert "1 messages were not delivered" in capsys.readouterr().err


def test_consume_counts_follows_and_begins_at_the_end(
    topic_name: Callable[..., str], config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """--count stops early; --from end waits for what comes next."""
    import threading

    topic = topic_name()
    ensure_topics(config, {topic: TopicSpec(2)})
    write(config, [Message(topic, b"k", b'{"n":%d}' % n) for n in range(3)])

    first = say(capsysbinary, "consume", topic, "--json", "--count", "2")
    later = threading.Timer(1.5, write, [config, [Message(topic, b"k", b'{"n":3}'), Message(topic, b"k", b"text")]])
    later.start()
    last = say(capsysbinary, "consume", topic, "--from", "end", "--count", "2", "--json")
    later.join()

    assert [{"n": 0}, {"n": 1}] == [one["value"] for one in first]
    assert [{"n": 3}, "text"] == [one["value"] for one in last]


def test_consume_shows_what_is_committed(
    topic_name: Callable[..., str], config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Messages of a transaction that never committed are not shown, and do not keep the command from ending."""
    from confluent_kafka import Producer

    topic, source = topic_name(), topic_name()
    ensure_topics(config, {topic: TopicSpec(1), source: TopicSpec(1)})
    mover = Mover(config, topic_name("group"), source)
    mover.move([Message(topic, None, b"1")], {0: (1, "")})
    mover.close()
    hanging = Producer({**config, "transactional.id": topic_name("hanging")})
    hanging.init_transactions()
    hanging.begin_transaction()
    hanging.produce(topic, b"2")
    hanging.flush()

    messages = say(capsysbinary, "consume", topic, "--json")
    hanging.abort_transaction()

    assert [1] == [one["value"] for one in messages]


def test_odd_bytes_are_shown(
    topic_name: Callable[..., str], config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Tombstones, bytes that are no text, headers, and keys that would move a cursor."""
    topic = topic_name()
    ensure_topics(config, {topic: TopicSpec(1)})
    write(
        config,
        [Message(topic, b"\x1b[2J", None, headers=(("h", b"\xff"), ("none", None))), Message(topic, None, b"\xff\x00")],
    )

    tombstone, binary = say(capsysbinary, "consume", topic, "--json")
    assert 0 == run(["consume", topic])
    plain = capsysbinary.readouterr().out

    assert ("\\x1b[2J", None, [["h", "\\xff"], ["none", None]]) == (
        tombstone["key"],
        tombstone["value"],
        tombstone["headers"],
    )
    assert (None, {"hex": "ff00"}) == (binary["key"], binary["value"])
    assert b"\x1b" not in plain
    assert 2 == len(plain.splitlines())


def test_a_missing_topic_is_told(kafka: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the cluster, and what there is."""
    assert 1 == run(["consume", "no-such-topic"])
    assert f"error: no topic 'no-such-topic' at {kafka}; this user sees " in capsys.readouterr().err


def test_no_broker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not answer is an error soon, not a wait for ever."""
    with pytest.raises(UnreachableError, match=r"no broker answers at 127\.0\.0\.1:1"):
        reach({"bootstrap.servers": "127.0.0.1:1"}, timeout_s=1)
