"""Doubles, named by what they do. Kafka, chDB and ONNX Runtime are always the real ones in tests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from threading import Event
from typing import Any

import numpy as np

from processors import Arrays, Prepared
from schemas.envelope import Message, Record, Reject


class RunningCounts:
    """Keyed state: how often each key was seen, per partition."""

    def __init__(self) -> None:
        self.counts: dict[int, dict[bytes, int]] = {}
        self._changed: set[tuple[int, bytes]] = set()

    def add(self, partition: int, key: bytes) -> int:
        """Counts a key and returns how often it was seen before."""
        counts = self.counts.setdefault(partition, {})
        before = counts.get(key, 0)
        counts[key] = before + 1
        self._changed.add((partition, key))
        return before

    def restore(self, partition: int, entries: Mapping[bytes, bytes]) -> None:
        self.counts[partition] = {key: int(value) for key, value in entries.items()}

    def drop(self, partition: int) -> None:
        self.counts.pop(partition, None)
        self._changed = {(p, key) for p, key in self._changed if p != partition}

    def changes(self) -> Iterable[tuple[int, bytes, bytes | None]]:
        changed, self._changed = self._changed, set()
        return [(p, key, str(self.counts[p][key]).encode()) for p, key in sorted(changed)]


class CountingProcessor:
    """Answers `value:before`, where before is how often the key was seen earlier; rejects the value `bad`."""

    name = "counting"
    model = "counting"
    tables = ()
    prepares_ahead = True

    def __init__(self, input_topic: str, output_topic: str) -> None:
        self.input_topic = input_topic
        self.output_topic = output_topic
        self.output_topics = (output_topic,)
        self.state = RunningCounts()

    def prepare(self, records: list[Record]) -> Prepared:
        good = [r for r in records if r.value != b"bad"]
        rejects = [Reject(r, "bad_value", "$", "the value is bad") for r in records if r.value == b"bad"]
        before = [self.state.add(r.partition, r.key or b"") for r in good]
        return Prepared({"before": np.array(before, dtype=np.float32).reshape(-1, 1)}, good, None, rejects)

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> list[Message | Reject]:
        counts = outputs["before"][:, 0].astype(int)
        return [
            Message(self.output_topic, r.key, (r.value or b"") + b":%d" % count)
            for r, count in zip(prepared.records, counts, strict=True)
        ]

    def drain(self) -> list[Message]:
        return []


class EchoingSession:
    """Returns its inputs as outputs."""

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        return inputs, {}


class SlowSession(EchoingSession):
    """Echoes, and takes its time for each row."""

    def __init__(self, row_us: float) -> None:
        self._row_s = row_us / 1e6

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        time.sleep(self._row_s * len(inputs["before"]))
        return super().run(inputs)


class StuckSession:
    """Does not return from a run until it is let go."""

    def __init__(self) -> None:
        self.entered = Event()
        self.let_go = Event()

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        self.entered.set()
        self.let_go.wait()
        return inputs, {}


class SilentMetrics:
    """Takes every observation and keeps none."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments: None
