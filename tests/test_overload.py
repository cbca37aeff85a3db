"""Far more events than a worker can answer: they wait in Kafka, not in the process, and all are answered in the end."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import processes, send, start_process

from streams.emitter import _PRODUCER_DEFAULTS
from streams.source import _CONSUMER_DEFAULTS

PAGE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
MIB = 2**20
# What the page's formula says, for messages that are as large in Kafka as in memory.
READ_AHEAD = _CONSUMER_DEFAULTS["queued.max.messages.kbytes"] * 1024 + _CONSUMER_DEFAULTS["fetch.max.bytes"]
PRODUCED = _PRODUCER_DEFAULTS["queue.buffering.max.kbytes"] * 1024
EVENTS, EVENT_BYTES = 100_000, 2000


class Answers:
    """Counts answers by the number of their event, and drops the rest of them."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.seen: Counter[int] = Counter()
        self._reader = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "answers", "isolation.level": "read_committed"}
        )
        self._reader.assign([TopicPartition(topic, p, 0) for p in range(4)])

    def read(self, timeout_s: float) -> int:
        messages = self._reader.consume(10_000, timeout_s)
        self.seen.update(int((m.value() or b"").partition(b":")[0]) for m in messages if m.error() is None)
        return len(messages)

    def read_until(self, count: int, timeout_s: float) -> float:
        """Returns the seconds until so many events were answered."""
        began = time.monotonic()
        while len(self.seen) < count and time.monotonic() < began + timeout_s:
            self.read(0.1)
        return time.monotonic() - began

    def close(self) -> None:
        self._reader.close()


def memory(pid: int, what: str) -> int:
    """`VmRSS`, or the most that it ever was (`VmHWM`), in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def flood(bootstrap: str, topic: str) -> None:
    """200 MB that no compression makes smaller, as fast as Kafka takes them."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 200_000})
    noise = os.urandom(EVENT_BYTES + 4096)
    for number in range(EVENTS):
        at = number % 4096
        producer.produce(topic, b"%d:" % number + noise[at : at + EVENT_BYTES], b"k%d" % (number % 50))
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_backlog_waits_in_kafka_and_not_in_the_process(stage: dict[str, str], tmp_path: Path) -> None:
    """Memory stays below the documented sum, each event has one answer, and later ones come at once."""
    answers = Answers(stage["bootstrap"], stage["output"])
    with processes() as started:
        worker = start_process("counting_worker.py", {**stage, "slot": "0", "row_us": 60}, tmp_path / "log")
        started.append(worker)
        send(stage["bootstrap"], stage["topic"], [(b"k", b"%d:" % (EVENTS + 1))])
        answers.read_until(1, 30)
        base = memory(worker.pid, "VmRSS")
        flood(stage["bootstrap"], stage["topic"])
        drain_s = answers.read_until(EVENTS + 1, 120)
        peak = memory(worker.pid, "VmHWM")
        send(stage["bootstrap"], stage["topic"], [(b"k", b"%d:" % (EVENTS + 2))])
        fresh_s = answers.read_until(EVENTS + 2, 30)

    answers.close()
    print(f"base {base / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB, drained in {drain_s:.1f} s, then {fresh_s:.2f} s")
    assert {1} == set(answers.seen.values())
    assert EVENTS + 2 == len(answers.seen)
    assert peak - base < 2 * READ_AHEAD + PRODUCED
    assert fresh_s < 5


def test_the_page_has_the_bounds_that_are_set() -> None:
    """The formula's numbers are those of the clients' settings."""
    assert (32 * MIB, 8_000_000) == (
        _CONSUMER_DEFAULTS["queued.max.messages.kbytes"] * 1024,
        _CONSUMER_DEFAULTS["fetch.max.bytes"],
    )
    assert 128 * MIB == PRODUCED
    assert "2 · (32 MiB + 8 MB · c) + 128 MiB" in PAGE
