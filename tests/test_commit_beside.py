"""A commit runs beside the loop: what is inferred meanwhile is sent when it is good, and done again when it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from counting_worker import make_worker
from doubles import EchoingSession
from harness import EXACT, Follower, check_counting, running, send

from processors import Arrays
from schemas.envelope import Message
from streams._committing import Committing
from streams._transaction import Transaction
from streams.errors import AbortError, UnknownOutcomeError
from streams.observe.metrics import WorkerMetrics, process_registry


class LongCommits:
    """Passes everything on to a real emitter, but the first commit lasts until what came meanwhile was inferred."""

    def __init__(self, real: Any, meanwhile: Callable[[], None], failure: Exception | None) -> None:
        self._real = real
        self._meanwhile = meanwhile
        self._failure = failure
        self.committing = False
        self.inferred_meanwhile = threading.Event()
        self.sent_meanwhile: list[Message] = []
        self.lasted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, messages: Iterable[Message]) -> None:
        given = list(messages)
        if self.committing:
            self.sent_meanwhile += given
        self._real.send(given)

    def commit(self, offsets: Mapping[tuple[str, int], int], group_metadata: object) -> None:
        if not self.lasted:
            self.lasted = self.committing = True
            self._meanwhile()
            assert self.inferred_meanwhile.wait(10)
            time.sleep(0.1)
            self.committing = False
            if self._failure is not None:
                raise self._failure
        self._real.commit(offsets, group_metadata)


class Tells:
    """Echoes, and says so where a commit is under way."""

    def __init__(self, emitters: list[LongCommits]) -> None:
        self._emitters = emitters

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        for emitter in self._emitters:
            if emitter.committing:
                emitter.inferred_meanwhile.set()
        return EchoingSession().run(inputs)


@pytest.mark.parametrize("failure", [None, AbortError("void, says the test"), UnknownOutcomeError("who knows")])
def test_the_loop_infers_while_a_commit_lasts(stage: dict[str, str], failure: Exception | None) -> None:
    """Full micro-batches go on, nothing is sent before the commit is over, and all is answered once, and right."""
    emitters: list[LongCommits] = []
    topic = stage["bootstrap"], stage["topic"]
    events = [(b"k%d" % (i % 40), b"%d" % i) for i in range(1000)]

    def wrap(emitter: Any) -> LongCommits:
        emitters.append(LongCommits(emitter, lambda: send(*topic, events[400:]), failure))
        emitters[-1].lasted = len(emitters) > 1
        return emitters[-1]

    out = Follower(stage["bootstrap"], stage["output"])
    worker = make_worker(**stage, slot="0", session=Tells(emitters), wrap=wrap, max_size=100)
    send(*topic, events[:400])
    with running(worker):
        records = out.read_until(1000, 30)

    assert EXACT == check_counting(records, 1000)
    assert emitters[0].inferred_meanwhile.is_set()
    assert [] == emitters[0].sent_meanwhile


class NeverKnown:
    """Passes everything on to a real emitter, but the worker is told to end in a commit, which says nothing."""

    def __init__(self, real: Any, stop: Callable[[], None]) -> None:
        self._real = real
        self._stop = stop
        self.aborts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit(self, _offsets: Mapping[tuple[str, int], int], _group_metadata: object) -> None:
        self._stop()
        raise UnknownOutcomeError("who knows, says the test")

    def abort(self) -> None:
        self.aborts += 1
        self._real.abort()


def test_an_end_does_not_wait_for_a_commit_that_nobody_knows_of(stage: dict[str, str]) -> None:
    """Its client would take no abort before its own time-out; Kafka ends what was open, and the next worker goes on."""
    emitters: list[NeverKnown] = []

    def wrap(emitter: Any) -> NeverKnown:
        emitters.append(NeverKnown(emitter, lambda: ended[0].stop()))
        return emitters[-1]

    out = Follower(stage["bootstrap"], stage["output"])
    send(stage["bootstrap"], stage["topic"], [(b"k", b"%d" % i) for i in range(10)])
    ended = [make_worker(**stage, slot="0", wrap=wrap)]
    ended[0].run()
    with running(make_worker(**stage, slot="0")):
        records = out.read_until(10, 30)

    assert EXACT == check_counting(records, 10)
    assert 0 == emitters[0].aborts


class NeverReturns:
    """An emitter whose first commit blocks until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.commits = 0

    def commit(self, _offsets: Mapping[tuple[str, int], int], _group_metadata: object) -> None:
        self.commits += 1
        if self.commits == 1:
            self.over.wait(30)


class Member:
    """Stands for a source: commits need its topic, its offsets and its membership."""

    topic = "events"

    def offsets(self) -> dict[int, int]:
        return {0: 7, 1: 9}

    def group_metadata(self) -> object:
        return None


def test_a_commit_that_never_returns_is_left_behind() -> None:
    """Its outcome is unknown once it is too late, and the next commit has a thread that is free."""
    emitter: Any = NeverReturns()
    member: Any = Member()
    covers = Transaction(interval_ms=50, max_events=10)
    covers.add([1], 3, since=1.0)
    metrics = WorkerMetrics(process_registry("worker"))
    committing = Committing(metrics, longest_s=0.2)
    committing.start(emitter, member, covers, time.perf_counter())

    assert committing.busy

    time.sleep(0.3)

    # A loop that only looks whether it may send must find out too, however little there is to do.
    assert not committing.busy

    with pytest.raises(UnknownOutcomeError, match=r"did not return within 0.2 s"):
        committing.end()

    committing.start(emitter, member, covers, time.perf_counter())

    assert {1: 9} == committing.end()

    emitter.over.set()
    committing.close()


def test_a_transaction_is_due_after_its_first_record_or_when_it_is_large() -> None:
    """The interval counts from the first record; ends alone make one too; one that covers nothing is never due."""
    transaction = Transaction(interval_ms=50, max_events=10)

    assert (False, float("inf"), False) == (bool(transaction), transaction.due_in(0), transaction.due(1e9))

    transaction.add([3], 0, since=1.0)
    transaction.add([1, 3], 9, since=1.04)

    assert (True, {1, 3}, False, True) == (
        bool(transaction),
        transaction.partitions,
        transaction.due(1.049),
        transaction.due(1.05),
    )

    transaction.add([1], 1, since=1.04)

    assert transaction.due(1.04)

    transaction.clear(now=2.0)

    assert (False, 0, set()) == (bool(transaction), transaction.events, transaction.partitions)


def test_what_waited_for_the_transaction_before_counts_from_its_end() -> None:
    """One poll may hand over more than an interval's work: not every micro-batch of it is committed alone."""
    transaction = Transaction(interval_ms=50, max_events=10)
    transaction.clear(now=2.0)
    transaction.add([0], 1, since=1.0)

    assert (False, True) == (transaction.due(2.049), transaction.due(2.05))


def test_a_commit_is_timed_to_its_own_end() -> None:
    """Not to when the loop, which may be waiting for records, comes round to look."""
    registry = process_registry("worker")
    emitter: Any = NeverReturns()
    member: Any = Member()
    emitter.over.set()
    committing = Committing(WorkerMetrics(registry))
    committing.start(emitter, member, Transaction(50, 10), time.perf_counter())
    time.sleep(0.3)
    committing.end()
    committing.close()

    taken = registry.get_sample_value("headrace_stage_seconds_sum", {"stage": "commit"})
    assert taken is not None
    assert taken < 0.2
