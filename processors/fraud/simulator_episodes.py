"""What happens beside the ordinary purchases: frauds of seven kinds, and honest behaviour that looks like fraud.

Each kind is a function (rng, world, count, span) -> Episodes that plans exactly `count` events as columns; the hidden
`scenario` names the kind. Kinds and their sizes are this project's own, after the scenarios of the fraud detection
handbook (Le Borgne et al., 2022) and what issuers describe.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from processors.fraud.simulator_world import CATEGORIES, Bools, Floats, Ints, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

SCENARIOS = (
    "genuine",
    "amount_burst",
    "card_testing",
    "takeover",
    "compromised_merchant",
    "leaked_card",
    "impossible_travel",
    "dispute",
    "shopping_burst",
    "trip",
)
"""Hidden truth: index 0 and the last two are genuine, the others are frauds."""

FRAUD_MIX = {
    "amount_burst": 0.10,
    "card_testing": 0.15,
    "takeover": 0.20,
    "compromised_merchant": 0.30,
    "leaked_card": 0.11,
    "impossible_travel": 0.10,
    # Ordinary purchases that end as fraud for reasons no feature can know: they keep recall below one.
    "dispute": 0.04,
}


class Bias(msgspec.Struct, frozen=True):
    """Known effects of group attributes; region never has one.

    With every factor at 1 no attribute has an effect. The defaults give age the one effect that the model card states.
    """

    elderly_takeover: float = 2.0
    """How much likelier the holder of a taken-over account is 65 or older; changes base rates, not error rates."""
    women_bursts: float = 1.0
    """How much more often a woman's honest shopping looks like a burst of fraud: it moves false alarms only."""


class Span(NamedTuple):
    """Event time covered, in epoch milliseconds."""

    start: int
    end: int


class Episodes(NamedTuple):
    """Planned events as columns."""

    time: Ints
    card: Ints
    merchant: Ints
    amount: Floats
    scenario: Ints

    def rows(self, chosen: slice | Ints) -> Episodes:
        """Some of the rows."""
        columns: list[Any] = [column[chosen] for column in self]
        return Episodes(*columns)

    @staticmethod
    def join(parts: Iterable[Episodes]) -> Episodes:
        """One after another."""
        return Episodes(*[np.concatenate(columns) for columns in zip(*parts, strict=True)])


def plan(rng: np.random.Generator, world: World, events: int, fraud_rate: float, span: Span, bias: Bias) -> Episodes:
    """All frauds and honest bursts among `events` events, sorted by time; the frauds are rate * events to the unit."""
    frauds = round(events * fraud_rate)
    counts = rng.multinomial(frauds, np.array(list(FRAUD_MIX.values())))
    parts = [_merchant_frauds(rng, world, int(counts[list(FRAUD_MIX).index("compromised_merchant")]), events, span)]
    builders: dict[str, Callable[[int], Episodes]] = {
        "amount_burst": lambda n: _amount_bursts(rng, world, n, span, "amount_burst", _uniform_cards(world)),
        "card_testing": lambda n: _card_testing(rng, world, n, span),
        "takeover": lambda n: _takeovers(rng, world, n, span, bias),
        "leaked_card": lambda n: _leaked_cards(rng, world, n, span),
        "impossible_travel": lambda n: _impossible_travel(rng, world, n, span),
        "dispute": lambda n: _disputes(rng, world, n, span),
    }
    parts += [builders[kind](int(n)) for kind, n in zip(FRAUD_MIX, counts, strict=True) if kind in builders]
    women = np.where(world.cards.gender == 0, bias.women_bursts, 1.0)
    honest = round(0.004 * events * women.mean())
    parts.append(_amount_bursts(rng, world, honest, span, "shopping_burst", women * world.cards.activity))
    joined = Episodes.join(parts)
    return joined.rows(np.argsort(joined.time, kind="stable"))


def is_fraud(scenario: Ints) -> Bools:
    """The truth behind the hidden scenario."""
    return (scenario > 0) & (scenario < SCENARIOS.index("shopping_burst"))


