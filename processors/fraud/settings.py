"""What can be set about the fraud domain: `[domains.fraud]` of headrace.toml, over what the model's manifest says."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(gt=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]

CATEGORIES = (
    "entertainment",
    "food_dining",
    "gas_transport",
    "grocery_net",
    "grocery_pos",
    "health_fitness",
    "home",
    "kids_pets",
    "misc_net",
    "misc_pos",
    "personal_care",
    "shopping_net",
    "shopping_pos",
    "travel",
)
"""In the order of their codes, which models are trained on: append only."""


class FraudSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about fraud scoring that is not the worker's."""

    model: str = "fraud"
    """`name` or `name@version`."""
    review: Share = 0.5
    """Probability from which the decision is `review`; the model's manifest brings its own."""
    decline: Share = 0.9
    """Probability from which the decision is `decline`."""
    max_age_ms: Annotated[int, Meta(ge=0)] | None = None
    """From this age on a transaction gets the fallback; 0 is never, and unset is what `worker.max_age_ms` says."""
    fallback: Literal["approve", "review", "decline"] = "review"
    """The decision on a transaction that is too old for the model."""
    keep_features: bool = True
    """Whether the feature values used are written into the result."""
    inputs: tuple[str, ...] = ()
    """Features that the model takes, in its order; empty means all of them."""
    group_inputs: tuple[Literal["age", "gender", "region"], ...] = ()
    """Group attributes that are features too, behind all others; none unless said here."""
    categories: tuple[str, ...] = CATEGORIES
    """Position = code; any other category is unknown to the model."""
    genders: tuple[str, ...] = ("F", "M")
    regions: tuple[str, ...] = ()
    allowed_lateness_hours: Annotated[float, Meta(ge=0)] = 24.0
    """How much older than the newest event of its partition an event may be with its windows still exact."""
    max_events_per_card: Positive = 65_536
    """History kept of one card; of a card with more in 30 days the oldest events do not count."""
    max_amount: PositiveFloat = 1e8
    earliest_event: date = date(2000, 1, 1)
    """An event time before it is refused."""
    max_future_hours: PositiveFloat = 24.0
    """How far an event time may lie ahead of the message's own timestamp."""
    duplicate_window_minutes: PositiveFloat = 60.0
    """An event id seen again within it (by the messages' timestamps) is a duplicate."""
    duplicate_max_ids: Positive = 100_000
    """Event ids remembered per partition."""

    def __post_init__(self) -> None:
        if self.decline < self.review:
            raise ValueError(f"decline ({self.decline}) must not be below review ({self.review})")
        if self.max_events_per_card * self.max_amount * 1e6 >= 2**63:
            raise ValueError("max_events_per_card * max_amount must stay below 9.2e12, or sums overflow")
