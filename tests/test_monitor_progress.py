"""The monitor's watchdog, its security settings, and what it refuses: without a broker where none is needed."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys

import faust
import pytest
from confluent_kafka import Producer

from schemas.codec import JsonCodec
from schemas.envelope import Record
from schemas.fraud import MerchantTally, TransactionLabel
from streams.local.topics import TopicSpec, ensure_topics
from streams.monitor import _kafka
from streams.monitor._progress import EXIT_STALLED, Progress
from streams.monitor._quiet import RepeatsFilter
from streams.monitor._refuse import decode_labels, decode_tallies

A, B = ("a", 0), ("b", 0)


def test_a_partition_that_waits_is_stalled_from_the_moment_it_had_something_to_read():
    """Without movement the time runs from the first sight of a lag, also while the end moves on."""
    progress = Progress()
    progress.observe(0, {A: 5}, {A: 5, B: 0})
    assert 0 == progress.stalled_s(100)
    progress.observe(100, {A: 5}, {A: 8, B: 0})
    progress.observe(110, {A: 5}, {A: 9, B: 0})

    assert 20 == progress.stalled_s(120)
    assert ["a/0 (lag 4)"] == progress.stalled()


def test_any_movement_of_a_partition_ends_its_stall():
    """A slow partition is none that stands; one that moves does not excuse another."""
    progress = Progress()
    for now in range(5):
        progress.observe(now, {A: now}, {A: 100, B: 1})

    assert ["b/0 (lag 1)", "a/0 (lag 96)"] == progress.stalled()
    assert 4 == progress.stalled_s(4)
    progress.observe(5, {A: 5, B: 1}, {A: 100, B: 1})
    assert 1 >= progress.stalled_s(6)


def test_reading_state_back_is_progress():
    """While the changelog is read, inputs stand still and nobody leaves; when that stops too, it counts."""
    progress = Progress()
    for now in range(10):
        progress.observe(now, {("changelog", 0): now}, {A: 100}, recovering=True)
    assert 0 == progress.stalled_s(9)
    progress.observe(20, {("changelog", 0): 9}, {A: 100}, recovering=True)
    assert 21 == progress.stalled_s(30)


def test_a_process_without_progress_leaves(kafka, topic_name):
    """Against a real broker: what is never read makes the process leave with the code that says `try again`."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(topic, b"x")
    producer.flush(10)
    script = (
        "import sys, time\n"
        "from streams.monitor import _kafka\n"
        "from streams.monitor._progress import Watchdog\n"
        "settings = _kafka.client_settings({'bootstrap.servers': sys.argv[1]})\n"
        "Watchdog(settings, 'nobody', (sys.argv[2],), dict, lambda: False, 1.0, lambda lag: None).start()\n"
        "time.sleep(60)\n"
    )

    ended = subprocess.run([sys.executable, "-c", script, kafka, topic], capture_output=True, text=True, timeout=60)
    assert EXIT_STALLED == ended.returncode
    assert f"{topic}/0 (lag 1)" in ended.stderr


def test_marks_of_transactions_are_nothing_to_read(kafka, topic_name):
    """A quiet topic that ends in marks and in aborted messages is no reason to leave."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(2)})
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(30)
    for abort in (False, True, True):
        producer.begin_transaction()
        for partition in (0, 1):
            producer.produce(topic, b"x", partition=partition)
        producer.flush(10)
        producer.abort_transaction(30) if abort else producer.commit_transaction(30)
    script = (
        "import sys, time\n"
        "from streams.monitor import _kafka\n"
        "from streams.monitor._progress import Watchdog\n"
        "settings = _kafka.client_settings({'bootstrap.servers': sys.argv[1]})\n"
        "reached = {(sys.argv[2], 0): 1, (sys.argv[2], 1): 1}\n"
        "Watchdog(settings, 'nobody', (sys.argv[2],), lambda: reached, lambda: False, 2.0, print).start()\n"
        "time.sleep(6)\n"
    )

    ended = subprocess.run([sys.executable, "-c", script, kafka, topic], capture_output=True, text=True, timeout=60)
    assert (0, "") == (ended.returncode, ended.stderr)
    assert {(topic, 0): 0, (topic, 1): 0} == ast.literal_eval(ended.stdout.splitlines()[-1])


def test_a_line_said_again_at_once_is_dropped():
    """Equal lines of the named loggers pass once in half a minute; other lines and loggers always."""
    quiet = RepeatsFilter("noisy")
    passed = []
    for name, message, at in [
        ("noisy.part", "no broker", 0),
        ("noisy.part", "no broker", 5),
        ("noisy.part", "something else", 5),
        ("ours", "no broker", 5),
        ("ours", "no broker", 6),
        ("noisy.part", "no broker", 31),
    ]:
        line = logging.makeLogRecord({"name": name, "msg": message, "created": 1e9 + at})
        passed.append(quiet.filter(line))

    assert [True, False, True, True, True, True] == passed


def test_brokers_and_plain_connections():
    """A list of hosts becomes Faust's URLs; without security settings there are no credentials."""
    config = {"bootstrap.servers": "one:9092, PLAINTEXT://two:9093"}

    assert ["kafka://one:9092", "kafka://two:9093"] == _kafka.brokers(config)
    assert _kafka.credentials(config) is None