def _campaigns(rng: np.random.Generator, count: int, low: int, high: int) -> tuple[Ints, Ints, int]:
    """Splits `count` events into campaigns of low..high: (campaign, position in it) per event, and how many."""
    sizes = rng.integers(low, high + 1, count // low + 1)
    campaign = np.repeat(np.arange(len(sizes)), sizes)[:count]
    position = np.arange(count) - np.searchsorted(campaign, campaign)
    return campaign, position, len(sizes)


def _pick_cards(rng: np.random.Generator, weight: Floats, count: int) -> Ints:
    sums = np.cumsum(weight)
    card: Ints = np.searchsorted(sums, rng.random(count) * sums[-1], side="right").astype(np.int64)
    return card


def _uniform_cards(world: World) -> Floats:
    return np.ones(len(world.cards.number))


def _pick_categories(rng: np.random.Generator, shares: dict[str, float], count: int) -> Ints:
    names = [category.name for category in CATEGORIES]
    rows = np.array([names.index(name) for name in shares])
    return rows[rng.choice(len(rows), count, p=np.array(list(shares.values())) / sum(shares.values()))]


def _starts(rng: np.random.Generator, count: int, span: Span, length_ms: int) -> Ints:
    """Campaign starts that leave room for `length_ms` where the span is long enough."""
    last = max(span.start + 1, span.end - length_ms)
    return rng.integers(span.start, last, count)


def _hours_of(rng: np.random.Generator, curve: Floats) -> Ints:
    """One hour per row of densities (n, 24)."""
    passed: Ints = (np.cumsum(curve, axis=1) < rng.random((len(curve), 1))).sum(axis=1)
    hour: Ints = np.minimum(passed, 23)
    return hour


def _at_hour(rng: np.random.Generator, day_ms: Ints, hour: Ints, span: Span) -> Ints:
    """A moment in that hour of the day that `day_ms` lies in, kept inside the span."""
    time = day_ms // DAY_MS * DAY_MS + hour * HOUR_MS + rng.integers(0, HOUR_MS, len(hour))
    inside: Ints = np.clip(time, span.start, span.end - 1)
    return inside


def _episodes(time: Ints, card: Ints, merchant: Ints, amount: Floats, kind: str, span: Span) -> Episodes:
    inside = np.clip(time, span.start, span.end - 1)
    return Episodes(inside, card, merchant, amount, np.full(len(time), SCENARIOS.index(kind)))


def _amount_bursts(
    rng: np.random.Generator, world: World, count: int, span: Span, kind: str, weight: Floats
) -> Episodes:
    """Several large purchases within an hour or two; the honest ones are smaller, slower and near home."""
    fraud = kind == "amount_burst"
    campaign, position, campaigns = _campaigns(rng, count, 3, 7)
    card = _pick_cards(rng, weight, campaigns)[campaign]
    shares = {"shopping_net": 0.35, "shopping_pos": 0.3, "misc_net": 0.15, "grocery_pos": 0.1, "home": 0.1}
    category = _pick_categories(rng, shares, count)
    start = _starts(rng, campaigns, span, 4 * HOUR_MS)
    if not fraud:  # honest people shop in the afternoon
        start = _at_hour(rng, start, rng.integers(10, 21, campaigns), span)
    time = start[campaign] + position * (8 if fraud else 25) * 60_000 + rng.integers(0, 12 * 60_000, count)
    merchant = world.draw_merchants(rng, category, world.cards.city[card])
    factor = rng.uniform(2.0, 5.0, campaigns)[campaign] if fraud else rng.uniform(1.0, 2.5, campaigns)[campaign]
    usual = 60 * world.cards.amount_factor[card] * np.exp(rng.normal(0, 0.5, count))
    return _episodes(time, card, merchant, usual * factor, kind, span)


def _card_testing(rng: np.random.Generator, world: World, count: int, span: Span) -> Episodes:
    """Charges of 0.50 to 6 USD seconds apart; six in ten campaigns end with one to three of about 270 USD."""
    campaign, position, campaigns = _campaigns(rng, count, 4, 14)
    size = np.bincount(campaign, minlength=campaigns)
    large = np.where(rng.random(campaigns) < 0.6, rng.integers(1, 4, campaigns), 0)
    is_large = position >= (size - large)[campaign]
    card = _pick_cards(rng, _uniform_cards(world), campaigns)[campaign]
    category = _pick_categories(rng, {"misc_net": 0.5, "shopping_net": 0.3, "grocery_net": 0.2}, campaigns)[campaign]
    gaps = np.where(is_large, rng.integers(60_000, 40 * 60_000, count), rng.integers(2_000, 90_000, count))
    since_start = np.cumsum(gaps)
    since_start -= since_start[np.searchsorted(campaign, campaign)] if count else 0
    time = _starts(rng, campaigns, span, 2 * HOUR_MS)[campaign] + since_start
    merchant = world.draw_merchants(rng, category, world.cards.city[card])
    amount = np.where(is_large, 270 * np.exp(rng.normal(0, 0.5, count)), rng.uniform(0.5, 6, count))
    return _episodes(time, card, merchant, amount, "card_testing", span)


def _takeovers(rng: np.random.Generator, world: World, count: int, span: Span, bias: Bias) -> Episodes:
    """Two to nine purchases within a night, or else a day, at two to five times the usual amount."""
    campaign, position, campaigns = _campaigns(rng, count, 2, 9)
    weight = np.where(world.cards.age >= 65, bias.elderly_takeover, 1.0)
    card = _pick_cards(rng, weight, campaigns)[campaign]
    shares = {"shopping_net": 0.35, "misc_net": 0.2, "grocery_pos": 0.15, "shopping_pos": 0.15, "travel": 0.15}
    category = _pick_categories(rng, shares, count)
    by_night = rng.random(campaigns) < 0.7
    hour = np.where(by_night, rng.integers(22, 27, campaigns) % 24, rng.integers(0, 24, campaigns))
    first = _at_hour(rng, _starts(rng, campaigns, span, 2 * DAY_MS), hour, span)
    pace = np.exp(rng.normal(math.log(40), 0.8, campaigns)) * 60_000
    time = (first[campaign] + pace[campaign] * (position + rng.random(count))).astype(np.int64)
    merchant = world.draw_merchants(rng, category, world.cards.city[card])
    usual = 60 * world.cards.amount_factor[card] * np.exp(rng.normal(0, 0.6, count))
    return _episodes(time, card, merchant, usual * rng.uniform(2.0, 5.0, count), "takeover", span)


def _merchant_frauds(rng: np.random.Generator, world: World, count: int, events: int, span: Span) -> Episodes:
    """Merchants whose terminal is misused for three to six weeks: ordinary amounts at ordinary hours.

    A compromised merchant sees one to three frauds per honest purchase, so that labels tell on it when they come.
    """
    if count == 0:
        return _episodes(*(np.zeros(0, np.int64),) * 3, np.zeros(0), "compromised_merchant", span)
    covered = span.end - span.start
    # Many campaigns of middling merchants: one of a giant would be most of the frauds of a small world.
    most = int(np.clip(count // 8, 6, 200))
    volume = world.merchant_share() * events
    middling = np.flatnonzero((volume * 30 * DAY_MS / covered < most / 2) | (volume <= np.quantile(volume, 0.3)))
    chosen = np.resize(rng.permutation(middling), count)
    length = np.minimum(rng.uniform(21, 42, count) * DAY_MS, covered * 0.75)
    honest = volume[chosen] * length / covered
    sizes = np.clip(honest * rng.uniform(1.0, 3.0, count), 3, most).astype(np.int64)
    campaign = np.repeat(np.arange(count), sizes)[:count]

    merchant = chosen[campaign]
    category, city = world.merchants.category[merchant], world.merchants.city[merchant]
    online = city < 0
    card = world.draw_cards_in(rng, np.maximum(city, 0))
    card[online] = _pick_cards(rng, world.cards.activity, int(online.sum()))
    # Campaigns may have begun before the span: otherwise its first weeks would be cleaner than its last.
    first = rng.uniform(span.start - 0.5 * length, span.end - 0.5 * length)
    low = np.maximum(first, span.start)[campaign]
    high = np.minimum(first + length, span.end)[campaign]
    day = (low + rng.random(count) * (high - low)).astype(np.int64)
    time = _at_hour(rng, day, _hours_of(rng, world.curve[0, category]), span)
    amount = world.draw_amounts(rng, category, card)
    return _episodes(time, card, merchant, amount, "compromised_merchant", span)


def _leaked_cards(rng: np.random.Generator, world: World, count: int, span: Span) -> Episodes:
    """A card number sold on: online purchases every other day for ten days, at three to seven times the usual."""
    campaign, _, campaigns = _campaigns(rng, count, 4, 14)
    card = _pick_cards(rng, world.cards.activity, campaigns)[campaign]
    category = _pick_categories(rng, {"shopping_net": 0.5, "misc_net": 0.25, "grocery_net": 0.25}, count)
    day = _starts(rng, campaigns, span, 10 * DAY_MS)[campaign] + rng.integers(0, 10 * DAY_MS, count)
    time = _at_hour(rng, day, _hours_of(rng, world.curve[world.cards.rhythm[card], category]), span)
    merchant = world.draw_merchants(rng, category, world.cards.city[card])
    amount = 60 * world.cards.amount_factor[card] * np.exp(rng.normal(0, 0.5, count)) * rng.uniform(3, 7, count)
    return _episodes(time, card, merchant, amount, "leaked_card", span)


def _impossible_travel(rng: np.random.Generator, world: World, count: int, span: Span) -> Episodes:
    """Purchases in a far city within hours of one at home, most often; at the hours and amounts of the holder."""
    campaign, position, campaigns = _campaigns(rng, count, 1, 4)
    card = _pick_cards(rng, world.cards.activity, campaigns)
    home = world.cards.city[card]
    away = (home + rng.integers(1, max(2, world.cities), campaigns)) % world.cities
    offline = {c.name: c.share for c in CATEGORIES if not c.online}
    category = _pick_categories(rng, offline, campaigns)
    hour = _hours_of(rng, world.curve[world.cards.rhythm[card], category])
    first = _at_hour(rng, _starts(rng, campaigns, span, DAY_MS), hour, span)
    time = first[campaign] + position * rng.integers(10 * 60_000, 60 * 60_000, count)
    merchant = world.draw_merchants(rng, category[campaign], away[campaign])
    amount = world.draw_amounts(rng, category[campaign], card[campaign]) * rng.uniform(1.0, 3.0, count)
    frauds = _episodes(time, card[campaign], merchant, amount, "impossible_travel", span)

    at_home = np.flatnonzero((rng.random(campaigns) < 0.85) & (np.bincount(campaign, minlength=campaigns) > 0))
    category = category[at_home]
    honest = _episodes(
        first[at_home] - rng.integers(10 * 60_000, 100 * 60_000, len(at_home)),
        card[at_home],
        world.draw_merchants(rng, category, home[at_home]),
        world.draw_amounts(rng, category, card[at_home]),
        "genuine",
        span,
    )
    return Episodes.join([frauds, honest])


def _disputes(rng: np.random.Generator, world: World, count: int, span: Span) -> Episodes:
    """Ordinary purchases in every respect."""
    weights = world.hour_weights(weekend=False)
    cell = rng.choice(weights.size, count, p=weights.ravel() / weights.sum())
    hour, pair = np.divmod(cell, weights.shape[1])
    card, category = world.draw_cards(rng, pair), pair % len(CATEGORIES)
    time = _at_hour(rng, rng.integers(span.start, span.end, count), hour, span)
    merchant = world.draw_merchants(rng, category, world.cards.city[card])
    return _episodes(time, card, merchant, world.draw_amounts(rng, category, card), "dispute", span)
