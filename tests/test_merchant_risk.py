"""The ledger of merchant risk against a plain reading of its definitions, whatever the order things arrive in."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.fraud.merchant_risk import HOUR_MS, MerchantRiskLedger, MerchantRiskTable
from schemas.fraud import MerchantRisk, MerchantTally

DELAY_DAYS, PRIOR = 2.0, 5.0
DELAY_HOURS = 48
WINDOWS = (24, 168, 720)


class Event(NamedTuple):
    """One transaction of a source, at its offset."""

    merchant: str
    hour: int


class Label(NamedTuple):
    """What became of a transaction."""

    event_id: str
    merchant: str
    is_fraud: bool
    hour: int
    labelled_at: int


def oracle(events: list[Event], labels: list[Label]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], list[float]]]:
    """Counts, frauds and rates per merchant, straight from the definitions."""
    as_of = max(event.hour for event in events)
    holds: dict[tuple[str, str], Label] = {}
    for label in labels:
        held = holds.get((label.merchant, label.event_id))
        order = (label.labelled_at, label.is_fraud, label.hour)
        if held is None or order > (held.labelled_at, held.is_fraud, held.hour):
            holds[label.merchant, label.event_id] = label
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    frauds: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for window, width in enumerate(WINDOWS):
        for event in events:
            counts[event.merchant][window] += as_of - DELAY_HOURS - width < event.hour <= as_of - DELAY_HOURS
        for label in holds.values():
            inside = as_of - DELAY_HOURS - width < label.hour <= as_of - DELAY_HOURS
            frauds[label.merchant][window] += label.is_fraud and inside
    total = sum(c[2] for c in counts.values())
    overall = min(1.0, sum(f[2] for f in frauds.values()) / total) if total else 0.0
    return {
        merchant: (
            tuple(counts[merchant]),
            tuple(frauds[merchant]),
            [
                min(1.0, (f + PRIOR * overall) / (c + PRIOR))
                for c, f in zip(counts[merchant], frauds[merchant], strict=True)
            ],
        )
        for merchant in {*counts, *frauds}
        if total and (counts[merchant][2] or frauds[merchant][2])
    }


def told(rows: list[MerchantRisk]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], list[float]]]:
    """The ledger's answer in the form of the oracle's."""
    return {
        r.merchant: (
            (r.count_1d, r.count_7d, r.count_30d),
            (r.frauds_1d, r.frauds_7d, r.frauds_30d),
            [r.rate_1d, r.rate_7d, r.rate_30d],
        )
        for r in rows
    }


def assert_same(expected: dict, actual: dict) -> None:
    """Counts and frauds equal, rates to float accuracy."""
    assert {m: v[:2] for m, v in expected.items()} == {m: v[:2] for m, v in actual.items()}
    for merchant, (_, _, rates) in expected.items():
        assert rates == pytest.approx(actual[merchant][2], abs=1e-12)


def tallies(events: list[Event], cuts: list[int], source: int) -> list[MerchantTally]:
    """The events of a source in tallies that end at the cuts."""
    edges = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    return [tally(events, start, end, source) for start, end in pairwise(edges)]


def tally(events: list[Event], start: int, end: int, source: int = 0) -> MerchantTally:
    """One tally of events[start:end]."""
    sums: dict[Event, int] = defaultdict(int)
    for event in events[start:end]:
        sums[event] += 1
    return MerchantTally(
        topic="transactions",
        partition=source,
        first_offset=start,
        last_offset=end - 1,
        merchants=[event.merchant for event in sums],
        hours=[event.hour for event in sums],
        counts=list(sums.values()),
    )


def take(ledger: MerchantRiskLedger, what: MerchantTally | Label) -> None:
    """Gives a tally or a label to the ledger."""
    if isinstance(what, MerchantTally):
        ledger.add_tally(what)
    else:
        ledger.add_label(what.event_id, what.merchant, what.is_fraud, what.hour * HOUR_MS + 7, what.labelled_at)


def new_ledger() -> MerchantRiskLedger:
    """A ledger with the delay and prior that the oracle uses."""
    return MerchantRiskLedger(DELAY_DAYS, PRIOR)


def risk(merchant: str, rate: float, count: int = 10) -> MerchantRisk:
    """Figures of one merchant."""
    return MerchantRisk(merchant, 0, 7.0, count, count, count, 0, 0, 0, rate, rate, rate)


merchants = st.sampled_from(["a", "b", "c", "d"])
# Hours that fall into, between and out of the windows, and move the head by more than a horizon at times.
hours = st.one_of(st.integers(500_000, 500_060), st.integers(500_000, 501_600))
event_lists = st.lists(st.builds(Event, merchants, hours), max_size=40)
# An event has one time, whatever its labels say of it.
labels_lists = st.lists(hours, min_size=5, max_size=5).flatmap(
    lambda at: st.lists(
        st.tuples(st.integers(0, 4), merchants, st.booleans(), st.integers(0, 5)).map(
            lambda drawn: Label(f"e{drawn[0]}", drawn[1], drawn[2], at[drawn[0]], drawn[3])
        ),
        max_size=30,
    )
)


# Which queue goes on, and whether it rewinds half its way (0) or the process starts again (1) after that.
schedules = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(event_lists, min_size=1, max_size=3),
    st.lists(st.integers(0, 60), max_size=6),
    labels_lists.flatmap(st.permutations),
    schedules,
)
def test_any_order_repetition_split_and_restart_gives_the_figures_of_the_definitions(sources, cuts, labels, schedule):
    """Sources interleave, are cut anywhere, rewind; labels come in any order and twice; the process starts again."""
    events = [event for source in sources for event in source]
    if not events:
        return
    queues: list[list] = [tallies(source, cuts[number:], number) for number, source in enumerate(sources)]
    queues.append([*labels, *labels[:3]])
    ledger = new_ledger()
    positions = [0] * len(queues)
    for choice, action in schedule:
        number = choice % len(queues)
        for what in queues[number][positions[number] : positions[number] + 2]:
            take(ledger, what)
            positions[number] += 1
        if action == 0:
            positions[number] //= 2
        if action == 1:
            ledger = restarted(ledger)
    for number, queue in enumerate(queues):
        for what in queue[positions[number] :]:
            take(ledger, what)

    assert_same(oracle(events, labels), told(ledger.risk()))


def restarted(ledger: MerchantRiskLedger) -> MerchantRiskLedger:
    """A ledger that was restored from all that the other one keeps."""
    ledger._dirty.update(ledger._rows.values())
    copy = new_ledger()
    copy.restore(ledger.drain())
    return copy


def test_windows_move_with_time_hour_by_hour():
    """Asked at every hour, figures equal the definitions at that hour."""
    rng = np.random.default_rng(3)
    events = [
        Event(f"m{m}", 500_000 + int(h))
        for m, h in zip(rng.integers(0, 5, 900), np.sort(rng.integers(0, 1200, 900)), strict=True)
    ]
    labels = [Label(str(i), e.merchant, True, e.hour, 1) for i, e in enumerate(events) if i % 7 == 0]
    ledger = new_ledger()
    for label in labels:
        take(ledger, label)
    for end in range(1, len(events) + 1):
        take(ledger, tally(events, end - 1, end))
        if end % 60 == 0:
            assert_same(oracle(events[:end], labels), told(ledger.risk()))


def test_a_late_count_goes_into_the_windows_that_hold_its_hour():
    """A tally of an hour long past changes the figures at once, as if it had come in time."""
    events = [Event("a", 501_000), Event("a", 501_000 - 60)]
    ledger = new_ledger()
    take(ledger, tally(events, 0, 1))
    before = ledger.risk()
    take(ledger, tally(events, 1, 2))

    assert [] == before
    assert (1, 1, 1) == told(ledger.risk())["a"][0]


def test_an_overlapping_range_is_not_counted_again():
    """A range that begins before the end of what was counted counts nothing, and is said to be repeated."""
    events = [Event("a", 500_000)] * 10
    ledger = new_ledger()
    assert 5 == ledger.add_tally(tally(events, 0, 5))
    assert 0 == ledger.add_tally(tally(events, 3, 8))
    assert 3 == ledger.add_tally(tally(events, 5, 8))
    assert 1 == ledger.skipped["repeated"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_reversal_holds_also_when_it_comes_first(order):
    """Of two labels of one event the later judgement holds, whatever arrives first."""
    labels = [Label("e", "a", True, 500_000, 1), Label("e", "a", False, 500_000, 2)]
    ledger = new_ledger()
    for number in order:
        take(ledger, labels[number])
    take(ledger, tally([Event("a", 500_000), Event("a", 500_048)], 0, 2))

    assert (0, 0, 0) == told(ledger.risk())["a"][1]


def test_labels_before_any_tally_are_kept():
    """A label that comes before anything was tallied counts once time reaches it."""
    ledger = new_ledger()
    take(ledger, Label("e", "a", True, 500_000, 1))
    assert ledger.risk() == []
    take(ledger, tally([Event("a", 500_000), Event("b", 500_048)], 0, 2))

    assert ((1, 1, 1), (1, 1, 1)) == told(ledger.risk())["a"][:2]


def test_time_beyond_the_limit_moves_nothing():
    """An event of the year 2200 neither counts nor ends the windows of everybody else."""
    ledger = new_ledger()
    ledger.add_tally(tally([Event("a", 500_000), Event("a", 500_048), Event("b", 2_016_000)], 0, 3), 500_100)

    assert 500_048 * HOUR_MS == ledger.as_of_ms
    assert 1 == ledger.skipped["too_far_ahead"]
    assert not ledger.add_label("e", "a", True, 2_016_000 * HOUR_MS, 1, 500_100)


def test_only_news_is_told():
    """Asked twice, nothing; after a label its merchant; a merchant that has no figures any more as None."""
    events = [Event(f"m{i}", 500_000) for i in range(200) for _ in range(20)] + [Event("m0", 500_048)]
    ledger = new_ledger()
    take(ledger, tally(events, 0, len(events)))
    assert 200 == len(ledger.changed())
    assert [] == ledger.changed()
    for number in range(40):
        take(ledger, Label(f"e{number}", "m7", True, 500_000, 1))
    ledger.changed()
    take(ledger, Label("e99", "m7", True, 500_000, 1))

    news = dict(ledger.changed(tolerance=0.05))
    assert ["m7"] == list(news)
    assert 41 == news["m7"].frauds_1d
    later = dict(ledger.changed((500_048 + 720) * HOUR_MS))
    assert {None} == {later[f"m{i}"] for i in range(1, 200)}


def test_idle_merchants_are_forgotten_and_their_places_used_again():
    """What no window can hold any more leaves memory; a new merchant starts clean in the old one's place."""
    ledger = new_ledger()
    take(ledger, tally([Event("old", 500_000)], 0, 1))
    take(ledger, Label("e", "old", True, 500_000, 1))
    take(ledger, tally([Event("busy", 500_900)], 0, 1, source=1))
    assert ["old"] == ledger.forget_idle()
    take(ledger, tally([Event("new", 500_852), Event("new", 500_900)], 0, 2))

    assert 2 == len(ledger)
    assert {"new": ((1, 1, 1), (0, 0, 0))} == {m: v[:2] for m, v in told(ledger.risk()).items()}
    assert 0 == ledger.add_tally(tally([Event("old", 500_000)], 0, 1))


