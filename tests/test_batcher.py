"""Micro-batches: no batch over size, bytes or deadline, nothing lost, nothing reordered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import Record
from streams.batcher import Batcher


def record(offset: int, size: int = 1, partition: int = 0) -> Record:
    return Record("t", partition, offset, None, b"x" * size, 0)


def test_a_batch_is_due_when_it_is_full() -> None:
    """Reaching max_size makes a batch due at once, before its deadline."""
    batcher = Batcher(max_size=3, max_bytes=1000, max_wait_ms=1000)
    batcher.add([record(0), record(1)], now=0)

    assert not batcher.due(0.0)

    batcher.add([record(2)], now=0)

    assert batcher.due(0.0)


def test_a_batch_is_due_after_its_deadline() -> None:
    """The deadline counts from the first record, not from the last."""
    batcher = Batcher(max_size=10, max_bytes=1000, max_wait_ms=5)
    batcher.add([record(0)], now=1.0)
    batcher.add([record(1)], now=1.004)

    assert not batcher.due(1.0049)
    assert batcher.due(1.005)


def test_a_record_over_the_byte_bound_goes_alone() -> None:
    """One record larger than max_bytes is not held back for ever, and takes no other with it."""
    batcher = Batcher(max_size=10, max_bytes=10, max_wait_ms=5)
    batcher.add([record(0), record(1, size=100), record(2)], now=0)

    assert [[0], [1], [2]] == [[r.offset for r in batcher.take()] for _ in range(3)]


def test_what_is_left_keeps_its_deadline() -> None:
    """Taking a full batch does not give the records behind it a new deadline."""
    batcher = Batcher(max_size=2, max_bytes=1000, max_wait_ms=5)
    batcher.add([record(i) for i in range(3)], now=0)
    batcher.take()

    assert batcher.due(0.005)


def test_an_empty_batcher_is_never_due() -> None:
    """With nothing waiting there is no deadline."""
    batcher = Batcher(max_size=2, max_bytes=10, max_wait_ms=0.001)

    assert not batcher.due(1e9)
    assert float("inf") == batcher.wait_s(0)
    assert [] == batcher.take()


@given(
    arrivals=st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=20),
    max_size=st.integers(1, 10),
    max_bytes=st.integers(1, 100),
)
def test_no_batch_is_over_its_bounds_and_nothing_is_lost(
    arrivals: list[list[int]], max_size: int, max_bytes: int
) -> None:
    """Whatever arrives leaves exactly once, in order, in batches within size and bytes, and none past its deadline."""
    batcher = Batcher(max_size, max_bytes, max_wait_ms=5)
    taken: list[Record] = []
    offset = 0
    for step, sizes in enumerate(arrivals):
        now = step * 0.002
        batcher.add([record(offset + i, size) for i, size in enumerate(sizes)], now)
        offset += len(sizes)
        while batcher.due(now):
            batch = batcher.take()
            assert 1 <= len(batch) <= max_size
            assert len(batch) == 1 or sum(len(r.value or b"") for r in batch) <= max_bytes
            taken += batch
        assert batcher.wait_s(now) > 0
    while batch := batcher.take():
        taken += batch

    assert list(range(offset)) == [r.offset for r in taken]
    assert len(batcher) == 0


def test_the_oldest_record_says_since_when_there_is_something() -> None:
    """A transaction counts its interval from there, so that the wait in a micro-batch is part of it."""
    batcher = Batcher(max_size=2, max_bytes=1000, max_wait_ms=5)

    assert float("inf") == batcher.since

    batcher.add([record(0)], now=1.0)
    batcher.add([record(1), record(2)], now=2.0)

    assert 1.0 == batcher.since

    batcher.take()

    assert 2.0 == batcher.since
