"""How a worker ends: in order within its grace, or as it stands past it; and how a stuck one is noticed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from counting_worker import make_worker
from doubles import StuckSession
from harness import EXACT, Follower, Load, check_counting, end_offsets, processes, running, send, start_process

from streams.grace import EXIT_PAST_GRACE
from streams.observe.health import progressing


def committed(stage: dict[str, str]) -> int:
    """Events that the group's committed offsets cover."""
    reader = Consumer({"bootstrap.servers": stage["bootstrap"], "group.id": stage["group"]})
    partitions = [TopicPartition(stage["topic"], p) for p in end_offsets(stage["bootstrap"], stage["topic"])]
    found = reader.committed(partitions, timeout=10)
    reader.close()
    return sum(max(0, p.offset) for p in found)


def test_sigterm_under_load_ends_in_order(stage: dict[str, str], tmp_path: Path) -> None:
    """The batch in flight is finished and committed and the exit code is 0: results and offsets agree to the event."""
    out = Follower(stage["bootstrap"], stage["output"])
    load = Load(stage["bootstrap"], stage["topic"], 6000, per_second=1000)
    with processes() as started:
        first = start_process(
            "counting_worker.py", {**stage, "slot": "0", "commit_interval_ms": 1000}, tmp_path / "log"
        )
        started.append(first)
        asked = False
        deadline = time.monotonic() + 60
        while not (load.tick() and asked) and time.monotonic() < deadline:
            out.read(0.01)
            if out.records and not asked:
                first.send_signal(signal.SIGTERM)
                asked = True
        load.finish()
        code = first.wait(30)
        answered = committed(stage)
        partly = list(out.read_until(answered, 5))
        started.append(start_process("counting_worker.py", {**stage, "slot": "0"}, tmp_path / "log"))
        records = out.read_until(6000, 30)

    out.close()
    assert 0 == code
    assert 0 < len(partly) == answered
    assert EXACT == check_counting(records, 6000)


def test_past_the_grace_it_ends_as_it_stands(stage: dict[str, str], tmp_path: Path) -> None:
    """A run of the model that never returns: the last line says where it was, and nothing was committed."""
    send(stage["bootstrap"], stage["topic"], [(b"k", b"0")])
    with processes() as started:
        arguments = {**stage, "slot": "0", "stuck": True, "shutdown_grace_s": 0.5}
        worker = start_process("counting_worker.py", arguments, tmp_path / "log")
        started.append(worker)
        deadline = time.monotonic() + 30
        while "restored partition" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(15)

    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert EXIT_PAST_GRACE == code
    assert "CRITICAL not finished 0 s after it was asked to end, in " in last
    assert "threading.py" in last
    assert 0 == committed(stage)


def test_a_stuck_loop_is_not_live(stage: dict[str, str]) -> None:
    """Health turns red while a run of the model does not return, and green again once it does."""
    session = StuckSession()
    worker = make_worker(**stage, slot="0", session=session)
    assert {"assignment": f"holds no partition of {stage['topic']}"} == {
        name: why for name, why in worker.conditions().items() if why
    }
    send(stage["bootstrap"], stage["topic"], [(b"k", b"0")])
    with running(worker):
        assert session.entered.wait(30)
        ready_while_stuck = worker.ready
        time.sleep(0.6)
        stuck = progressing(worker.stalled_s, 0.5)
        session.let_go.set()
        deadline = time.monotonic() + 10
        while progressing(worker.stalled_s, 0.5)["progress"] and time.monotonic() < deadline:
            time.sleep(0.05)
        free = progressing(worker.stalled_s, 0.5)

    assert ready_while_stuck
    assert stuck["progress"].startswith("the loop did not come round for 1 s")
    assert {"progress": ""} == free


@pytest.mark.parametrize(("stalled_s", "fine"), [(0.0, True), (119.9, True), (120.0, False)])
def test_a_loop_that_is_slow_is_live(stalled_s: float, fine: bool) -> None:
    """Only from the time-out on."""
    assert fine == (not progressing(stalled_s, 120.0)["progress"])