def test_offline_counts_equal_tallies():
    """The bulk path of the trainer and the tallies of the workers give the same figures."""
    rng = np.random.default_rng(5)
    names = [f"m{n}" for n in rng.integers(0, 50, 3000)]
    at = np.sort(rng.integers(500_000, 501_000, 3000))
    offline, live = new_ledger(), new_ledger()
    offline.add_counts(offline.rows(names), at, np.ones(3000, np.int64))
    take(live, tally([Event(m, int(h)) for m, h in zip(names, at, strict=True)], 0, 3000))

    assert_same(told(live.risk()), told(offline.risk()))


def test_the_table_says_what_the_ledger_says():
    """What a worker reads from the topic are the features that a trainer computes, to the last bit."""
    rng = np.random.default_rng(6)
    ledger, table = new_ledger(), MerchantRiskTable()
    names = [f"m{n}" for n in range(3000)]
    rows = ledger.rows(names)
    some = rng.choice(rows[:2900], 20_000)
    ledger.add_counts(some, rng.integers(500_000, 501_000, 20_000), np.ones(20_000, np.int64))
    for number in range(300):
        ledger.add_label(str(number), f"m{number}", True, 500_900 * HOUR_MS, 1)
    for name, news in ledger.changed():
        table.update(name.encode(), None if news is None else msgspec.json.encode(news))

    np.testing.assert_array_equal(ledger.figures().features()[rows], table.rates(names))
    assert np.isnan(table.rates(["nobody", "m2999"])).all()


