"""Sliding windows are exact, whatever the order, the batches, the evictions and the restores."""

import time
from math import nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_windows import PlainAnswer, PlainWindows

from processors import _windows_log
from processors._window_sums import Windows
from processors._windows import KeyedWindows
from processors._windows_log import ChangelogError

HOUR = 3_600_000
DAY = 24 * HOUR
SPANS = (HOUR, DAY, 7 * DAY, 30 * DAY)
SMALL = (5, 20, 60)
START = 1_700_000_000_000
WATERMARK = _windows_log.WATERMARK

Event = tuple[int, bytes, int, int, tuple[float, float]]


def key_of(number: int) -> bytes:
    """A key as long as a token."""
    return b"%016d" % number


def update(windows: KeyedWindows, events: list[Event]) -> Windows:
    """Feeds events as one batch."""
    return windows.update(
        np.array([event[0] for event in events], np.int64),
        [event[1] for event in events],
        np.array([event[2] for event in events], np.int64),
        np.array([event[3] for event in events], np.int64),
        np.array([event[4] for event in events], np.float64).reshape(-1, 2),
    )


def answers(found: Windows) -> list[str]:
    """One comparable line per event (NaN equals NaN)."""
    return [
        repr(PlainAnswer(counts, sums, previous, late, mark_time, tuple(mark)))
        for counts, sums, previous, late, mark_time, mark in zip(
            found.counts.tolist(),
            found.sums.tolist(),
            found.previous.tolist(),
            found.late.tolist(),
            found.mark_time.tolist(),
            found.mark.tolist(),
            strict=True,
        )
    ]


def plain_answers(plain: PlainWindows, events: list[Event]) -> list[str]:
    """The same from the definition."""
    return [
        repr(plain.answer(partition, key, at, amount, None if np.isnan(mark[0]) else mark))
        for partition, key, at, amount, mark in events
    ]


def write(log: dict[int, dict[bytes, bytes]], windows: KeyedWindows) -> None:
    """Applies the changes to a compacted changelog."""
    for partition, key, value in _windows_log.changes(windows):
        if value is None:
            log.setdefault(partition, {}).pop(key, None)
        else:
            log.setdefault(partition, {})[key] = value


steps = st.tuples(
    st.integers(0, 1),
    st.integers(0, 3),
    st.sampled_from([0, 0, 1, 1, 2, 7, 50, 200]),
    st.sampled_from([0, 0, 0, 0, 3, 15, 45, 120]),
    st.integers(1, 10**14),
    st.booleans(),
    st.sampled_from(["", "", "", "cut", "write", "restore", "sweep"]),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(steps, max_size=120), st.sampled_from([0, 10, 30]), st.sampled_from([1, 3, 9, 1 << 30]))
def test_windows_equal_their_definition(script: list[tuple], lateness: int, max_events: int) -> None:
    """Counts, sums, previous event, lateness and mark equal the plain ones over any batches, restores and sweeps."""
    windows, plain = KeyedWindows(SMALL, lateness, max_events), PlainWindows(SMALL, lateness, max_events)
    log: dict[int, dict[bytes, bytes]] = {0: {}, 1: {}}
    batch: list[Event] = []
    expected: list[str] = []
    actual: list[str] = []
    now = 1000
    for number, (partition, key, forward, back, amount, marks, action) in enumerate(script):
        now += forward
        batch.append((partition, key_of(key), now - back, amount, (float(number), 0.5) if marks else (nan, nan)))
        if not action and number < len(script) - 1:
            continue
        expected += plain_answers(plain, batch)
        actual += answers(update(windows, batch))
        batch = []
        if action in {"write", "restore"}:
            write(log, windows)
            assert log == {p: _windows_log.dump(windows, p) for p in log}
        if action == "restore":
            windows.drop(partition)
            _windows_log.restore(windows, partition, dict(reversed(log[partition].items())))
            assert log[partition] == _windows_log.dump(windows, partition)
        if action == "sweep":
            windows.sweep()

    assert expected == actual


