"""The world of the simulator: categories, cities, merchants and cards, as columns.

Everything here is drawn once from the seed. No number comes from a real person: cards carry the prefix 400000,
which no bank issues, and places are points in a box the size of the United States.

What a genuine customer does factorises, so that a million events are a handful of table look-ups:
P(hour, rhythm, category, card) = P(hour) P(rhythm, category | hour) P(card | rhythm, category). That is exact for
cards whose rate in category k at hour h is activity * taste[k] * curve[rhythm, k, h].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Category(NamedTuple):
    """Amounts (USD) are log-normal with this median and mean; `peaks` are (hour, width, height) over a flat floor."""

    name: str
    median: float
    mean: float
    share: float
    online: bool
    peaks: tuple[tuple[float, float, float], ...]
    weekend: float


_SHOP = ((11.0, 2.5, 1.0), (17.0, 2.5, 1.2))
_MEALS = ((8.0, 1.0, 0.5), (12.5, 1.2, 1.2), (19.5, 1.8, 1.4))
_NIGHT = ((20.5, 2.0, 1.5), (23.0, 1.5, 0.5))
_DESK = ((10.0, 2.0, 0.5), (20.5, 3.0, 1.2))
_COMMUTE = ((7.5, 1.3, 1.0), (17.0, 2.0, 1.3))

# Medians and means of the amounts follow a public simulated set; shares are rounded from it.
CATEGORIES = (
    Category("entertainment", 42, 66, 0.07, False, _NIGHT, 1.4),
    Category("food_dining", 44, 56, 0.07, False, _MEALS, 1.3),
    Category("gas_transport", 67, 68, 0.10, False, _COMMUTE, 0.8),
    Category("grocery_net", 54, 57, 0.04, True, _DESK, 1.0),
    Category("grocery_pos", 89, 112, 0.10, False, _SHOP, 1.2),
    Category("health_fitness", 40, 54, 0.07, False, _COMMUTE, 0.8),
    Category("home", 46, 59, 0.09, False, _SHOP, 1.3),
    Category("kids_pets", 53, 65, 0.09, False, _SHOP, 1.2),
    Category("misc_net", 9, 68, 0.05, True, _DESK, 1.0),
    Category("misc_pos", 10, 65, 0.06, False, _SHOP, 1.0),
    Category("personal_care", 29, 45, 0.07, False, _SHOP, 1.0),
    Category("shopping_net", 8, 80, 0.08, True, _DESK, 1.1),
    Category("shopping_pos", 7, 71, 0.09, False, _SHOP, 1.4),
    Category("travel", 6, 64, 0.03, False, _COMMUTE, 1.1),
)
ONLINE = np.array([category.online for category in CATEGORIES])
NIGHT_SHIFT_HOURS = 8
REGIONS = ("north", "east", "south", "west")
GENDERS = ("F", "M")


@dataclass(frozen=True, slots=True)
class Cards:
    """Card holders, one row each."""

    number: list[str]
    city: Ints
    lat: Floats
    lon: Floats
    activity: Floats
    """Relative number of purchases."""
    amount_factor: Floats
    """What this holder spends against the median holder."""
    taste: Floats
    """Share of each category, (cards, categories)."""
    rhythm: Ints
    """0 lives by day, 1 works nights."""
    age: Ints
    gender: Ints
    region: Ints
    """Drawn apart from everything else: an attribute that has no effect on anything, for A/A checks."""


@dataclass(frozen=True, slots=True)
class Merchants:
    """Merchants, sorted by segment: the merchants that compete for one purchase."""

    name: list[str]
    category: Ints
    city: Ints
    """-1 where the merchant is online: it then has no place."""
    lat: Floats
    lon: Floats
    weight: Floats
    """Popularity inside the segment (Zipf)."""


class Segments:
    """Draws from many discrete distributions at once: one running sum, cut into segments."""

    def __init__(self, segment: Ints, weight: Floats, count: int) -> None:
        """Takes rows sorted by segment, and each row's weight inside it."""
        self._sums = np.cumsum(weight)
        bounds = np.searchsorted(segment, np.arange(count + 1))
        padded = np.concatenate([[0.0], self._sums])
        self._low, self._high = padded[bounds[:-1]], padded[bounds[1:]]
        self._first, self._last = bounds[:-1], bounds[1:] - 1
        self.total = self._high - self._low

    def draw(self, rng: np.random.Generator, segment: Ints) -> Ints:
        """One row index per wanted segment; a segment must not be empty."""
        point = self._low[segment] + rng.random(len(segment)) * self.total[segment]
        row = np.searchsorted(self._sums, point, side="right")
        inside: Ints = np.clip(row, self._first[segment], self._last[segment])
        return inside


