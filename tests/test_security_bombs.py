"""Messages made to hurt: nested, huge, or unpacking to far more than they are: dead letters, in bounded memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from confluent_kafka import Producer
from events import records, transaction, value
from harness import Follower, processes
from test_schemas_formats import mocked

from processors._tabular import ColumnMapping, read_rows
from schemas.codec import JsonCodec
from schemas.dead_letter import from_record
from schemas.fraud import MerchantTally, Transaction
from streams._reading import UNPACKABLE_HEADERS
from streams.local import endpoints
from streams.local.broker import Broker
from streams.local.supervisor import headrace_command
from streams.running import ensure_domain_topics
from streams.settings import KafkaSettings, Settings
from streams.store.asking import ask_over_http
from streams.store.client import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1_000_000
# A message takes its own size, and what it is made into; nothing here may take a multiple of that.
MOST_BYTES = 12 * MEGABYTE
TALLY = MerchantTally("transactions", 0, 0, 1, merchants=["m"], hours=[1], counts=[1])


def inside(text: str) -> bytes:
    """A valid transaction with something of nearly a megabyte in a field that nobody knows."""
    return value()[:-1] + b', "extra": ' + text.encode() + b"}"


HOSTILE = {
    "brackets": (b"[" * 1_000_000, {"invalid_field", "nesting_too_deep", "invalid_json"}),
    "objects": (b'{"a":' * 180_000, {"nesting_too_deep", "invalid_json", "missing_field"}),
    "nested in a field nobody knows": (inside("[" * 400_000 + "]" * 400_000), {"nesting_too_deep"}),
    "nested in a known field": (value(merchant=...)[:-1] + b', "merchant": ' + b"[" * 900_000 + b"}", None),
    "a number of a megabyte": (value(amount=...)[:-1] + b', "amount": ' + b"9" * 900_000 + b"}", None),
    "a time of a megabyte": (value(event_time=...)[:-1] + b', "event_time": ' + b"9" * 900_000 + b"}", None),
    "an exponent": (value(amount=...)[:-1] + b', "amount": 1e' + b"9" * 900_000 + b"}", None),
    "escapes": (value(merchant=...)[:-1] + b', "merchant": "' + b"\\u0000" * 150_000 + b'"}', None),
    "a million keys": (b"{" + b",".join(b'"%d":0' % i for i in range(80_000)) + b"}", {"missing_field"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused_in_little_memory(name: str) -> None:
    """Depth, digits and escapes end in a reject of this one message, and take no more than some times its size."""
    hostile, reasons = HOSTILE[name]
    codec = JsonCodec(Transaction)
    good = value()
    tracemalloc.start()
    began = time.process_time()
    try:
        events, kept, rejects = codec.decode_records(records([good, hostile, good]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [0, 2] == [record.offset for record in kept]
    assert 2 == len(events)
    assert 1 == len(rejects)
    assert reasons is None or rejects[0].reason in reasons
    assert peak < MOST_BYTES
    assert time.process_time() - began < 5, "a megabyte takes seconds: somebody counts digits the slow way"


def lengths(frame: bytes) -> dict[str, bytes]:
    """Bodies that say to be, or to hold, far more than there is; in Avro's numbers and in Protobuf's."""
    enormous = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    return {
        "a string of exabytes": frame + enormous,
        "a negative length": frame + b"\x01",
        "a number without an end": frame + b"\xff" * 100_000,
        "a field of exabytes": frame + b"\x0a" + enormous,
        "groups in groups": frame + b"\x0b" * 200_000,
        "messages in messages": frame + b"\x0a\x7f" * 100_000,
        "a million fields": frame + b"\xa8\x1f\x01" * 300_000,
    }


@pytest.mark.parametrize("form", ["avro", "protobuf"])
@pytest.mark.parametrize("type_", [Transaction, MerchantTally], ids=lambda one: one.__name__)
def test_declared_lengths_are_not_believed(form: str, type_: type) -> None:
    """Avro and Protobuf bodies with lengths, counts and depths beyond reason are refused one by one."""
    codec = mocked(form, type_)
    example = codec.encode([msgspec.convert(transaction(), Transaction) if type_ is Transaction else TALLY])[0]
    frame = example[: 5 if form == "avro" else 6]
    hostile = lengths(frame)
    tracemalloc.start()
    try:
        events, _, rejects = codec.decode_records(records([example, *hostile.values(), example]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 2 == len(events)
    assert len(hostile) == len(rejects)
    assert {reject.reason for reject in rejects} <= {"truncated", "invalid_encoding", "missing_field", "invalid_field"}
    assert peak < MOST_BYTES


# Files


def test_a_line_of_a_small_archive_is_not_read_to_its_end(tmp_path: Path) -> None:
    """What unpacks to a line of 200 MB is one row too large to be a message, and the next line is read."""
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(100):
            file.write(bytes(2 * MEGABYTE))
        file.write(b"\n" + value() + b"\n")
    tracemalloc.start()
    try:
        rows = list(read_rows(path, Transaction, ColumnMapping(), plain=True))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    _, good, rejects = JsonCodec(Transaction).decode_records(records([row.value for row in rows]))

    assert [value()] == [record.value for record in good]
    assert ["payload_too_large"] == [reject.reason for reject in rejects]
    assert peak < 5 * 16 * 1024 * 1024


# Kafka's own compression


class Bombed:
    """A broker of its own with the domain's topics; good messages around batches that unpack to far more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Broker.start(folder)
        self.config = {"bootstrap.servers": self.broker.bootstrap}
        self.settings = Settings(data=folder, kafka=KafkaSettings(self.broker.bootstrap))
        ensure_domain_topics(self.settings, "fraud", self.config)

    def send(self, topic: str, *values: bytes, codec: str = "none") -> None:
        """One batch, whatever its size."""
        large = {"batch.size": 2**31 - 1, "message.max.bytes": 10**9, "linger.ms": 30_000}
        producer = Producer({**self.config, **large, "compression.type": codec, "queue.buffering.max.kbytes": 10**6})
        failed: list[object] = []
        for each in values:
            producer.produce(topic, each, b"k", 0, on_delivery=lambda error, _: failed.append(error) if error else None)
        assert 0 == producer.flush(60)
        assert [] == failed

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A process of the command line."""
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            command = headrace_command("--data", str(self.folder), "--set", "kafka.bootstrap=" + self.broker.bootstrap)
            return subprocess.Popen([*command, *words], stdout=log, stderr=log)


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bombed]:
    """See the class."""
    found = Bombed(tmp_path_factory.mktemp("bombed"))
    yield found
    found.broker.kill()


BOMB = bytes(60 * MEGABYTE)


@pytest.mark.timeout(240)
def test_batches_that_unpack_to_hundreds_of_megabytes_are_dead_letters(bombed: Bombed) -> None:
    """What the client does not unpack, and what it does, is refused; neighbours are answered, memory is bounded."""
    first, second, third = (value(event_id=f"e{i}", event_time=time.time_ns() // MEGABYTE) for i in range(3))
    bombed.send("transactions", first)
    bombed.send("transactions", BOMB, BOMB, codec="zstd")
    bombed.send("transactions", second)
    bombed.send("transactions", BOMB, codec="gzip")
    bombed.send("transactions", third)
    with processes() as started:
        started.append(bombed.start("worker", "fraud"))
        scores = Follower(bombed.broker.bootstrap, "fraud-scores")
        letters = Follower(bombed.broker.bootstrap, "fraud.dead-letters")
        try:
            answered = {json.loads(r.value or b"")["event_id"] for r in scores.read_until(3, 60)}
            refused = [from_record(letter) for letter in letters.read_until(3, 30)]
        finally:
            scores.close()
            letters.close()
        peak = peak_bytes(started[0].pid)

    assert {"e0", "e1", "e2"} == answered, (bombed.folder / "worker.log").read_text()[-3000:]
    assert [("empty_payload", 1), ("empty_payload", 2), ("payload_too_large", 4)] == sorted(
        (letter.reason, letter.offset) for letter, _ in refused
    )
    assert [UNPACKABLE_HEADERS] * 2 == [original.headers for letter, original in refused if letter.offset < 4]
    assert [0, 0, len(BOMB) + len(b"k")] == sorted(letter.omitted for letter, _ in refused)
    # The process itself, what the client unpacks at most, and the large message in the client and in Python.
    assert peak < 450 * MEGABYTE + 100 * MEGABYTE + 2 * len(BOMB)


def peak_bytes(pid: int) -> int:
    """The most memory that a process had, as Linux says."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.timeout(240)
