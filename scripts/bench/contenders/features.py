"""The fraud features in plain Python, an event at a time: what a user of any stream library would write.

The same definitions as headrace's, for events that come in time order within their card; no code in common.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import onnxruntime

if TYPE_CHECKING:
    import numpy as np

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPANS = (HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
NAMES = (
    "amount", "amount_ratio", "hour", "weekday", "category",
    "card_count_1h", "card_sum_1h", "card_count_24h", "card_sum_24h",
    "card_count_7d", "card_sum_7d", "card_count_30d", "card_sum_30d",
    "seconds_since_last", "distance_km", "speed_kmh", "distance_home_km",
    "merchant_rate_1d", "merchant_rate_7d", "merchant_rate_30d", "merchant_count_30d",
)  # fmt: skip
WHOLE = {"hour", "weekday", "category"} | {name for name in NAMES if "_count_" in name}
NAN = math.nan
_EARTH_KM = 6371.0088


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """What comes in, validated as headrace does."""

    event_id: str
    card: str
    merchant: str
    amount: Annotated[float, msgspec.Meta(gt=0)]
    event_time: int
    category: str | None = None
    currency: str = "USD"
    merchant_lat: Annotated[float, msgspec.Meta(ge=-90, le=90)] | None = None
    merchant_lon: Annotated[float, msgspec.Meta(ge=-180, le=180)] | None = None
    home_lat: Annotated[float, msgspec.Meta(ge=-90, le=90)] | None = None
    home_lon: Annotated[float, msgspec.Meta(ge=-180, le=180)] | None = None
    age: int | None = None
    gender: str | None = None
    region: str | None = None


class Card(msgspec.Struct, array_like=True, gc=False):
    """What is remembered of a card: 30 days of purchases in order of time, and the last place."""

    times: list[int] = []
    amounts: list[float] = []
    place: tuple[float, float] | None = None
    placed_at: int = 0


decode = msgspec.json.Decoder(Transaction).decode
pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Card).decode


class Model:
    """The fraud model, the codes of its categories, and the thresholds of its decisions."""

    def __init__(self, given: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(given["model"], options, providers=["CPUExecutionProvider"])
        self.codes = {name: float(code) for code, name in enumerate(given["categories"])}
        self.reference: str = given["reference"]
        self._review, self._decline = float(given["review"]), float(given["decline"])

    def decide(self, probability: float) -> str:
        """The decision about a probability."""
        if probability < self._review:
            return "approve"
        return "review" if probability < self._decline else "decline"

    def scores(self, rows: np.ndarray) -> list[float]:
        """Probabilities of n rows of features."""
        [probability] = self._session.run(["probability"], {"features": rows})
        found: list[float] = probability.ravel().tolist()
        return found


def features(event: Transaction, card: Card, codes: dict[str, float]) -> list[float]:
    """The 21 values of an event as of its turn; the event then joins the history of its card."""
    now, times, amounts = event.event_time, card.times, card.amounts
    forget(card, now)
    upto = bisect_right(times, now)
    windows: list[float] = []
    total = 0.0
    for span in SPANS:
        start = bisect_right(times, now - span, 0, upto)
        total = sum(amounts[start:upto])
        windows += (float(upto - start), total)
    mean = total / windows[-2] if windows[-2] else 0.0
    place = located(event.merchant_lat, event.merchant_lon)
    distance = km(card.place, place)
    hours = max(abs(now - card.placed_at), 1000) / HOUR_MS
    values = [
        event.amount,
        event.amount / mean if mean > 0 else NAN,
        float(now // HOUR_MS % 24),
        float((now // DAY_MS + 3) % 7),
        codes.get(event.category or "", NAN),
        *windows,
        (now - times[upto - 1]) / 1000 if upto else NAN,
        distance,
        distance / hours,
        km(located(event.home_lat, event.home_lon), place),
        NAN,
        NAN,
        NAN,
        NAN,
    ]
    remember(card, now, event.amount, place)
    return values


def remember(card: Card, now: int, amount: float, place: tuple[float, float] | None) -> None:
    """Adds a purchase."""
    if not card.times or now >= card.times[-1]:
        card.times.append(now)
        card.amounts.append(amount)
    else:
        at = bisect_right(card.times, now)
        insort(card.times, now)
        card.amounts.insert(at, amount)
    if place is not None and now >= card.placed_at:
        card.place, card.placed_at = place, now


def forget(card: Card, now: int) -> None:
    """Drops what is older than the longest window and the day that events may be late."""
    floor = now - SPANS[-1] - DAY_MS
    gone = bisect_right(card.times, floor)
    if gone:
        del card.times[:gone], card.amounts[:gone]
    if card.placed_at <= floor:
        card.place = None


def located(lat: float | None, lon: float | None) -> tuple[float, float] | None:
    """A place, where both are known."""
    return None if lat is None or lon is None else (lat, lon)


def km(start: tuple[float, float] | None, end: tuple[float, float] | None) -> float:
    """Great circle by the haversine formula."""
    if start is None or end is None:
        return NAN
    lat_a, lon_a, lat_b, lon_b = map(math.radians, (*start, *end))
    chord = math.sin((lat_b - lat_a) / 2) ** 2
    chord += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, chord)))
