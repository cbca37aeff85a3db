"""Every feature equals its definition, computed apart in plain Python, also on public data."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_windows import NEVER, PlainAnswer, PlainWindows

from processors.fraud.features import DAY_MS, FEATURE_NAMES, HOUR_MS, WINDOWS, Columns, FraudFeatures
from processors.fraud.settings import CATEGORIES, FraudSettings
from schemas.fraud import Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START = 1_790_000_000_000


class KnownMerchants:
    """Says of every merchant whose name begins with `bad` that it is."""

    def rates(self, merchants: Sequence[str]) -> np.ndarray:
        """Four figures of each merchant."""
        bad = [0.5, 0.25, 0.125, 8.0]
        return np.array([bad if name.startswith("bad") else [nan] * 4 for name in merchants], np.float32).reshape(-1, 4)


def transaction(card: int, at: int, amount: float = 10.0, **fields: Any) -> Transaction:
    """A transaction with what a test is not about filled in."""
    return Transaction(event_id="e", card=f"{card:016d}", merchant=fields.pop("merchant", "m"), amount=amount,
                       event_time=at, **fields)  # fmt: skip


def compute(features: FraudFeatures, events: Sequence[Transaction]) -> list[dict[str, float]]:
    """Features of events of one partition, by name."""
    times = np.array([event.event_time for event in events], np.int64)
    cards = [event.card.encode() for event in events]
    found = features.update(Columns.of(events, cards, times, np.zeros(len(events), np.int64)))
    return [dict(zip(features.names, row, strict=True)) for row in found.values.tolist()]


def plain_distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great circle by Vincenty's formula for a sphere, which is another one than the code's."""
    (lat1, lon1), (lat2, lon2) = ([math.radians(x) for x in place] for place in (a, b))
    across = math.cos(lat2) * math.sin(lon2 - lon1)
    along = math.cos(lat1) * math.sin(lat2) - math.sin(lat1) * math.cos(lat2) * math.cos(lon2 - lon1)
    down = math.sin(lat1) * math.sin(lat2) + math.cos(lat1) * math.cos(lat2) * math.cos(lon2 - lon1)
    return 6371.0088 * math.atan2(math.hypot(across, along), down)


def plain_features(event: Transaction, known: PlainAnswer) -> dict[str, float]:
    """The definitions, one after the other."""
    at = int(event.event_time)
    moment = datetime.fromtimestamp(at / 1000, UTC)
    here = (event.merchant_lat, event.merchant_lon)
    home = (event.home_lat, event.home_lon)
    located = None not in here
    distance = plain_distance(known.mark, here) if located and known.mark_time != NEVER else nan
    count, total = known.counts[-1], known.sums[-1] / 1e6
    return {
        "amount": event.amount,
        "amount_ratio": event.amount / (total / count) if total else nan,
        "hour": moment.hour,
        "weekday": moment.weekday(),
        "category": CATEGORIES.index(event.category) if event.category in CATEGORIES else nan,
        **{f"card_count_{window}": known.counts[row] for row, window in enumerate(WINDOWS)},
        **{f"card_sum_{window}": known.sums[row] / 1e6 for row, window in enumerate(WINDOWS)},
        "seconds_since_last": (at - known.previous) / 1000 if known.previous != NEVER else nan,
        "distance_km": distance,
        "speed_kmh": distance / (max(1000, abs(at - known.mark_time)) / HOUR_MS),
        "distance_home_km": plain_distance(home, here) if located and None not in home else nan,
        **dict(zip(FEATURE_NAMES[-4:], KnownMerchants().rates([event.merchant])[0].tolist(), strict=True)),
    }


def latitudes() -> st.SearchStrategy[float | None]:
    """Degrees or nothing."""
    return st.one_of(st.none(), st.floats(-90, 90))


events = st.builds(
    lambda card, back, amount, category, merchant, lat, lon, home: (
        back,
        transaction(
            card,
            0,
            amount,
            category=category,
            merchant=merchant,
            merchant_lat=lat,
            merchant_lon=lon,
            home_lat=home,
            home_lon=home,
        ),
    ),
    st.integers(0, 2),
    st.sampled_from([0, 0, 0, 1, 30 * 60_000, 20 * HOUR_MS, 3 * DAY_MS, 40 * DAY_MS]),
    st.floats(0.01, 1e6).map(lambda amount: round(amount, 6)),
    st.sampled_from([None, "travel", "home", "casino"]),
    st.sampled_from(["good", "bad", "bad2"]),
    latitudes(),
    latitudes(),
    latitudes(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=60), st.lists(st.sampled_from([1, 10_000, 40 * 60_000, 9 * HOUR_MS, 2 * DAY_MS])))
def test_features_equal_their_definitions(script: list[tuple[int, Transaction]], gaps: list[int]) -> None:
    """Every feature of every event equals the plain one, over ties, late and out-of-order events and missing fields."""
    plain, now, stream = PlainWindows(tuple(WINDOWS.values()), DAY_MS), START, []
    for number, (back, event) in enumerate(script):
        now += gaps[number % len(gaps)] if gaps else 0
        stream.append(
            Transaction(**{f: getattr(event, f) for f in event.__struct_fields__} | {"event_time": now - back})
        )
    expected = []
    for event in stream:
        mark = None if None in (event.merchant_lat, event.merchant_lon) else (event.merchant_lat, event.merchant_lon)
        known = plain.answer(0, event.card.encode(), int(event.event_time), round(event.amount * 1e6), mark)
        expected.append(plain_features(event, known))
    features = FraudFeatures(merchants=KnownMerchants())
    half = len(stream) // 2
    actual = compute(features, stream[:half]) + compute(features, stream[half:])

    assert [list(FEATURE_NAMES)] * len(stream) == [list(row) for row in actual]
    for wanted, got in zip(expected, actual, strict=True):
        assert wanted == pytest.approx(got, rel=1e-6, abs=1e-6, nan_ok=True)