def test_the_store_goes_on_behind_what_cannot_be_unpacked(bombed: Bombed) -> None:
    """Messages of such a batch are among the rejects of the sink, each with its offset, and the others are rows."""
    now = time.time_ns() // MEGABYTE
    labels = [
        json.dumps({"event_id": f"l{i}", "merchant": "m", "is_fraud": True, "event_time": now, "labelled_at": now})
        for i in range(2)
    ]
    bombed.send("transaction-labels", labels[0].encode())
    bombed.send("transaction-labels", BOMB, BOMB, codec="zstd")
    bombed.send("transaction-labels", labels[1].encode())
    with processes() as started:
        started.append(bombed.start("store"))
        url = endpoints.wait_for(bombed.folder, "clickhouse", 60)
        question = (
            "SELECT (SELECT groupArray(_offset) FROM (SELECT _offset FROM transaction_labels ORDER BY 1)),"
            " (SELECT groupArray(_offset) FROM (SELECT _offset FROM sink_rejects ORDER BY 1))"
        )
        deadline = time.monotonic() + 60
        found: object = None
        while found != [[0, 3], [1, 2]] and time.monotonic() < deadline:
            time.sleep(0.3)
            with suppress(StoreError):
                answer = ask_over_http(url, "", "headrace", question, "JSONCompactEachRow")
                found = json.loads(answer.body)

    assert [[0, 3], [1, 2]] == found