def random_events(seed: int, count: int, keys: int, disorder: float) -> list[Event]:
    """A stream over 60 days with two partitions; some events are late by up to three days."""
    rng = np.random.default_rng(seed)
    times = START + np.sort(rng.integers(0, 60 * DAY, count))
    times -= np.where(rng.random(count) < disorder, rng.integers(0, 3 * DAY, count), 0)
    return [
        (key % 2, key_of(key), at, amount, (nan, nan))
        for key, at, amount in zip(
            rng.integers(0, keys, count).tolist(), times.tolist(), rng.integers(1, 10**9, count).tolist(), strict=True
        )
    ]


@pytest.mark.parametrize("disorder", [0.0, 0.05, 0.7])
def test_any_batches_give_the_same(disorder: float) -> None:
    """One big batch, small ones and single events agree, in order and out of it."""
    events = random_events(1, 800, 8, disorder)
    found = []
    for size in (800, 256, 7, 1):
        windows = KeyedWindows(SPANS, DAY)
        found.append([line for at in range(0, 800, size) for line in answers(update(windows, events[at : at + size]))])

    assert plain_answers(PlainWindows(SPANS, DAY), events) == found[0]
    assert found[0] == found[1] == found[2] == found[3]


def test_a_restored_partition_goes_on_as_if_nothing_had_happened() -> None:
    """After a restore in the middle all windows and the whole dump equal those of a run that was never restored."""
    events = random_events(2, 6000, 300, 0.1)
    steady, moved = KeyedWindows(SPANS, DAY), KeyedWindows(SPANS, DAY)
    log: dict[int, dict[bytes, bytes]] = {0: {}, 1: {}}
    for at in range(0, 6000, 500):
        batch = events[at : at + 500]

        assert answers(update(steady, batch)) == answers(update(moved, batch))

        list(_windows_log.changes(steady))
        write(log, moved)
        if at % 1500 == 0:
            moved = KeyedWindows(SPANS, DAY)
            for partition in (0, 1):
                _windows_log.restore(moved, partition, log[partition])
    steady.sweep()
    moved.sweep()
    write(log, moved)

    assert {p: _windows_log.dump(steady, p) for p in (0, 1)} == {p: _windows_log.dump(moved, p) for p in (0, 1)} == log


