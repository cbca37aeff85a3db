"""The messages of the fraud domain: card transactions in, scores out, labels late."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.dead_letter import dead_letter_topic
from schemas.fields import Age, Count, EpochMs, Latitude, Longitude, Name, Share, Time, Word
from schemas.topics import TableSpec, TopicType

Currency = Annotated[str, Meta(min_length=3, max_length=3, extra={"kind": "word"})]
Decision = Annotated[str, Meta(extra_json_schema={"enum": ["approve", "review", "decline"]}, extra={"kind": "word"})]


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A card transaction (topic `transactions`, key = card)."""

    event_id: Name
    card: Name
    merchant: Name
    amount: Annotated[float, Meta(gt=0)]
    event_time: Time
    category: Word | None = None
    currency: Currency = "USD"
    merchant_lat: Latitude | None = None
    merchant_lon: Longitude | None = None
    home_lat: Latitude | None = None
    home_lon: Longitude | None = None
    age: Age | None = None
    gender: Word | None = None
    region: Word | None = None


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why a score is high: a feature and its share of the log-odds."""

    feature: Word
    contribution: float


class FraudScore(msgspec.Struct, frozen=True, gc=False):
    """The answer to one transaction (topic `fraud-scores`, key = card token)."""

    event_id: str
    card_token: str
    merchant: str
    probability: Share
    """Calibrated probability that the transaction is fraud."""
    decision: Decision
    """`approve`, `review` or `decline`."""
    reasons: list[Reason]
    """The strongest first; empty where the decision is `approve`."""
    features: dict[Word, float | None]
    """What the model was given, by name; null where a value is unknown."""
    model: Word
    """`name@version`; `fallback` where the transaction was too old for the model."""
    event_time: EpochMs
    scored_at: EpochMs
    latency_ms: float
    """From the message's timestamp on the input topic to `scored_at`."""
    late: bool
    """Whether the event came after the lateness allowed: scored, but its windows may miss events."""
    amount: float
    category: Word | None = None
    currency: Word = "USD"
    age: Age | None = None
    gender: Word | None = None
    region: Word | None = None


class TransactionLabel(msgspec.Struct, frozen=True):
    """What became of a transaction (topic `transaction-labels`, key = merchant)."""

    event_id: Name
    merchant: Name
    is_fraud: bool
    event_time: Time
    labelled_at: Time


class MerchantTally(msgspec.Struct, frozen=True):
    """Transactions per merchant and hour in one transaction of a worker (topic `merchant-tallies`).

    Three columns of equal length; `first_offset..last_offset` is the range of the source partition that
    they cover, so that whoever sums them can tell a range seen before.
    """

    topic: str
    partition: Count
    first_offset: Count
    last_offset: Count
    merchants: list[str]
    hours: list[int]
    """Event time in whole hours since the epoch."""
    counts: list[int]


class MerchantRisk(msgspec.Struct, frozen=True):
    """What labels say of a merchant so far (topic `merchant-risk`, compacted, key = merchant).

    Windows end `delay_days` before `as_of`; rates are smoothed towards the overall rate.
    """

    merchant: str
    as_of: EpochMs
    """The newest event time that the figures know of."""
    delay_days: float
    count_1d: Count
    count_7d: Count
    count_30d: Count
    frauds_1d: Count
    frauds_7d: Count
    frauds_30d: Count
    rate_1d: Share
    rate_7d: Share
    rate_30d: Share


TOPICS = [
    TopicType(
        name="transactions",
        message=Transaction,
        key="the card, in clear",
        direction="input",
        description="Card transactions to be scored, in the order of each card.",
    ),
    TopicType(
        name="fraud-scores",
        message=FraudScore,
        key="the card token",
        direction="output",
        description="One answer to each transaction that could be scored.",
        table=TableSpec(
            name="fraud_scores",
            order_by=("toStartOfHour(scored_at)", "merchant", "scored_at"),
            lookups=("event_id", "card_token"),
        ),
    ),
    TopicType(
        name="transaction-labels",
        message=TransactionLabel,
        key="the merchant",
        direction="input",
        description="What became of transactions, as it gets known; a later label of an event replaces earlier ones.",
        table=TableSpec(name="transaction_labels", order_by=("event_id",), lookups=("merchant",)),
    ),
    TopicType(
        name="merchant-tallies",
        message=MerchantTally,
        key="the source partition, `topic/partition`, so that its tallies keep their order",
        direction="internal",
        description="Transactions per merchant and hour, one message or more per source partition and transaction.",
    ),
    TopicType(
        name="merchant-risk",
        message=MerchantRisk,
        key="the merchant",
        direction="internal",
        description="What labels say of each merchant, behind the delay of labels; read whole by every worker.",
        compacted=True,
    ),
    dead_letter_topic("fraud"),
]