class World:
    """Cards and merchants of one seed, and how to draw genuine behaviour from them."""

    def __init__(self, rng: np.random.Generator, cards: int, merchants: int) -> None:
        """Draws the world; a city has about 22 merchants, so that every category is sold in each."""
        if cards < 2 or merchants < len(CATEGORIES):
            raise ValueError(f"A world needs 2 cards and {len(CATEGORIES)} merchants; got {cards} and {merchants}.")
        kinds = len(CATEGORIES)
        cities = int(np.clip((merchants - int(ONLINE.sum())) // 22, 1, 150))
        self.city_lat, self.city_lon = rng.uniform(30, 47, cities), rng.uniform(-120, -75, cities)
        population = 1 / np.arange(1, cities + 1) ** 0.8
        self.cities = cities
        self.cards = _draw_cards(rng, cards, population / population.sum(), self.city_lat, self.city_lon)
        self.merchants = _draw_merchants(rng, merchants, population / population.sum(), self.city_lat, self.city_lon)
        self.log_median = np.log([c.median for c in CATEGORIES])
        self.log_sigma = np.sqrt(2 * np.log([c.mean / c.median for c in CATEGORIES]))
        self.curve = _hour_curves()

        self._merchants_of = Segments(
            segment_of(self.merchants.category, np.maximum(self.merchants.city, 0)),
            self.merchants.weight,
            cities * kinds,
        )
        by_rhythm = np.argsort(self.cards.rhythm, kind="stable")
        rate = self.cards.activity[by_rhythm, None] * self.cards.taste[by_rhythm]
        rhythm = self.cards.rhythm[by_rhythm]
        pairs = np.concatenate([rhythm * kinds + kind for kind in range(kinds)])
        order = np.argsort(pairs, kind="stable")
        self._card_row = np.tile(by_rhythm, kinds)[order]
        self._cards_of = Segments(pairs[order], rate.T.ravel()[order], 2 * kinds)
        by_city = np.argsort(self.cards.city, kind="stable")
        self._city_row = by_city
        self._cards_in = Segments(self.cards.city[by_city], self.cards.activity[by_city], cities)
        self.city_rate = self._cards_in.total

    def hour_weights(self, weekend: bool) -> Floats:
        """Relative rate of (hour, rhythm x category), shape (24, 2 * categories)."""
        boost = np.array([c.weekend for c in CATEGORIES]) if weekend else np.ones(len(CATEGORIES))
        weights = self._cards_of.total.reshape(2, 1, -1) * self.curve.transpose(0, 2, 1) * boost
        by_hour: Floats = weights.transpose(1, 0, 2).reshape(24, -1)
        return by_hour

    def draw_cards(self, rng: np.random.Generator, pair: Ints) -> Ints:
        """A card per (rhythm, category) pair, by activity and taste."""
        card: Ints = self._card_row[self._cards_of.draw(rng, pair)]
        return card

    def draw_cards_in(self, rng: np.random.Generator, city: Ints) -> Ints:
        """A card living in each city, by activity; where nobody lives there, any card."""
        some = self.city_rate[city] > 0
        drawn = rng.integers(0, len(self.cards.number), len(city))
        drawn[some] = self._city_row[self._cards_in.draw(rng, city[some])]
        return drawn

    def draw_merchants(self, rng: np.random.Generator, category: Ints, city: Ints) -> Ints:
        """A merchant per category, in the city where the category has places."""
        return self._merchants_of.draw(rng, segment_of(category, city))

    def draw_amounts(self, rng: np.random.Generator, category: Ints, card: Ints) -> Floats:
        """What these cards ordinarily pay in these categories."""
        noise = rng.standard_normal(len(category)) * self.log_sigma[category]
        amount: Floats = np.exp(self.log_median[category] + noise) * self.cards.amount_factor[card]
        return amount

    def merchant_share(self) -> Floats:
        """Expected share of all genuine purchases that each merchant gets."""
        kinds = len(CATEGORIES)
        rate = self.cards.activity[:, None] * self.cards.taste
        sold = np.zeros((self.cities, kinds))
        np.add.at(sold, self.cards.city, rate)
        sold[:, ONLINE] = rate.sum(axis=0)[ONLINE]
        segment = segment_of(self.merchants.category, np.maximum(self.merchants.city, 0))
        share: Floats = sold.ravel()[segment] * self.merchants.weight / self._merchants_of.total[segment] / rate.sum()
        return share


def segment_of(category: Ints, city: Ints) -> Ints:
    """Number of the segment: city and category; online categories are one segment for all cities."""
    segment: Ints = np.where(ONLINE[category], 0, city) * len(CATEGORIES) + category
    return segment


def _hour_curves() -> Floats:
    """Density over the hours of the day, shape (rhythm, category, 24); each row sums to 1."""
    hours = np.arange(24)
    curves = np.full((2, len(CATEGORIES), 24), 0.03)
    for row, category in enumerate(CATEGORIES):
        for peak, width, height in category.peaks:
            away = np.minimum(abs(hours + 0.5 - peak), 24 - abs(hours + 0.5 - peak))
            curves[0, row] += height * np.exp(-0.5 * (away / width) ** 2)
    curves[1] = np.roll(curves[0], NIGHT_SHIFT_HOURS, axis=1)
    normal: Floats = curves / curves.sum(axis=2, keepdims=True)
    return normal


def _draw_cards(rng: np.random.Generator, count: int, population: Floats, lat: Floats, lon: Floats) -> Cards:
    city = rng.choice(len(population), count, p=population)
    share = np.array([category.share for category in CATEGORIES])
    return Cards(
        number=_card_numbers(rng, count),
        city=city,
        lat=np.round(lat[city] + rng.normal(0, 0.08, count), 5),
        lon=np.round(lon[city] + rng.normal(0, 0.08, count), 5),
        activity=rng.gamma(2.2, 1.0, count) + 0.02,
        amount_factor=np.exp(rng.normal(0, 0.45, count)),
        taste=rng.dirichlet(share / share.sum() * 20, count),
        rhythm=(rng.random(count) < 0.06).astype(np.int64),
        age=np.clip(rng.normal(48, 17, count), 18, 92).astype(np.int64),
        gender=rng.integers(0, 2, count),
        region=rng.integers(0, len(REGIONS), count),
    )


def _draw_merchants(rng: np.random.Generator, count: int, population: Floats, lat: Floats, lon: Floats) -> Merchants:
    """Every segment gets one merchant first; the others go where people live."""
    kinds, cities = len(CATEGORIES), len(population)
    offline, online = np.flatnonzero(~ONLINE), np.flatnonzero(ONLINE)
    category = np.concatenate([online, np.tile(offline, cities)])[:count]
    city = np.concatenate([np.zeros(len(online), np.int64), np.repeat(np.arange(cities), len(offline))])[:count]
    more = count - len(category)
    category = np.concatenate([category, rng.integers(0, kinds, more)])
    city = np.concatenate([city, rng.choice(cities, more, p=population)])

    order = np.argsort(segment_of(category, city), kind="stable")
    category, city = category[order], city[order]
    segment = segment_of(category, city)
    rank = np.arange(count) - np.searchsorted(segment, segment)
    tag, names = int(rng.integers(0, 1 << 24)), rng.permutation(count)
    placed = ~ONLINE[category]
    return Merchants(
        name=[f"m{tag:06x}-{number:05d}" for number in names],
        category=category,
        city=np.where(placed, city, -1),
        lat=np.where(placed, np.round(lat[city] + rng.normal(0, 0.06, count), 5), np.nan),
        lon=np.where(placed, np.round(lon[city] + rng.normal(0, 0.06, count), 5), np.nan),
        weight=1 / (rank + 1.0) ** 0.7,
    )


def _card_numbers(rng: np.random.Generator, count: int) -> list[str]:
    """Distinct 16-digit numbers with a valid check digit (Luhn, ISO/IEC 7812-1) in a range for tests."""
    span = 10**9  # the stride ends in 1, so it shares no factor with it and visits every number once
    start, stride = int(rng.integers(0, span)), int(rng.integers(1, span // 10)) * 10 + 1
    body = (start + stride * np.arange(count)) % span
    digits = np.empty((count, 15), np.int64)
    digits[:, :6] = (4, 0, 0, 0, 0, 0)
    digits[:, 6:] = body[:, None] // 10 ** np.arange(8, -1, -1) % 10
    doubled = digits[:, ::2] * 2
    check = -(np.where(doubled > 9, doubled - 9, doubled).sum(axis=1) + digits[:, 1::2].sum(axis=1)) % 10
    return ["".join(map(str, row)) for row in np.column_stack([digits, check]).tolist()]
