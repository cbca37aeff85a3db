"""A worker under kills, rebalances, broker restarts and lies: every event once, in order, with the right state."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from counting_worker import make_worker
from harness import (
    EXACT,
    Follower,
    Load,
    check_counting,
    end_offsets,
    make_counting_topics,
    processes,
    running,
    send,
    start_process,
)

from streams.errors import AbortError, StopError, UnknownOutcomeError
from streams.local.broker import Broker

Names = Callable[..., str]


def start(stage: Mapping[str, str], slot: int, tmp_path: Path) -> subprocess.Popen[bytes]:
    return start_process("counting_worker.py", {**stage, "slot": str(slot)}, tmp_path / f"worker-{slot}.log")


def test_every_event_is_answered_once_with_its_state(stage: dict[str, str]) -> None:
    """An undisturbed worker answers every event, in order per key, counting what it saw before."""
    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], [(b"k%d" % (i % 7), b"%d" % i) for i in range(3000)])

    with running(make_worker(**stage, slot="0")):
        records = out.read_until(3000, 30)

    assert EXACT == check_counting(records, 3000)


def test_rejects_end_as_dead_letters_with_their_original_bytes(stage: dict[str, str]) -> None:
    """A bad record goes to the dead letters with its reason; the records around it are answered."""
    out = Follower(stage["bootstrap"], stage["output"], f"{stage['output']}.dead-letters")
    send(stage["bootstrap"], stage["topic"], [(b"k", b"0"), (b"k", b"bad"), (b"k", b"2")])

    with running(make_worker(**stage, slot="0")):
        records = out.read_until(3, 30)

    assert [b"0:0", b"2:1"] == [r.value for r in records if r.topic == stage["output"]]
    (dead,) = [r for r in records if r.topic != stage["output"]]
    headers = dict(dead.headers)
    assert (b"bad", b"k") == (dead.value, dead.key)
    assert b"bad_value" == headers["headrace-reason"]
    assert b"1" == headers["headrace-offset"]
    assert stage["topic"].encode() == headers["headrace-topic"]


def test_a_new_worker_goes_on_with_the_state_of_the_old_one(stage: dict[str, str]) -> None:
    """State is restored from the changelog by whoever comes next, at exactly the committed offset."""
    out = Follower(stage["bootstrap"], stage["output"])
    for part in range(3):
        send(
            stage["bootstrap"],
            stage["topic"],
            [(b"k%d" % (i % 7), b"%d" % i) for i in range(part * 500, part * 500 + 500)],
        )
        with running(make_worker(**stage, slot="0", static=False)):
            out.read_until((part + 1) * 500, 30)

    assert EXACT == check_counting(out.records, 1500)


@pytest.mark.slow
def test_kill_9_of_workers_loses_and_doubles_nothing(stage: dict[str, str], tmp_path: Path) -> None:
    """Two workers, six kills at random moments under load: the output is that of an undisturbed run."""
    chance = random.Random(7)
    out = Follower(stage["bootstrap"], stage["output"])
    with processes() as started:
        workers = [start(stage, slot, tmp_path) for slot in range(2)]
        started += workers
        load = Load(stage["bootstrap"], stage["topic"], 12_000, per_second=1500)
        next_kill = time.monotonic() + 2
        kills = 0
        while not load.tick():
            out.read(0.02)
            if kills < 6 and time.monotonic() > next_kill:
                slot = chance.randrange(2)
                workers[slot].kill()
                workers[slot].wait()
                workers[slot] = start(stage, slot, tmp_path)
                started.append(workers[slot])
                kills += 1
                next_kill = time.monotonic() + chance.uniform(0.1, 1.2)
        load.finish()
        records = out.read_until(12_000, 60)

    assert 6 == kills
    assert EXACT == check_counting(records, 12_000)


@pytest.mark.slow
def test_workers_join_and_leave_under_load(stage: dict[str, str], tmp_path: Path) -> None:
    """A second and a third worker come, and leave again, while events flow and while state is being restored."""
    out = Follower(stage["bootstrap"], stage["output"])
    with processes() as started:
        started.append(start({**stage, "static": False}, 0, tmp_path))
        load = Load(stage["bootstrap"], stage["topic"], 10_000, per_second=1200)
        next_change = time.monotonic() + 1.5
        changes = 0
        while not load.tick():
            out.read(0.02)
            if time.monotonic() > next_change and changes < 6:
                if changes % 2 == 0:
                    started.append(start({**stage, "static": False}, changes + 1, tmp_path))
                else:
                    started[-1].terminate()
                changes += 1
                next_change = time.monotonic() + 1
        load.finish()
        records = out.read_until(10_000, 60)

    assert EXACT == check_counting(records, 10_000)


@pytest.mark.slow
def test_the_broker_restarts_under_load(tmp_path: Path, topic_name: Names) -> None:
    """Kill -9 of the broker in the middle: the worker waits, goes on by itself, and loses and doubles nothing."""
    topic, output = topic_name("in"), topic_name("out")
    broker = Broker.start(tmp_path)
    try:
        stage = {"bootstrap": broker.bootstrap, "topic": topic, "output": output, "group": topic_name("group")}
        make_counting_topics(broker.bootstrap, topic, output)
        out = Follower(broker.bootstrap, output)
        with processes() as started:
            started.append(start(stage, 0, tmp_path))
            load = Load(broker.bootstrap, topic, 6000, per_second=1000)
            restarted = False
            while not load.tick():
                out.read(0.02)
                if load.sent > 3000 and not restarted:
                    broker.kill()
                    broker = Broker.start(tmp_path)
                    restarted = True
            load.finish()
            records = out.read_until(6000, 60)

        assert EXACT == check_counting(records, 6000)
    finally:
        broker.stop()


@pytest.mark.slow
def test_a_zombie_worker_is_fenced(stage: dict[str, str], tmp_path: Path) -> None:
    """A worker that sleeps past its session while another takes over can commit nothing when it wakes."""
    out = Follower(stage["bootstrap"], stage["output"])
    with processes() as started:
        zombie = start({**stage, "static": False}, 0, tmp_path)
        started.append(zombie)
        load = Load(stage["bootstrap"], stage["topic"], 8000, per_second=800)
        while not load.tick():
            out.read(0.02)
            if load.sent > 2500 and len(started) == 1:
                os.kill(zombie.pid, signal.SIGSTOP)
                started.append(start({**stage, "static": False}, 1, tmp_path))
            if load.sent > 6500:
                os.kill(zombie.pid, signal.SIGCONT)
        load.finish()
        records = out.read_until(8000, 60)

    assert EXACT == check_counting(records, 8000)


def test_two_workers_under_one_identity_do_not_both_stay(stage: dict[str, str], tmp_path: Path) -> None:
    """Two processes with one slot fence each other: one leaves at least, says why, and nothing is answered twice.

    Which one depends on whose transaction and whose membership was taken over first; a supervisor starts again whoever
    left, and so does this test where both did.
    """
    out = Follower(stage["bootstrap"], stage["output"])
    with processes() as started:
        started.append(start(stage, 0, tmp_path))
        load = Load(stage["bootstrap"], stage["topic"], 4000, per_second=1000)
        while not load.tick():
            out.read(0.02)
            if len(out.records) > 500 and len(started) == 1:
                started.append(start(stage, 0, tmp_path))
        load.finish()
        deadline = time.monotonic() + 30
        while all(process.poll() is None for process in started) and time.monotonic() < deadline:
            out.read(0.1)
        codes = [process.poll() for process in started]
        if None not in codes:
            started.append(start(stage, 0, tmp_path))
        records = out.read_until(4000, 60)

    assert EXACT == check_counting(records, 4000)
    assert 1 in codes
    assert "--slot" in (tmp_path / "worker-0.log").read_text()


class LyingEmitter:
    """Passes everything on to a real emitter, but every so often a commit fails, or succeeds and says it did not."""

    def __init__(self, real: Any, lies: Iterator[str]) -> None:
        self._real = real
        self._lies = lies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self, offsets: Mapping[tuple[str, int], int], group_metadata: object) -> None:
        lie = next(self._lies)
        if lie == "abort":
            raise AbortError("the transaction is void, says the test")
        self._real.commit(offsets, group_metadata)
        if lie == "unknown":
            raise UnknownOutcomeError("it may have been committed, says the test")


@pytest.mark.parametrize("lie", ["abort", "unknown"])
def test_failed_and_unknown_commits_rewind_to_what_was_committed(stage: dict[str, str], lie: str) -> None:
    """After an abort, or a commit of unknown outcome, offsets and state are those that Kafka has."""
    worker = make_worker(**stage, slot="0")
    lies = (lie if n % 5 == 3 else "" for n in range(10_000))
    make_emitter = worker._make_emitter
    worker._make_emitter = lambda source: LyingEmitter(make_emitter(source), lies)  # type: ignore[assignment, arg-type]
    worker._emitter.close()
    worker._emitter = worker._make_emitter(worker._source)
    out = Follower(stage["bootstrap"], stage["output"])

    with running(worker):
        load = Load(stage["bootstrap"], stage["topic"], 3000, per_second=1500)
        while not load.tick():
            out.read(0.02)
        load.finish()
        records = out.read_until(3000, 60)

    assert EXACT == check_counting(records, 3000)


def test_at_least_once_answers_everything(stage: dict[str, str]) -> None:
    """Delivery = at-least-once answers every event too; undisturbed, once each."""
    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], [(b"k%d" % (i % 7), b"%d" % i) for i in range(2000)])

    with running(make_worker(**stage, slot="0", delivery="at-least-once")):
        records = out.read_until(2000, 30)

    assert EXACT == check_counting(records, 2000)


def expire_all_but(bootstrap: str, topic: str, kept: int) -> None:
    """Deletes all but the newest records of every partition, as retention would."""
    ends = end_offsets(bootstrap, topic)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.delete_records([TopicPartition(topic, p, end - kept) for p, end in ends.items()]).values():
        done.result()


def test_lost_offsets_stop_the_worker_and_say_what_to_do(stage: dict[str, str]) -> None:
    """Where the committed offset is no longer retained, a worker stops by default, and goes on where it is told to."""
    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], [(b"k%d" % (i % 40), b"%d" % i) for i in range(400)])
    with running(make_worker(**stage, slot="0")):
        out.read_until(400, 30)
    send(stage["bootstrap"], stage["topic"], [(b"k%d" % (i % 40), b"%d" % i) for i in range(400, 2000)])
    expire_all_but(stage["bootstrap"], stage["topic"], kept=50)

    with pytest.raises(StopError, match=r"on_lost_offsets.*'earliest'"):
        make_worker(**stage, slot="0").run()

    with running(make_worker(**stage, slot="0", on_lost_offsets="earliest")):
        records = out.read_until(400 + 4 * 50, 30)

    assert 400 + 4 * 50 == len(records)