def test_the_event_itself_is_never_in_its_windows() -> None:
    """A card's first transaction has empty windows, its second counts exactly the first."""
    first, second = compute(FraudFeatures(), [transaction(1, START, 10.5), transaction(1, START, 3.0)])

    assert [0.0] * 8 == [first[name] for name in FEATURE_NAMES if name.startswith("card_")]
    assert [1.0, 10.5] * 4 == [second[name] for name in FEATURE_NAMES if name.startswith("card_")]
    assert math.isnan(first["seconds_since_last"])
    assert 0.0 == second["seconds_since_last"]


def test_names_that_others_build_on() -> None:
    """The windows have the names that results promise."""
    promised = [f"card_{figure}_{window}" for window in ("1h", "24h", "7d", "30d") for figure in ("count", "sum")]

    assert promised == [name for name in FEATURE_NAMES if name.startswith("card_")]


def test_group_attributes_are_inputs_only_where_configured() -> None:
    """Age, gender and region change nothing unless they are set to be inputs, and then come last."""
    people = [transaction(1, START, age=30, gender="F", region="north"), transaction(2, START, gender="x")]
    strangers = [transaction(1, START), transaction(2, START)]
    configured = FraudFeatures(FraudSettings(group_inputs=("region", "age", "gender"), regions=("south", "north")))

    assert repr(compute(FraudFeatures(), people)) == repr(compute(FraudFeatures(), strangers))
    assert ("region", "age", "gender") == configured.names[-3:]
    assert [1.0, 30.0, 0.0] == list(compute(configured, people[:1])[0].values())[-3:]
    assert all(math.isnan(value) for value in list(compute(configured, people[1:])[0].values())[-3:])


def test_a_model_sees_float32_rows() -> None:
    """Inputs are one float32 row per event, in memory row by row, as a model wants them."""
    found = FraudFeatures().update(
        Columns.of([transaction(1, START)] * 3, [b"1" * 16] * 3, np.full(3, START), np.zeros(3, np.int64))
    )

    assert (np.dtype("float32"), (3, len(FEATURE_NAMES))) == (found.inputs.dtype, found.inputs.shape)
    assert found.inputs.flags.c_contiguous


def test_a_copy_of_a_place_far_away_at_once_is_fast_but_finite() -> None:
    """Two places at the same moment give the speed of one second's way, not infinity."""
    stream = [transaction(1, START, merchant_lat=0.0, merchant_lon=lon) for lon in (0.0, 1.0)]
    second = compute(FraudFeatures(), stream)[1]

    assert second["distance_km"] == pytest.approx(111.195, abs=0.01)
    assert second["speed_kmh"] == pytest.approx(111.195 * 3600, rel=1e-4)


def test_windows_on_public_data_equal_an_offline_recomputation(data_dir: Path) -> None:
    """On a sample of the handbook's customers, counts and sums equal a recomputation over all rows to 1e-6."""
    pandas = pytest.importorskip("pandas")
    path = data_dir / "fraud" / "handbook_transactions.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the test data")
    rows = pandas.read_parquet(path, columns=["TX_DATETIME", "CUSTOMER_ID", "TX_AMOUNT"])
    rows = rows[rows["CUSTOMER_ID"].astype(int) % 40 == 7].sort_values("TX_DATETIME", kind="stable")
    times = rows["TX_DATETIME"].to_numpy("datetime64[ms]").astype(np.int64)
    cards, amounts = rows["CUSTOMER_ID"].astype(int).to_numpy(), rows["TX_AMOUNT"].to_numpy(np.float64)
    values = _serve(times, cards, amounts)

    assert len(rows) > 20_000
    for span, (window, size) in enumerate(WINDOWS.items()):
        counts, sums = _recompute(times, cards, amounts, size)
        column = FEATURE_NAMES.index("card_count_1h") + 2 * span
        assert f"card_count_{window}" == FEATURE_NAMES[column]
        assert 0.0 == np.abs(values[:, column] - counts).max()
        assert np.abs(values[:, column + 1] - sums).max() < 1e-6


def _serve(times: np.ndarray, cards: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    features, found = FraudFeatures(), []
    unknown = np.full((len(times), 2), nan)
    for at in range(0, len(times), 2000):
        part = slice(at, at + 2000)
        count = len(times[part])
        columns = Columns(
            np.zeros(count, np.int64), [b"%016d" % card for card in cards[part].tolist()], times[part], amounts[part],
            ["m"] * count, [None] * count, unknown[part], unknown[part],
        )  # fmt: skip
        found.append(features.update(columns).values)
    return np.concatenate(found)


def _recompute(times: np.ndarray, cards: np.ndarray, amounts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Card by card over all its rows at once."""
    counts, sums = np.zeros(len(times)), np.zeros(len(times))
    for card in np.unique(cards):
        mine = np.flatnonzero(cards == card)
        at, amount = times[mine], amounts[mine]
        inside = (at[None, :] > at[:, None] - size) & np.tri(len(mine), k=-1, dtype=bool)
        counts[mine] = inside.sum(axis=1)
        sums[mine] = (inside * amount).sum(axis=1)
    return counts, sums
