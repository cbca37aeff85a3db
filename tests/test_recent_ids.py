"""An event id is answered once within the window, whatever the batches and restores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors._recent_ids import RecentIds

Seen = list[tuple[str, int]]


def is_duplicate(accepted: Seen, id_: str, timestamp: int, window: int, max_ids: int) -> bool:
    """The definition: accepted before, among the last so many, and no longer ago than the window by the clock.

    What was accepted comes with what the clock was then.
    """
    clock = max([timestamp, *(at for _, at in accepted)])
    return any(other == id_ and clock - at <= window for other, at in accepted[-max_ids:])


def write(log: dict[bytes, bytes], ids: RecentIds) -> None:
    """Applies the changes to a compacted changelog of partition 0."""
    for _, key, value in ids.changes():
        if value is None:
            log.pop(key, None)
        else:
            log[key] = value


steps = st.tuples(
    st.text("abcé\0", min_size=1, max_size=2),
    st.sampled_from([1, 1, 2, 100, 300]),
    st.sampled_from([0, 1, 5, 30]),
    st.sampled_from([0, 0, 0, 20]),
    st.sampled_from(["", "", "cut", "write", "restore"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=100), st.sampled_from([1, 5, 1000]))
def test_duplicates_equal_their_definition(script: list[tuple], max_ids: int) -> None:
    """Accepted and refused ids equal the plain ones over any batches and restores, and dumps equal the changelog."""
    ids, accepted, log = RecentIds(60, max_ids), [], {}
    batch: list[tuple[str, int, int]] = []
    offset, now = 0, 1000
    for number, (id_, skip, forward, back, action) in enumerate(script):
        offset, now = offset + skip, now + forward
        batch.append((id_, offset, now - back))
        if not action and number < len(script) - 1:
            continue
        expected = []
        for row, (name, _, timestamp) in enumerate(batch):
            if is_duplicate(accepted, name, timestamp, 60, max_ids):
                expected.append(row)
            else:
                accepted.append((name, max([timestamp, *(at for _, at in accepted)])))

        assert expected == ids.accept(0, *map(list, zip(*batch, strict=True)))

        batch = []
        if action in {"write", "restore"}:
            write(log, ids)
            assert log == ids.dump(0)
        if action == "restore":
            ids = RecentIds(60, max_ids)
            ids.restore(0, log)
            assert log == ids.dump(0)
            assert [] == list(ids.changes())


def test_the_first_of_two_in_a_batch_is_accepted() -> None:
    """Of equal ids in one batch all but the first are duplicates."""
    assert [1, 3] == RecentIds(1000).accept(0, ["a", "a", "b", "a"], [1, 2, 3, 4], [10, 11, 12, 13])


def test_partitions_do_not_share_ids() -> None:
    """The same id in another partition is another event; a dropped partition knows none."""
    ids = RecentIds(1000)
    ids.accept(0, ["a"], [1], [10])

    assert [] == ids.accept(1, ["a"], [1], [10])
    assert [0] == ids.accept(0, ["a"], [2], [11])

    ids.drop(0)

    assert [] == ids.accept(0, ["a"], [2], [11])


def test_a_duplicate_does_not_make_the_window_longer() -> None:
    """An id that keeps coming is accepted once per window."""
    ids = RecentIds(10)
    rows = [ids.accept(0, ["a"], [at], [at]) for at in range(0, 40, 4)]

    assert [[], [0], [0], [], [0], [0], [], [0], [0], []] == rows


def test_memory_and_changelog_are_bounded() -> None:
    """After a million ids in one window only the last ones and their blocks are kept."""
    ids, log = RecentIds(1 << 40, max_ids=5_000), {}
    for at in range(0, 1_000_000, 20_000):
        rows = range(at, at + 20_000)
        ids.accept(0, [f"event-{row}" for row in rows], rows, rows)
        write(log, ids)

    assert 5_000 / 256 <= len(log) <= 5_000 / 256 + 3
    assert log == ids.dump(0)
    assert [0] == ids.accept(0, ["event-995001"], [1_000_000], [1_000_000])
    assert [] == ids.accept(0, ["event-994000"], [1_000_001], [1_000_001])


def test_a_retracted_id_may_come_again() -> None:
    """An event that got no result after all is no duplicate when it is sent again, also after a restore."""
    ids, log = RecentIds(1000), {}
    ids.accept(0, ["a", "b"], [1, 2], [10, 11])
    ids.retract(0, ["a", "unknown"], [1, 5])
    write(log, ids)
    restored = RecentIds(1000)
    restored.restore(0, log)

    assert log == restored.dump(0)
    assert [1] == ids.accept(0, ["a", "b"], [3, 4], [12, 12])
    assert [1] == restored.accept(0, ["a", "b"], [3, 4], [12, 12])


def test_what_is_retracted_late_leaves_what_was_accepted_since() -> None:
    """The model failed on an event whose id came again after the window, and that one got its result."""
    ids = RecentIds(1000)
    ids.accept(0, ["a"], [1], [10])

    assert [] == ids.accept(0, ["a"], [2], [2000])

    ids.retract(0, ["a"], [1])

    assert [0] == ids.accept(0, ["a"], [3], [2001])


@pytest.mark.parametrize("left", [0, 1, 2])
def test_whatever_ids_are_restores_give_them_back(left: int) -> None:
    """A block of ids of one length, of which some or all were retracted, comes back as it was."""
    ids, log = RecentIds(1000), {}
    ids.accept(0, ["e-1", "e-2"], [1, 2], [10, 11])
    ids.retract(0, ["e-1", "e-2"][left:], [1, 2][left:])
    write(log, ids)
    restored = RecentIds(1000)
    restored.restore(0, log)

    assert log == restored.dump(0)
    assert list(range(left)) == restored.accept(0, ["e-1", "e-2"], [3, 4], [12, 12])


def test_record_from_the_future_does_not_end_deduplication() -> None:
    """After one record whose clock is far ahead, events of the present that are sent twice are still duplicates."""
    recent = RecentIds(window_ms=1000)
    recent.accept(0, ["far"], [0], [50_000])
    recent.accept(0, ["a", "b"], [1, 2], [10_000, 10_001])

    assert [0] == recent.accept(0, ["a"], [3], [10_002])
