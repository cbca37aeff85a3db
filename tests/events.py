"""Strategies for messages of the fraud domain, valid ones and spoilt ones."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

from schemas.envelope import Record
from schemas.fraud import FraudScore, MerchantRisk, MerchantTally, Reason, Transaction, TransactionLabel

CARD = "4111111111111111"

# Strings as UTF-8 can carry them: surrogates alone are no text.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)
COUNTS = st.integers(0, 2**63 - 1)
TIMES_MS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.one_of(TEXT, TIMES_MS, NUMBERS.filter(lambda x: not x.is_integer()))

TRANSACTIONS = st.builds(
    Transaction,
    event_id=NAMES,
    card=NAMES,
    merchant=NAMES,
    amount=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    event_time=TIMES,
    category=st.none() | TEXT,
    currency=st.text("ABCDEF", min_size=3, max_size=3),
    merchant_lat=st.none() | st.floats(-90, 90),
    merchant_lon=st.none() | st.floats(-180, 180),
    home_lat=st.none() | st.floats(-90, 90),
    home_lon=st.none() | st.floats(-180, 180),
    age=st.none() | st.integers(0, 130),
    gender=st.none() | TEXT,
    region=st.none() | TEXT,
)

SCORES = st.builds(
    FraudScore,
    event_id=TEXT,
    card_token=TEXT,
    merchant=TEXT,
    probability=SHARES,
    decision=st.sampled_from(["approve", "review", "decline"]),
    reasons=st.lists(st.builds(Reason, feature=TEXT, contribution=NUMBERS), max_size=3),
    features=st.dictionaries(TEXT, st.none() | NUMBERS, max_size=5),
    model=TEXT,
    event_time=TIMES_MS,
    scored_at=TIMES_MS,
    latency_ms=NUMBERS,
    late=st.booleans(),
    amount=NUMBERS,
    category=st.none() | TEXT,
    currency=TEXT,
    age=st.none() | st.integers(0, 130),
    gender=st.none() | TEXT,
    region=st.none() | TEXT,
)

LABELS = st.builds(
    TransactionLabel, event_id=NAMES, merchant=NAMES, is_fraud=st.booleans(), event_time=TIMES, labelled_at=TIMES
)

TALLIES = st.builds(
    MerchantTally,
    topic=TEXT,
    partition=COUNTS,
    first_offset=COUNTS,
    last_offset=COUNTS,
    merchants=st.lists(TEXT, max_size=4),
    hours=st.lists(st.integers(-(2**31), 2**31), max_size=4),
    counts=st.lists(st.integers(0, 2**31), max_size=4),
)

RISKS = st.builds(
    MerchantRisk,
    merchant=TEXT,
    as_of=TIMES_MS,
    delay_days=NUMBERS,
    **{f"{what}_{window}": COUNTS for what in ("count", "frauds") for window in ("1d", "7d", "30d")},
    **{f"rate_{window}": SHARES for window in ("1d", "7d", "30d")},
)

MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    Transaction: TRANSACTIONS,
    FraudScore: SCORES,
    TransactionLabel: LABELS,
    MerchantTally: TALLIES,
    MerchantRisk: RISKS,
}


def transaction(**changed: Any) -> dict[str, Any]:
    """A valid transaction as a dict, with some fields changed; `...` leaves a field out."""
    fields = {
        "event_id": "event-1",
        "card": CARD,
        "merchant": "merchant-1",
        "amount": 12.5,
        "event_time": "2026-11-24T12:00:00.250Z",
        "category": "grocery",
    }
    return {name: value for name, value in (fields | changed).items() if value is not ...}


def value(**changed: Any) -> bytes:
    """The same as a message's value; Python writes NaN and Infinity, which JSON does not have."""
    return json.dumps(transaction(**changed)).encode()


def records(values: list[bytes | None], topic: str = "transactions") -> list[Record]:
    """One record per value, at offsets from 0."""
    return [Record(topic, 0, offset, b"key", value, 1_764_000_000_000) for offset, value in enumerate(values)]


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.just(math.nan),
    st.just(math.inf),
    st.just(-1),
    st.just(1e308),
    st.just(10**400),
    st.just(""),
    st.just("x" * 300),
    st.just([]),
    st.just({"card": CARD}),
    st.just(...),
    st.just(CARD),
    st.just(int(CARD)),
)


@st.composite
def spoilt_values(draw: st.DrawFn) -> bytes:
    """A valid transaction with a field gone wrong, or with its bytes gone wrong, or both, or neither."""
    changed = draw(st.dictionaries(st.sampled_from(sorted(transaction())), ODD_VALUES, max_size=2))
    good = value(**changed)
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(len(good), start + 4)))
    return good[:start] + draw(st.just(good[start:end]) | st.binary(max_size=4)) + good[end:]