def test_the_table_forgets_and_skips():
    """A tombstone forgets; what cannot be read is counted and changes nothing."""
    table = MerchantRiskTable()
    table.update(b"a", msgspec.json.encode(risk("a", 0.25)))
    table.update(b"b", msgspec.json.encode(risk("b", 0.5)))
    for key, value in [(b"a", b"{"), (b"a", b'{"merchant": 1}'), (b"\xff", None), (b"a", b"\xff\xfe")]:
        table.update(key, value)
    table.update(b"b", None)
    table.update(b"c", None)

    assert 4 == table.unreadable
    assert [[0.25, 0.25, 0.25, 10.0]] == table.rates(["a"]).tolist()
    assert all(math.isnan(value) for value in table.rates(["b"])[0])
    assert (0, 4) == table.rates([]).shape


def test_a_restored_ledger_goes_on_where_the_other_stopped():
    """Covers survive: after a restart, what was counted is refused and what was not is counted."""
    events = [Event("a", 500_000)] * 6 + [Event("b", 500_048)]
    ledger = new_ledger()
    take(ledger, tally(events, 0, 4))
    copy = new_ledger()
    copy.restore(ledger.drain())
    for start, end in [(0, 4), (4, 6), (6, 7)]:
        take(copy, tally(events, start, end))

    assert (6, 6, 6) == told(copy.risk())["a"][0]
    assert [] == ledger.drain()
