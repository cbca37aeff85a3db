"""The simulator's worlds are repeatable, plausible, and do not give their frauds away."""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np
import pytest

from processors._ranking import average_precision, roc_auc
from processors.fraud.simulator import SCENARIOS, Batch, Bias, Simulator
from schemas.fraud import Transaction, TransactionLabel

END = 1_790_000_000_000
DAY = 86_400_000


def _simulator(seed: int = 1, events: int = 30_000, **options: object) -> Simulator:
    return Simulator(seed, events=events, days=40, end_ms=END, **options)  # type: ignore[arg-type]


def _join(batches: list[Batch], name: str) -> np.ndarray:
    return np.concatenate([getattr(batch, name) for batch in batches])


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return list(_simulator(7, 120_000).batches(7_000))


def test_a_seed_is_a_stream() -> None:
    """The same seed gives the same bytes and labels, however batches are cut; another seed shares no card or id."""
    small = list(_simulator(3).batches(997))
    large = list(_simulator(3).batches(20_000))
    other = next(_simulator(4).batches(20_000))

    assert [v for b in large for v in b.values] == [v for b in small for v in b.values]
    assert [k for b in large for k in b.keys] == [k for b in small for k in b.keys]
    known = [v for b in large for v in b.labels.values]
    assert known == [v for b in small for v in b.labels.values][: len(known)]
    assert not set(other.keys) & set(large[0].keys)
    assert not set(other.event_ids) & set(large[0].event_ids)


@pytest.mark.parametrize("events", [0, 1, 999, 30_000])
def test_exactly_as_many_events_as_asked(events: int) -> None:
    """Batches are full but for the last, and their lengths add up."""
    sizes = [len(batch) for batch in _simulator(2, events).batches(1_000)]

    assert events == sum(sizes)
    assert all(size == 1_000 for size in sizes[:-1])


def test_events_are_sorted_unique_and_in_the_past(batches: list[Batch]) -> None:
    """Event times rise, lie in the days before the end, and ids are never used twice."""
    times = _join(batches, "event_time")
    ids = [event_id for batch in batches for event_id in batch.event_ids]

    assert (np.diff(times) >= 0).all()
    assert END - 40 * DAY <= times[0] <= times[-1] < END
    assert len(ids) == len(set(ids)) == 120_000


def test_values_are_valid_transactions(batches: list[Batch]) -> None:
    """Every message decodes, agrees with the columns, keys on its card, and tells nothing of the truth."""
    decoder = msgspec.json.Decoder(Transaction)
    batch = batches[3]
    events = [decoder.decode(value) for value in batch.values]

    assert batch.event_time.tolist() == [event.event_time for event in events]
    assert batch.amount.tolist() == [event.amount for event in events]
    assert batch.keys == [event.card.encode() for event in events]
    assert batch.event_ids == [event.event_id for event in events]
    assert set(Transaction.__struct_fields__) >= set(msgspec.json.decode(batch.values[0]))
    assert {None} != {event.merchant_lat for event in events} > {None}
    assert all(18 <= event.age <= 92 for event in events if event.age is not None)


def test_card_numbers_look_real_and_are_not(batches: list[Batch]) -> None:
    """Sixteen digits, a valid check digit, a prefix that no bank issues."""
    for key in islice({key for batch in batches for key in batch.keys}, 200):
        digits = [int(digit) for digit in key.decode()]
        doubled = [digit * 2 - 9 * (digit > 4) if place % 2 == 0 else digit for place, digit in enumerate(digits)]

        assert len(digits) == 16
        assert sum(doubled) % 10 == 0
        assert key.startswith(b"400000")


def test_frauds_are_as_many_as_asked_and_of_every_kind(batches: list[Batch]) -> None:
    """The rate holds to the unit, and each hidden scenario happens."""
    scenario = _join(batches, "scenario")

    assert round(120_000 * 0.008) == _join(batches, "is_fraud").sum()
    assert set(range(len(SCENARIOS))) == set(scenario.tolist())
    assert not _simulator(fraud_rate=0).batches(30_000).__next__().is_fraud.any()