def test_scram_over_tls_and_tls_alone():
    """Librdkafka's names reach the client: mechanism, user, password, and a TLS context that checks hosts or not."""
    scram = _kafka.client_settings(
        {
            "bootstrap.servers": "h:1",
            "security.protocol": "sasl_ssl",
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": "u",
            "sasl.password": "p",
            "ssl.endpoint.identification.algorithm": "none",
        }
    )
    tls = _kafka.credentials({"bootstrap.servers": "h:1", "security.protocol": "SSL"})

    assert ("SASL_SSL", "SCRAM-SHA-512", "u", "p") == (
        scram["security_protocol"],
        scram["sasl_mechanism"],
        scram["sasl_plain_username"],
        scram["sasl_plain_password"],
    )
    assert not scram["ssl_context"].check_hostname
    assert isinstance(tls, faust.SSLCredentials)
    assert tls.context.check_hostname


@pytest.mark.parametrize(
    "security", [{"security.protocol": "sasl_ssl"}, {"security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER"}]
)
def test_security_it_cannot_do_is_said(security):
    """A mechanism beyond PLAIN and SCRAM is refused by name at the start."""
    with pytest.raises(_kafka.UnsupportedSecurityError, match=r"sasl\.mechanism (GSSAPI|OAUTHBEARER)"):
        _kafka.credentials({"bootstrap.servers": "h:1", **security})


def record(value: bytes | None, topic: str = "merchant-tallies") -> Record:
    """A record of an input topic."""
    return Record(topic, 0, 7, b"k", value, 0)


GOOD_TALLY = (
    b'{"topic":"t","partition":0,"first_offset":0,"last_offset":9,"merchants":["a"],"hours":[500000],"counts":[10]}'
)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (b'["a"]', b'["a","b"]', "$.merchants"),
        (b'["a"]', b'[""]', "$.merchants"),
        (b"[10]", b"[0]", "$.counts"),
        (b"[10]", b"[99999999999]", "$.counts"),
        (b"[500000]", b"[-1]", "$.hours"),
        (b'"last_offset":9', b'"last_offset":-0', "$.last_offset"),
    ],
)
def test_a_tally_that_cannot_be_summed_is_refused_alone(old, new, path):
    """Each nonsense names its field, and the good tally beside it goes on."""
    bad = GOOD_TALLY.replace(old, new).replace(b'"first_offset":0', b'"first_offset":1')
    tallies, rejects = decode_tallies([record(bad), record(GOOD_TALLY)], JsonCodec(MerchantTally))

    assert 1 == len(tallies)
    assert [("invalid_field", path)] == [(reject.reason, reject.path) for reject in rejects]


def test_labels_without_times_are_refused_alone():
    """Tombstones, broken JSON and times without an offset are refused; the good label keeps both its times."""
    good = (
        b'{"event_id":"e","merchant":"m","is_fraud":true,"event_time":"2026-01-01T00:00:00Z",'
        b'"labelled_at":"2026-01-02T00:00:00Z"}'
    )
    values = [None, b"{", good.replace(b"01T00:00:00Z", b"01T00:00:00"), good]
    labels, event_ms, labelled_ms, rejects = decode_labels(
        [record(value, "transaction-labels") for value in values], JsonCodec(TransactionLabel)
    )

    assert ["e"] == [label.event_id for label in labels]
    assert 86_400_000 == labelled_ms[0] - event_ms[0]
    assert 3 == len(rejects)
    assert ("naive_time", "$.event_time") == (rejects[-1].reason, rejects[-1].path)
