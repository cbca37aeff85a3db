"""Input as nobody should send it: every message ends as one score or one dead letter, and the others do not notice."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from bad_values import BAD_VALUES, LARGE, NOW, SCORED, good
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from harness import end_offsets, processes
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutations import FORGED, Sent, as_records, draw_many, messages, numbered
from test_exactly_once import ask, read_all

from schemas.clickhouse import read_rows, tables, to_arrow
from schemas.dead_letter import from_record, to_message
from schemas.envelope import Message, Record, Reject
from schemas.fraud import FraudScore
from streams.chaos.raw_headers import send_with_header
from streams.cli._app import run
from streams.inference import Outcome, infer_all
from streams.loading import Opened, open_domain
from streams.local import endpoints
from streams.local.broker import Broker
from streams.local.supervisor import headrace_command
from streams.local.topics import TopicSpec, ensure_topics
from streams.running import ensure_domain_topics, group_of
from streams.settings import Settings

EVENTS = 10_000
LETTERS = "fraud.dead-letters"
TABLES = {table.topic: table for table in tables()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The model of the repository, loaded and warm."""
    return open_domain(Settings(data=tmp_path_factory.mktemp("data")), "fraud")


def infer_afresh(opened: Opened, records: Sequence[Record], max_size: int = 512) -> list[Outcome]:
    """What a processor makes of the records that has no history of their partition."""
    return list(infer_all(opened.processor, opened.session, records, lambda: NOW + 20, max_size))


def told(outcome: Outcome) -> tuple[str, str]:
    """Reason and path of a reject; ("scored", event id) of a score."""
    _, answer = outcome
    if isinstance(answer, Reject):
        return answer.reason, answer.path
    return "scored", json.loads(answer.value or b"")["event_id"]


# One by one.


@pytest.mark.parametrize("name", BAD_VALUES)
def test_each_kind_of_bad_input_has_its_reason(opened: Opened, name: str) -> None:
    """What is wrong with a message decides its reason and path, between good neighbours as alone."""
    value, expected = BAD_VALUES[name]
    around = good().replace(b"event-1", b"before"), value, good().replace(b"event-1", b"after")

    outcomes = infer_afresh(opened, as_records([Sent(each) for each in around], NOW))

    assert [("scored", "before"), expected, ("scored", "after")] == list(map(told, outcomes))


@pytest.mark.parametrize("key", [None, b"", b"\xff\xfe", b"somebody else's"])
def test_key_decides_nothing_but_the_partition(opened: Opened, key: bytes | None) -> None:
    """Null keys, empty keys and keys that are no card are scored by the card in the value; a dead letter keeps them."""
    records = as_records([Sent(good(), key), Sent(b"x", key)], NOW)

    score, reject = infer_afresh(opened, records)

    assert contents([score]) == contents(infer_afresh(opened, as_records([Sent(good())], NOW)))
    assert key == to_message(reject[1], LETTERS, NOW).key  # type: ignore[arg-type]  # it is a Reject


@pytest.mark.parametrize("max_size", [1, 2, 512])
def test_one_of_two_events_with_one_id_is_scored(opened: Opened, max_size: int) -> None:
    """Whether they share a micro-batch or not, the second is a dead letter, and after an hour it is an event again."""
    ages = [3_700_000, 3_650_000, 200_000, 99_000, 50_000]

    outcomes = infer_afresh(opened, as_records([Sent(good(), age_ms=age) for age in ages], NOW), max_size)

    duplicate = ("duplicate_event", "$.event_id")
    assert [SCORED, duplicate, duplicate, SCORED, duplicate] == list(map(told, outcomes))


@pytest.mark.parametrize("max_size", [1, 512])
@pytest.mark.parametrize("bad", [good(amount=b"-1"), good(event_time=b"0"), good(category=b'"' + b"x" * 65 + b'"')])
def test_first_valid_one_is_scored_after_a_refused_one(opened: Opened, bad: bytes, max_size: int) -> None:
    """A refused event does not use up its id: whoever sends it again, repaired, gets a score."""
    outcomes = infer_afresh(opened, as_records([Sent(bad), Sent(bad), Sent(good()), Sent(good())], NOW), max_size)

    assert ["scored", "duplicate_event"] == [told(outcome)[0] for outcome in outcomes[2:]]
    assert not {"scored", "duplicate_event"} & {told(outcome)[0] for outcome in outcomes[:2]}


# In any mixture.

MIXTURES = st.lists(messages(NOW), max_size=12)
ANY_MIXTURE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def contents(outcomes: Sequence[Outcome]) -> list[Any]:
    """Scores read and rejects as they are."""
    return [json.loads(answer.value or b"") if isinstance(answer, Message) else answer for _, answer in outcomes]