def test_people_sleep_and_shop(batches: list[Batch]) -> None:
    """Nights are quiet, some merchants and cards are much busier than others."""
    genuine = ~_join(batches, "is_fraud")
    hours = _join(batches, "event_time")[genuine] // 3_600_000 % 24
    by_hour = np.bincount(hours, minlength=24)
    by_card = np.sort(np.bincount(_join(batches, "card")))

    assert by_hour[1:5].sum() < 0.5 * by_hour[11:15].sum()
    assert by_card[-len(by_card) // 5 :].sum() > 0.35 * by_card.sum()


def test_labels_arrive_days_late(batches: list[Batch]) -> None:
    """Every fraud gets a label, a week late in the middle; a few genuine events are cleared; order is of arrival."""
    simulator = _simulator(7, 120_000)
    labels = simulator.labels()
    truth = _join(batches, "is_fraud")
    decoded = msgspec.json.Decoder(TransactionLabel)
    values = [decoded.decode(value) for value in labels.values]
    delay = labels.labelled_at - _join(batches, "event_time")[labels.event_number]
    frauds = np.array([value.is_fraud for value in values])

    assert (np.diff(labels.labelled_at) >= 0).all()
    assert truth[labels.event_number].tolist() == frauds.tolist()
    assert truth.sum() == frauds.sum()
    assert 5 < np.median(delay[frauds]) / DAY < 8
    assert delay.max() <= 60 * DAY + 1
    assert 0.001 < (~frauds).sum() / (~truth).sum() < 0.003
    assert labels.keys == [value.merchant.encode() for value in values]


def test_batches_carry_the_labels_known_by_then(batches: list[Batch]) -> None:
    """What comes with the batches is what has arrived by their last event, each once."""
    known = [value for batch in batches for value in batch.labels.values]
    last = int(batches[-1].event_time[-1])

    assert _simulator(7, 120_000).labels(last).values == known
    assert all(batch.labels.labelled_at.max(initial=0) <= batch.event_time[-1] for batch in batches)


def test_single_columns_do_not_give_frauds_away(batches: list[Batch]) -> None:
    """Amount, hour and merchant alone rank frauds badly: the world does not leak its truth."""
    truth = _join(batches, "is_fraud")
    hours = _join(batches, "event_time") // 3_600_000 % 24
    for column in (_join(batches, "amount"), -np.abs(hours - 1.0), _join(batches, "merchant").astype(float)):
        area, precision = roc_auc(truth, column), average_precision(truth, column)

        assert area is not None
        assert precision is not None
        assert area < 0.85
        assert precision < 0.2


def test_bias_moves_what_it_says(batches: list[Batch]) -> None:
    """The knobs change take-overs of the elderly and honest bursts of women; region stays without effect."""

    def share(bias: Bias, scenario: str, attribute: str, value: int) -> float:
        simulator = Simulator(5, cards=4_000, days=40, end_ms=END, events=150_000, bias=bias)
        parts = list(simulator.batches(50_000))
        chosen = _join(parts, "card")[_join(parts, "scenario") == SCENARIOS.index(scenario)]
        column = getattr(simulator.world.cards, attribute)[chosen]
        return float((column >= value).mean() if attribute == "age" else (column == value).mean())

    even, strong = Bias(elderly_takeover=1), Bias(elderly_takeover=6, women_bursts=4)

    assert share(strong, "takeover", "age", 65) > share(even, "takeover", "age", 65) + 0.2
    assert share(strong, "shopping_burst", "gender", 0) > share(even, "shopping_burst", "gender", 0) + 0.2
    assert abs(share(strong, "takeover", "region", 0) - 0.25) < 0.15


@pytest.mark.parametrize("options", [{"days": 0}, {"fraud_rate": 0.7}, {"merchants": 3}, {"cards": 1}])
def test_impossible_worlds_are_refused(options: dict[str, float]) -> None:
    """Arguments out of range raise an error that names them."""
    with pytest.raises(ValueError, match="got"):
        Simulator(1, **{"end_ms": END, "events": 100, **options})  # type: ignore[arg-type]