def test_keys_that_begin_alike_are_restored_apart() -> None:
    """Keys are told apart by all of their bytes, wherever they differ, whatever the order of their entries."""
    windows = KeyedWindows(SPANS, DAY)
    random = np.random.default_rng(4)
    keys = [bytes(8) + random.bytes(8) for _ in range(20)] + [random.bytes(8) + bytes(8) for _ in range(20)]
    keys += [random.bytes(16) for _ in range(20)]
    chosen = random.integers(0, len(keys), 1500).tolist()
    update(windows, [(0, keys[at], START + n * HOUR // 8, n, (float(n), 0.0)) for n, at in enumerate(chosen)])
    entries = list(_windows_log.dump(windows, 0).items())
    shuffled = {entries[at][0]: entries[at][1] for at in random.permutation(len(entries)).tolist()}
    restored = KeyedWindows(SPANS, DAY)
    _windows_log.restore(restored, 0, shuffled)

    assert dict(entries) == _windows_log.dump(restored, 0)
    assert [windows.history(0, key)[1].tolist() for key in keys] == [
        restored.history(0, key)[1].tolist() for key in keys
    ]


def test_a_restore_of_one_partition_leaves_the_other_alone() -> None:
    """Dropping and restoring partition 0 does not touch what partition 1 holds or has yet to write."""
    windows = KeyedWindows(SPANS, DAY)
    update(windows, random_events(3, 500, 20, 0.0))
    before = _windows_log.dump(windows, 1)
    windows.drop(0)

    assert {WATERMARK} | before.keys() == {key for partition, key, _ in _windows_log.changes(windows) if partition == 1}
    assert {1} == set(windows.owner.tolist()) - {-1}

    _windows_log.restore(windows, 0, {})

    assert before == _windows_log.dump(windows, 1)
    assert {} == _windows_log.dump(windows, 0)


def test_changes_come_once() -> None:
    """What was drained is not drained again until it changes."""
    windows = KeyedWindows(SPANS, DAY)
    update(windows, random_events(4, 50, 5, 0.0))

    assert list(_windows_log.changes(windows))
    assert [] == list(_windows_log.changes(windows))


def test_an_event_rewrites_one_block_however_long_the_history() -> None:
    """A key with 20,000 events writes as little per event as one with eight."""
    windows = KeyedWindows(SPANS, DAY)
    update(windows, [(0, key_of(1), START + number, 1, (nan, nan)) for number in range(20_001)])
    list(_windows_log.changes(windows))
    update(windows, [(0, key_of(1), START + 30_000, 1, (nan, nan))])
    written = [value for _, key, value in _windows_log.changes(windows) if key != WATERMARK]

    assert 1 == len(written)
    assert len(written[0] or b"") <= 8 * 16 + 24


def test_old_history_leaves_memory_and_changelog() -> None:
    """Over a year of a steady stream memory and changelog stay as large as after two months."""
    windows = KeyedWindows(SPANS, DAY)
    log: dict[int, dict[bytes, bytes]] = {0: {}}
    sizes = []
    for day in range(365):
        at = START + day * DAY
        # Ten cards that stay, and one a day that comes once.
        keys = [*range(10), 1000 + day]
        update(windows, [(0, key_of(key), at + 1000 * key, 100, (1.0, 2.0)) for key in keys])
        write(log, windows)
        sizes.append((len(windows), len(windows.regions.time), len(log[0])))

    assert max(size[0] for size in sizes[:62]) == max(size[0] for size in sizes[62:]) < 50
    assert max(size[1] for size in sizes[62:]) <= max(size[1] for size in sizes[:62]) < 4096
    assert max(size[2] for size in sizes[62:]) <= max(size[2] for size in sizes[:62]) + 10
    assert log[0] == _windows_log.dump(windows, 0)


def test_a_jump_of_the_watermark_forgets_everything_before_it() -> None:
    """After a gap of a year nothing of the time before counts, and a straggler from then is scored but not kept."""
    windows = KeyedWindows(SPANS, DAY)
    update(windows, random_events(5, 200, 5, 0.0))
    found = update(
        windows,
        [
            (0, key_of(2), START + 400 * DAY, 5, (nan, nan)),
            (0, key_of(2), START, 7, (nan, nan)),
            (0, key_of(2), START + 400 * DAY, 9, (nan, nan)),
        ],
    )

    assert [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]] == found.counts.tolist()
    assert [False, True, False] == found.late.tolist()
    assert [5] * 4 == found.sums[2].tolist()


def test_late_events_see_what_is_left() -> None:
    """A late event's 30-day window reaches back only as far as the horizon of the watermark."""
    windows = KeyedWindows(SPANS, DAY)
    at = START + 100 * DAY
    found = update(
        windows,
        [
            (0, key_of(1), at - 32 * DAY, 1, (nan, nan)),
            (0, key_of(1), at - 20 * DAY, 10, (nan, nan)),
            (0, key_of(2), at, 1, (nan, nan)),
            (0, key_of(1), at - 10 * DAY, 100, (nan, nan)),
        ],
    )

    assert [False, False, False, True] == found.late.tolist()
    assert [0, 0, 0, 10] == found.sums[3].tolist()


def test_window_borders() -> None:
    """An event exactly one window ago is out, one a millisecond younger is in, one at the same time is in."""
    windows = KeyedWindows((1000,), DAY)
    found = update(windows, [(0, key_of(1), START + offset, 1, (nan, nan)) for offset in (0, 1, 1000, 1000)])

    assert [0, 1, 1, 2] == found.counts[:, 0].tolist()


def test_sums_are_exact_at_the_limit() -> None:
    """65,536 amounts of a hundred million add up to the millionth."""
    windows = KeyedWindows(SPANS, DAY)
    most = 10**8 * 10**6
    found = update(windows, [(0, key_of(1), START + number, most, (nan, nan)) for number in range(65_537)])

    assert 65_536 * most == int(found.sums[-1, -1])
    assert 65_535 * most == int(found.sums[-2, -1])


@pytest.mark.parametrize("disorder", [0, 5_000])
def test_a_hot_key_does_not_hurt_the_others(disorder: int) -> None:
    """A card with 10,000 events in an hour, in order or not, keeps every window exact and costs like any other."""
    rng = np.random.default_rng(6)
    ordinary = [(0, key_of(number), START + 360 * number, 5, (nan, nan)) for number in range(10_000)]
    hot = [
        (0, key_of(77_777), START + 360 * number - int(rng.integers(0, disorder + 1)), 7, (nan, nan))
        for number in range(10_000)
    ]
    seconds = {}
    mixed = [event for pair in zip(ordinary, hot, strict=True) for event in pair]
    for name, stream in (("calm", ordinary + ordinary), ("hot", mixed)):
        windows = KeyedWindows(SPANS, DAY)
        began = time.process_time()
        found = [update(windows, stream[at : at + 2000]) for at in range(0, 20_000, 2000)]
        seconds[name] = time.process_time() - began
    times = np.array([event[2] for event in hot])
    counts = np.concatenate([part.counts for part in found])[1::2]
    checked = rng.integers(0, 10_000, 200)
    expected = [
        int(((times[:row] <= times[row]) & (times[:row] > times[row] - HOUR)).sum()) for row in checked.tolist()
    ]

    assert expected == counts[checked, 0].tolist()
    assert seconds["hot"] < 10 * seconds["calm"] + 0.2


def test_a_key_over_the_cap_loses_its_oldest() -> None:
    """Beyond the cap the newest events count, the loss is counted, and the changelog stays bounded."""
    windows = KeyedWindows(SPANS, DAY, max_events=100)
    for at in range(0, 1000, 50):
        found = update(windows, [(0, key_of(1), START + number, 1, (nan, nan)) for number in range(at, at + 50)])

    assert [100] * 4 == found.counts[-1].tolist()
    assert 800 <= windows.capped <= 900
    assert len(_windows_log.dump(windows, 0)) <= 1 + 200 // 8


def test_history_lists_what_counts() -> None:
    """The history of a key is what its windows are made from; an unknown key has none."""
    windows = KeyedWindows(SPANS, DAY)
    update(windows, [(0, key_of(1), START + number, 10 + number, (nan, nan)) for number in (5, 1, 3)])
    times, amounts = windows.history(0, key_of(1))

    assert [START + 1, START + 3, START + 5] == times.tolist()
    assert [11, 13, 15] == amounts.tolist()
    assert 0 == len(windows.history(1, key_of(1))[0])


def test_memory_follows_what_is_held() -> None:
    """Histories that grow together leave no more than a fraction of their memory behind, and never share any."""
    windows = KeyedWindows((DAY,), 0)
    regions = windows.regions
    keys = [key_of(number) for number in range(1000)]
    random = np.random.default_rng(5)
    activity = random.gamma(2.2, 1.0, len(keys))
    sizes, held = [], []
    now = START
    for gap in [HOUR // 30] * 1440:
        now += gap
        chosen = random.choice(len(keys), 500, p=activity / activity.sum()).tolist()
        update(windows, [(0, keys[at], now, 1, (nan, nan)) for at in chosen])
        sizes.append(len(regions.time))
        held.append(int((regions.end - regions.begin).sum()))
    used = np.flatnonzero(regions.room)
    used = used[np.argsort(regions.start[used])]

    assert (regions.start[used][1:] >= (regions.start + regions.room)[used][:-1]).all()
    assert (regions.begin >= regions.start).all()
    assert (regions.end <= regions.start + regions.room).all()
    # Rooms for growth, what lies free, and how far the columns grow ahead.
    assert max(sizes) < 2 * max(held)


def test_an_empty_batch_has_no_answers() -> None:
    """A batch whose records were all refused is answered by nothing."""
    assert 0 == len(update(KeyedWindows(SPANS, DAY), []).counts)


@pytest.mark.parametrize("damage", ["missing", "short", "odd", "watermark", "key"])
def test_a_damaged_changelog_is_refused(damage: str) -> None:
    """Entries that are missing or cut are an error that says what to do, never a wrong window."""
    windows = KeyedWindows(SPANS, DAY)
    update(windows, [(0, key_of(1), START + number, 1, (nan, nan)) for number in range(100)])
    entries = _windows_log.dump(windows, 0)
    block = b"w" + key_of(1) + (3).to_bytes(4, "big")
    if damage == "missing":
        del entries[block]
    elif damage == "short":
        entries[block] = entries[block][:16]
    elif damage == "odd":
        entries[block] = entries[block][:-3]
    elif damage == "watermark":
        entries[WATERMARK] = b"1"
    else:
        entries[b"wabc"] = entries[block]

    with pytest.raises(ChangelogError):
        _windows_log.restore(KeyedWindows(SPANS, DAY), 0, entries)