@ANY_MIXTURE
@given(MIXTURES, st.sampled_from([1, 3, 512]))
@example([Sent(b"x", None, FORGED)], 1)
def test_every_message_is_accounted_for(opened: Opened, drawn: list[Sent], max_size: int) -> None:
    """However messages are mixed and cut into batches, each is one score or one dead letter, fit for ClickHouse."""
    records = as_records(drawn, NOW)

    outcomes = infer_afresh(opened, records, max_size)

    assert records == [record for record, _ in outcomes]
    answers = [answer for _, answer in outcomes]
    scores = [answer for answer in answers if isinstance(answer, Message)]
    letters = [to_message(answer, LETTERS, NOW) for answer in answers if isinstance(answer, Reject)]
    assert [r for r, answer in outcomes if isinstance(answer, Reject)] == [
        from_record(on_topic(message, at))[1] for at, message in enumerate(letters)
    ]
    assert {FraudScore} == {type(row) for row in stored(scores, "fraud-scores")} or not scores
    stored(letters, LETTERS)
    assert contents(outcomes) == contents(infer_afresh(opened, records))


def on_topic(message: Message, offset: int) -> Record:
    return Record(message.topic, 0, offset, message.key, message.value, NOW, message.headers)


def stored(written: Sequence[Message], topic: str) -> list[Any]:
    """The rows that the sink makes of messages; none may be refused."""
    coordinates = [on_topic(message, offset) for offset, message in enumerate(written)]
    rows, kept, refused = read_rows(TABLES[topic], coordinates, None)
    assert ([], len(written)) == (refused, to_arrow(TABLES[topic], rows, kept).num_rows)
    return rows


@ANY_MIXTURE
@given(MIXTURES)
def test_neighbours_of_bad_messages_are_scored_as_if_these_were_not_there(opened: Opened, drawn: list[Sent]) -> None:
    """Leaving out what ends as a dead letter changes no score: no window, no reason, no probability."""
    outcomes = infer_afresh(opened, as_records(drawn, NOW))
    accepted = [record for record, answer in outcomes if isinstance(answer, Message)]

    alone = infer_afresh(opened, accepted)

    assert [found for found in contents(outcomes) if not isinstance(found, Reject)] == contents(alone)


# Without Kafka, from a file.


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_try_prints_one_line_per_line(
    tmp_path: Path, opened: Opened, capfdbinary: pytest.CaptureFixture[bytes], ending: bytes
) -> None:
    """`headrace try` answers every line of a file in its place, blank and broken ones too, as a worker would."""
    now_ms = time.time_ns() // 1_000_000
    drawn = [Sent(value) for value, _ in BAD_VALUES.values()] + draw_many(500, now_ms)
    lines = [sent.value or b"" for sent in numbered(drawn) if b"\n" not in (sent.value or b"")]
    lines = [line.rstrip(b"\r") for line in lines] + [b"", b"  ", b"\xff", good()]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines) + ending)

    code = run(["--set", f"data={tmp_path}", "try", "fraud", str(tmp_path / "events.jsonl")])
    answers = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]

    expected = map(told, infer_afresh(opened, as_records([Sent(line) for line in lines], now_ms)))
    assert 0 == code
    assert list(expected) == [
        tuple(answer["dead_letter"].values()) if "dead_letter" in answer else ("scored", answer["event_id"])
        for answer in answers
    ]


# The whole way.


def send_all(bootstrap: str, feed: Sequence[Sent], now_ms: int, compression: str = "lz4") -> None:
    """Writes the messages, with their timestamps, in one go."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "message.max.bytes": 100_000_000,
            "compression.type": compression,
            "enable.idempotence": True,
        }
    )
    failures: list[str] = []
    for sent in feed:
        producer.produce(
            "transactions",
            sent.value,
            sent.key,
            headers=list(sent.headers),
            timestamp=now_ms - sent.age_ms,
            on_delivery=lambda error, _: failures.append(error.str()) if error else None,
        )
        producer.poll(0)
    assert (0, []) == (producer.flush(60), failures)


def lag(settings: Settings, bootstrap: str) -> int:
    """Messages that the group of the workers has not answered yet, as Kafka sees it."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": group_of(settings, "fraud")})
    ends = end_offsets(bootstrap, "transactions")
    committed = reader.committed([TopicPartition("transactions", p) for p in ends], timeout=10)
    reader.close()
    return sum(ends[at.partition] - max(0, at.offset) for at in committed)


def canonical(value: bytes | None) -> str:
    """A score without what differs between two runs: the time of scoring."""
    score = json.loads(value or b"")
    del score["scored_at"], score["latency_ms"]
    return json.dumps(score, sort_keys=True).replace(".0,", ",").replace(".0}", "}")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[tuple[Settings, str]]:
    """A broker and topics of the test's own."""
    with Broker.start(tmp_path) as broker:
        endpoints.publish(tmp_path, "kafka", broker.bootstrap)
        chosen = Settings(data=tmp_path)
        ensure_domain_topics(chosen, "fraud", {"bootstrap.servers": broker.bootstrap})
        yield chosen, broker.bootstrap
    endpoints.withdraw(tmp_path)


