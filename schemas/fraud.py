"""The messages of the fraud domain: card transactions in, scores out, labels late."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A card transaction (topic `transactions`, key = card)."""

    event_id: Name
    card: Name
    merchant: Name
    amount: Annotated[float, Meta(gt=0)]
    event_time: str | int | float
    """RFC 3339 with an offset, or epoch milliseconds; both become epoch milliseconds when decoded."""
    category: str | None = None
    currency: Annotated[str, Meta(min_length=3, max_length=3)] = "USD"
    merchant_lat: Latitude | None = None
    merchant_lon: Longitude | None = None
    home_lat: Latitude | None = None
    home_lon: Longitude | None = None
    age: Annotated[int, Meta(ge=0, le=130)] | None = None
    gender: str | None = None
    region: str | None = None


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why a score is high: a feature and its share of the log-odds."""

    feature: str
    contribution: float


class FraudScore(msgspec.Struct, frozen=True, gc=False):
    """The answer to one transaction (topic `fraud-scores`, key = card token)."""

    event_id: str
    card_token: str
    merchant: str
    probability: float
    decision: str
    """`approve`, `review` or `decline`."""
    reasons: list[Reason]
    features: dict[str, float | None]
    model: str
    """`name@version`."""
    event_time: int
    """Epoch milliseconds."""
    scored_at: int
    latency_ms: float
    late: bool
    amount: float
    category: str | None = None
    currency: str = "USD"
    age: int | None = None
    gender: str | None = None
    region: str | None = None


class TransactionLabel(msgspec.Struct, frozen=True):
    """What became of a transaction (topic `transaction-labels`, key = merchant)."""

    event_id: Name
    merchant: Name
    is_fraud: bool
    event_time: str | int | float
    labelled_at: str | int | float


class MerchantTally(msgspec.Struct, frozen=True):
    """Transactions per merchant and hour in one transaction of a worker (topic `merchant-tallies`).

    Three columns of equal length; `first_offset..last_offset` is the range of the source partition that
    they cover, so that whoever sums them can tell a range seen before.
    """

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    merchants: list[str]
    hours: list[int]
    """Event time in whole hours since the epoch."""
    counts: list[int]


class MerchantRisk(msgspec.Struct, frozen=True):
    """What labels say of a merchant so far (topic `merchant-risk`, compacted, key = merchant).

    Windows end `delay_days` before `as_of`; rates are smoothed towards the overall rate.
    """

    merchant: str
    as_of: int
    """Epoch milliseconds of the newest event time that the figures know of."""
    delay_days: float
    count_1d: int
    count_7d: int
    count_30d: int
    frauds_1d: int
    frauds_7d: int
    frauds_30d: int
    rate_1d: float
    rate_7d: float
    rate_30d: float


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that got no result (topic `<domain>.dead-letters`; key, value and headers are the original's).

    This struct travels in the message's headers as `headrace-*`, so that the value stays the original bytes.
    """

    reason: str
    path: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    rejected_at: int
