"""Micro-batches through the model beside the loop: in order, never before they may, and gone when they are given up."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from threading import Event
from typing import Any

import pytest
from doubles import CountingProcessor, EchoingSession, SilentMetrics, StuckSession
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import Arrays, Prepared
from schemas.envelope import Message, Record, Records, Reject
from streams._inferring import Answered, Inferring

PATIENCE_S = 10.0


class Noting(CountingProcessor):
    """Counts, and notes the values of each micro-batch as it is prepared and as it is interpreted."""

    def __init__(self, *, prepares_ahead: bool) -> None:
        super().__init__("in", "out")
        self.prepares_ahead = prepares_ahead
        self.done: list[str] = []
        self.prepared = Event()

    def prepare(self, records: list[Record]) -> Prepared:
        self.done.append(f"prepare {records[0].value!r}")
        if len(self.done) > 1:
            self.prepared.set()
        return super().prepare(records)

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> list[Message | Reject]:
        self.done.append(f"interpret {prepared.records[0].value!r}")
        return super().interpret(prepared, outputs, now_ms)


class AwaitsTheNext(EchoingSession):
    """Its first run lasts until the next micro-batch is prepared, which it never is where nobody prepares ahead."""

    def __init__(self, prepared: Event) -> None:
        self._prepared = prepared

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        assert self._prepared.wait(PATIENCE_S)
        return super().run(inputs)


class Failing:
    """Cannot run."""

    def run(self, _inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        raise RuntimeError("no such device")


def inferring_of(processor: CountingProcessor, session: Any) -> Inferring:
    """What is tested."""
    return Inferring(processor, session, SilentMetrics(), 0)  # type: ignore[arg-type]


def batch(*values: bytes, offset: int = 0, timestamp: int = 1) -> Records:
    """Records of one key."""
    return Records.of([Record("in", 0, offset + at, b"k", value, timestamp) for at, value in enumerate(values)])


def values_of(answered: list[Answered]) -> list[list[bytes | None]]:
    """What was answered, micro-batch by micro-batch."""
    return [[message.value for message in one.outcomes.messages] for one in answered]


def test_the_next_micro_batch_is_prepared_while_the_model_runs() -> None:
    """The first answer comes with the second micro-batch, and the last one when it is asked for."""
    processor = Noting(prepares_ahead=True)
    inferring = inferring_of(processor, AwaitsTheNext(processor.prepared))

    assert [] == inferring.answer(batch(b"a"), full=True)
    assert inferring.under_way
    assert [[b"a:0"]] == values_of(inferring.answer(batch(b"b", offset=1), full=True))
    assert [[b"b:1"]] == values_of(inferring.finish())
    assert [] == inferring.finish()
    assert ["prepare b'a'", "prepare b'b'", "interpret b'a'", "interpret b'b'"] == processor.done

    inferring.close()


def test_nothing_is_prepared_ahead_of_who_does_not_allow_it() -> None:
    """A processor whose prepare needs what interpret learnt sees one micro-batch after the other."""
    processor = Noting(prepares_ahead=False)
    inferring = inferring_of(processor, EchoingSession())

    assert [[b"a:0"]] == values_of(inferring.answer(batch(b"a"), full=True))
    assert [[b"b:1"]] == values_of(inferring.answer(batch(b"b", offset=1), full=True))
    assert ["prepare b'a'", "interpret b'a'", "prepare b'b'", "interpret b'b'"] == processor.done


def test_a_session_on_the_buffers_of_a_device_stays_with_the_thread_that_made_it() -> None:
    """Its context and its recorded graphs belong to that thread: even what is full runs there."""

    class Bound(EchoingSession):
        bound = True

        def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
            assert threading.current_thread() is threading.main_thread()
            return super().run(inputs)

    inferring = inferring_of(CountingProcessor("in", "out"), Bound())

    assert [[b"a:0"]] == values_of(inferring.answer(batch(b"a"), full=True))


def test_what_is_too_old_is_so_when_the_model_runs() -> None:
    """A micro-batch that was prepared early and waited for a long run of the one before is judged after that."""

    class Slow(EchoingSession):
        def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
            time.sleep(0.4)
            return super().run(inputs)

    inferring = Inferring(CountingProcessor("in", "out"), Slow(), SilentMetrics(), 300)  # type: ignore[arg-type]
    now_ms = time.time_ns() // 1_000_000
    inferring.answer(batch(b"a", timestamp=now_ms), full=True)
    first = inferring.answer(batch(b"b", offset=1, timestamp=now_ms), full=True)
    second = inferring.finish()
    inferring.close()

    assert [[b"a:0"], []] == values_of(first + second)
    assert ["too_old"] == [reject.reason for reject in second[0].outcomes.rejects]


def test_nothing_of_an_answered_micro_batch_is_kept() -> None:
    """Its records, inputs and outputs go with it, however long no other full one comes."""
    inferring = inferring_of(CountingProcessor("in", "out"), EchoingSession())
    inferring.answer(batch(b"a"), full=True)
    assert inferring._running is not None
    inference = weakref.ref(inferring._running.inference)
    inferring.finish()
    deadline = time.monotonic() + PATIENCE_S
    while inference() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # the thread lets go of it a moment after its end

    assert inference() is None

    inferring.close()


@settings(deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=12), ahead=st.booleans())
def test_answers_are_the_same_and_in_order_however_full_they_are(sizes: list[tuple[int, bool]], ahead: bool) -> None:
    """Every record is answered once, in order; what is not full is answered at once, with all before it."""
    processor = Noting(prepares_ahead=ahead)
    inferring = inferring_of(processor, EchoingSession())
    answered: list[Answered] = []
    offset = 0
    for size, full in sizes:
        answered += inferring.answer(batch(*[b"x"] * size, offset=offset), full=full)
        offset += size

        assert (ahead and full) == inferring.under_way

    answered += inferring.finish()
    inferring.close()

    assert [b"x:%d" % before for before in range(offset)] == [value for one in values_of(answered) for value in one]


@pytest.mark.parametrize("later", ["answer", "finish"])
def test_what_the_model_raises_comes_up_where_it_is_waited_for(later: str) -> None:
    """A device that is gone stops the worker as it does without a thread."""
    inferring = inferring_of(CountingProcessor("in", "out"), Failing())
    inferring.answer(batch(b"a"), full=True)

    with pytest.raises(RuntimeError, match="no such device"):
        inferring.finish() if later == "finish" else inferring.answer(batch(b"b", offset=1), full=True)

    inferring.forget()

    assert not inferring.under_way

    inferring.close()


def test_what_is_given_up_is_not_answered_and_leaves_the_model_free() -> None:
    """The next run begins only when the one given up is over: a session belongs to one thread at a time."""
    session = StuckSession()
    inferring = inferring_of(CountingProcessor("in", "out"), session)
    inferring.answer(batch(b"a"), full=True)

    assert session.entered.wait(PATIENCE_S)

    session.let_go.set()
    inferring.forget()

    assert [] == inferring.finish()
    assert [[b"b:1"]] == values_of(inferring.answer(batch(b"b", offset=1), full=False))

    inferring.close()