def start(started: list[subprocess.Popen[bytes]], data: Path, *command: str) -> subprocess.Popen[bytes]:
    """Starts a headrace process; what it says goes to `COMMAND.log`."""
    with (data / f"{command[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            headrace_command("--set", f"data={data}", *command),
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    started.append(process)
    return process


def wait_for_zero(count: Any, timeout_s: float) -> None:
    """Returns when it is zero or the time is over; a broker that has just started may not know its groups yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(KafkaException):
            if not count():
                return
        time.sleep(0.2)


@pytest.mark.slow
def test_ten_thousand_mutated_events_end_as_one_score_or_one_dead_letter_each(stage: tuple[Settings, str]) -> None:
    """The real path answers each message once, as the processor alone would, and neither worker nor sink stumbles."""
    settings, bootstrap = stage
    now_ms = time.time_ns() // 1_000_000
    feed = numbered([*draw_many(EVENTS, now_ms), *LARGE])
    with processes() as started:
        worker = start(started, settings.data, "worker", "fraud")
        start(started, settings.data, "store")
        send_with_header(bootstrap, "transactions", b"\xff\xfe", [(b"k", b"bad name"), (b"k", good())])
        send_all(bootstrap, feed, now_ms)
        wait_for_zero(lambda: lag(settings, bootstrap) + (worker.poll() is not None), 90)
        left = lag(settings, bootstrap)
        sent = read_all(bootstrap, "transactions")
        scores = read_all(bootstrap, "fraud-scores")
        letters = [from_record(record) for record in read_all(bootstrap, LETTERS)]
        url = endpoints.wait_for(settings.data, "clickhouse", 60)
        wait_for_zero(lambda: len(scores) + len(letters) - rows_of(url), 60)
        by_reason = dict(ask(url, "SELECT reason, toUInt32(count()) FROM fraud_dead_letters GROUP BY reason"))
        rows = ask(url, "SELECT toUInt32(count()) FROM fraud_scores")[0][0]
        died = worker.poll()

    said = (settings.data / "worker.log").read_text()
    assert (None, 0) == (died, left), said
    assert "failure" not in said
    assert len(scores) > EVENTS // 5, "the strategy makes too few good events"
    assert len(by_reason) > 12, f"the strategy makes too few kinds of bad ones: {by_reason}"
    expected = alone(settings, sent)
    assert (len(feed) + 2, len(feed) + 2) == (len(sent), len(scores) + len(letters))
    assert {
        (record, answer.reason, answer.path, answer.detail) for record, answer in expected if isinstance(answer, Reject)
    } == {(original, letter.reason, letter.path, letter.detail) for letter, original in letters}
    assert Counter(canonical(answer.value) for _, answer in expected if isinstance(answer, Message)) == Counter(
        canonical(score.value) for score in scores
    )
    assert (len(scores), Counter(letter.reason for letter, _ in letters)) == (rows, by_reason)


def alone(settings: Settings, records: Sequence[Record]) -> list[Outcome]:
    """What one process makes of the partitions without Kafka."""
    opened = open_domain(settings, "fraud")
    ordered = sorted(records, key=lambda record: (record.partition, record.offset))
    return [
        outcome
        for _, part in groupby(ordered, key=lambda record: record.partition)
        for outcome in infer_afresh(opened, list(part), 257)
    ]


def rows_of(url: str) -> int:
    """Rows in both tables; the sink may still be making them."""
    counts = "(SELECT count() FROM fraud_scores) + (SELECT count() FROM fraud_dead_letters)"
    found: int = ask(url, f"SELECT toUInt32({counts})")[0][0]
    return found


@pytest.mark.slow
def test_record_too_large_for_the_topic_of_dead_letters_stops_nothing(tmp_path: Path) -> None:
    """Where a letter could not be written for its size it says so and where the original lies; the next is scored."""
    usual = TopicSpec(1, {"max.message.bytes": "1048588"})
    with Broker.start(tmp_path) as broker, processes() as started:
        ensure_topics({"bootstrap.servers": broker.bootstrap}, {"transactions": usual, LETTERS: usual})
        endpoints.publish(tmp_path, "kafka", broker.bootstrap)
        settings = Settings(data=tmp_path)
        now_ms = time.time_ns() // 1_000_000
        feed = [Sent(os.urandom(1_048_450)), Sent(b"bad", headers=FORGED), Sent(good(event_time=b"%d" % now_ms))]
        send_all(broker.bootstrap, feed, now_ms, "none")
        send_all(broker.bootstrap, [Sent(b"x" * 60_000_000, headers=FORGED)], now_ms, "gzip")
        worker = start(started, tmp_path, "worker", "fraud")
        wait_for_zero(lambda: lag(settings, broker.bootstrap), 60)
        letters = [from_record(each) for each in read_all(broker.bootstrap, LETTERS)]
        scores = read_all(broker.bootstrap, "fraud-scores")
        died = worker.poll()

    near, bad, packed = letters
    assert (None, 1) == (died, len(scores)), (tmp_path / "worker.log").read_text()
    assert [(0, None), (1, b"bad"), (3, None)] == [(letter.offset, original.value) for letter, original in letters]
    assert [0, 60_000_000] == [bad[0].omitted, packed[0].omitted // 1000 * 1000]
    assert 1_048_450 <= near[0].omitted < 1_048_588
    assert [(), FORGED, ()] == [original.headers for _, original in letters]
