"""What tests of moving parts share: topics of their own, a load, what came out, and processes to kill."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.envelope import Record
from streams._messages import record
from streams.local.topics import TopicSpec, ensure_topics
from streams.worker import Worker


def make_counting_topics(bootstrap: str, topic: str, output: str, partitions: int = 4) -> None:
    """The topics of a `CountingProcessor` worker."""
    changelog = f"{output}.changelog"
    names = {topic: TopicSpec(partitions), output: TopicSpec(partitions), f"{output}.dead-letters": TopicSpec(1)}
    ensure_topics({"bootstrap.servers": bootstrap}, {**names, changelog: TopicSpec.compacted(partitions)})


def end_offsets(bootstrap: str, topic: str, isolation: str = "read_committed") -> dict[int, int]:
    """Offsets behind the last message or marker, per partition."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "ends", "isolation.level": isolation})
    partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
    ends = {p: reader.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions}
    reader.close()
    return ends


class Follower:
    """Reads topics from their beginning, committed messages only, as they come."""

    def __init__(self, bootstrap: str, *topics: str) -> None:
        self.records: list[Record] = []
        self._reader = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "follower",
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        described = {t: self._reader.list_topics(t, timeout=10).topics[t].partitions for t in topics}
        self._reader.assign([TopicPartition(t, p, 0) for t, partitions in described.items() for p in partitions])

    def read(self, timeout_s: float = 0.0) -> None:
        """Adds what has come."""
        self.records += [record(m) for m in self._reader.consume(10_000, timeout_s) if m.error() is None]

    def read_until(self, count: int, timeout_s: float) -> list[Record]:
        """Reads until so many records came or the time is over, and then for a moment more: doubles come late."""
        deadline = time.monotonic() + timeout_s
        while len(self.records) < count and time.monotonic() < deadline:
            self.read(0.1)
        self.read(0.5)
        return self.records

    def close(self) -> None:
        self._reader.close()


def send(bootstrap: str, topic: str, messages: Sequence[tuple[bytes | None, bytes | None]]) -> None:
    """Writes (key, value) pairs and waits until they are there."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"})
    for key, value in messages:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0


class Load:
    """Writes numbered events at a steady rate: call `tick` often."""

    def __init__(self, bootstrap: str, topic: str, count: int, per_second: float, keys: int = 50) -> None:
        self.count = count
        self.sent = 0
        self._topic = topic
        self._keys = keys
        self._per_second = per_second
        self._began = time.monotonic()
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True, "log_level": 0}
        )

    def tick(self) -> bool:
        """Sends what is due; returns whether all was sent."""
        due = min(self.count, int((time.monotonic() - self._began) * self._per_second))
        while self.sent < due:
            self._producer.produce(self._topic, b"%d" % self.sent, b"k%d" % (self.sent % self._keys))
            self.sent += 1
        self._producer.poll(0)
        return self.sent == self.count

    def finish(self) -> None:
        assert self._producer.flush(60) == 0


def start_process(script: str, arguments: Mapping[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Starts `tests/SCRIPT JSON`, its output appended to the log."""
    command = [sys.executable, str(Path(__file__).parent / script), json.dumps(arguments)]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


@contextmanager
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes, all of which are killed in the end."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def running(worker: Worker) -> Iterator[threading.Thread]:
    """Runs a worker in a thread until the block ends."""
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()


def check_counting(records: Sequence[Record], count: int) -> dict[str, int]:
    """Accounts for the output of `CountingProcessor` over `Load`: all zeros where everything is right."""
    seen = Counter(r.value.split(b":")[0] for r in records if r.value)
    by_key: dict[bytes, list[tuple[int, ...]]] = {}
    for r in records:
        by_key.setdefault(r.key or b"", []).append(tuple(map(int, (r.value or b"").split(b":"))))
    return {
        "missing": count - len(seen),
        "duplicates": sum(n - 1 for n in seen.values()),
        "out_of_order": sum([i for i, _ in v] != sorted(i for i, _ in v) for v in by_key.values()),
        "state_mismatches": sum([n for _, n in v] != list(range(len(v))) for v in by_key.values()),
    }


EXACT = {"missing": 0, "duplicates": 0, "out_of_order": 0, "state_mismatches": 0}
