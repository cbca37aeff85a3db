"""Card transactions from a seed: a world, frauds with hidden scenarios, and the labels that arrive late.

Nothing is random but by the seed: the same arguments give the same bytes. Events come in the order of their event
time, in batches; event ids are unique within a seed; cards and merchants of two seeds differ. The hidden scenario and
the truth never appear in a transaction, only in `Batch` and, late, in the labels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from processors.fraud.simulator_episodes import DAY_MS, HOUR_MS, SCENARIOS, Bias, Episodes, Span, is_fraud, plan
from processors.fraud.simulator_labels import LabelQueue, Labels, arrivals
from processors.fraud.simulator_world import CATEGORIES, GENDERS, REGIONS, Bools, Floats, Ints, World

if TYPE_CHECKING:
    from collections.abc import Iterator

# Fewer rows per draw cost more in numpy calls than in work (measured: 8,192 rows are within 10 % of the best).
_ROWS_PER_DRAW = 16_384
_MAX_AMOUNT = 25_000.0
_CARDS = 5_000
_EVENTS_PER_CARD_AND_DAY = 2.2

__all__ = ["SCENARIOS", "Batch", "Bias", "Labels", "Simulator"]


@dataclass(frozen=True)
class Batch:
    """Transactions in the order of event time, and the labels known by the time of the last one."""

    event_time: Ints
    """Epoch milliseconds."""
    is_fraud: Bools
    scenario: Ints
    """Index into `SCENARIOS`."""
    card: Ints
    merchant: Ints
    amount: Floats
    labels: Labels
    first_number: int
    _text: _Text

    def __len__(self) -> int:
        return len(self.event_time)

    @property
    def event_ids(self) -> list[str]:
        """Event ids, in order."""
        return [self._text.event_id(number) for number in range(self.first_number, self.first_number + len(self))]

    @property
    def keys(self) -> list[bytes]:
        """Message keys: the card."""
        return [self._text.card_keys[row] for row in self.card.tolist()]

    @cached_property
    def values(self) -> list[bytes]:
        """Message values: JSON of `schemas.fraud.Transaction`, encoded when first asked for."""
        cards, merchants, prefix = self._text.cards, self._text.merchants, self._text.prefix
        columns = (self.card.tolist(), self.merchant.tolist(), self.amount.tolist(), self.event_time.tolist())
        return [
            f'{{"event_id":"{prefix}{number:010d}",{cards[card]},{merchants[merchant]},'
            f'"amount":{amount},"currency":"USD","event_time":{at}}}'.encode()
            for number, (card, merchant, amount, at) in enumerate(zip(*columns, strict=True), self.first_number)
        ]


class Simulator:
    """An endless supply of worlds; one seed is one world with exactly `events` transactions before `end_ms`."""

    def __init__(
        self,
        seed: int = 0,
        cards: int | None = None,
        merchants: int | None = None,
        days: float = 60,
        end_ms: int | None = None,
        events: int | None = None,
        fraud_rate: float = 0.008,
        bias: Bias | None = None,
    ) -> None:
        """Draws the world and plans its frauds; ordinary purchases are drawn as `batches` goes along.

        Args:
            seed: Everything random follows from it.
            cards: Card holders; None is as many as make `events` at about 2.2 a day each, or 5,000.
            merchants: Merchants, at least one per category; None is one for every four cards.
            days: Event time covered, before `end_ms`.
            end_ms: Where event time ends, epoch milliseconds; None is now.
            events: Transactions in all; None is about 2.2 a day and card.
            fraud_rate: Share of frauds among the events, kept to the unit.
            bias: Known effects of group attributes.
        """
        if days <= 0 or not 0 <= fraud_rate < 0.5:
            raise ValueError(f"days must be positive and fraud_rate within 0 and 0.5; got {days} and {fraud_rate}.")
        end = int(time.time() * 1000) if end_ms is None else end_ms
        self.seed = seed
        self.span = Span(end - int(days * DAY_MS), end)
        if cards is None:
            cards = _CARDS if events is None else max(20, round(events / (days * _EVENTS_PER_CARD_AND_DAY)))
        if merchants is None:
            merchants = max(len(CATEGORIES), cards // 4)
        self.events = round(cards * days * _EVENTS_PER_CARD_AND_DAY) if events is None else events
        self.bias = bias or Bias()
        self._flow_seed, self._label_seed = [seed, 2], [seed, 3]
        self.world = World(np.random.default_rng([seed, 0]), cards, merchants)
        rng = np.random.default_rng([seed, 1])
        self._planned = plan(rng, self.world, self.events, fraud_rate, self.span, self.bias)
        self._trips = _trips(rng, cards, self.world.cities, self.span)
        self._text = _Text(self.world, seed)

    def batches(self, size: int = 10_000) -> Iterator[Batch]:
        """All events from the first to the last, `size` at a time; each call begins anew."""
        queue = LabelQueue(self._text.event_id, self._text.merchant_keys)
        for number, rows, arrival in _rebatch(self._labelled_flow(), size):
            fraud = is_fraud(rows.scenario)
            queue.add(number, rows.time, rows.merchant, fraud, arrival)
            yield Batch(
                event_time=rows.time,
                is_fraud=fraud,
                scenario=rows.scenario,
                card=rows.card,
                merchant=rows.merchant,
                amount=np.clip(np.round(rows.amount, 2), 0.5, _MAX_AMOUNT),
                labels=queue.due(int(rows.time[-1])),
                first_number=number,
                _text=self._text,
            )

    def labels(self, until_ms: int | None = None) -> Labels:
        """Every label that arrives up to `until_ms` (None: whenever), in the order of arrival."""
        queue = LabelQueue(self._text.event_id, self._text.merchant_keys)
        for number, rows, arrival in _rebatch(self._labelled_flow(), _ROWS_PER_DRAW):
            queue.add(number, rows.time, rows.merchant, is_fraud(rows.scenario), arrival)
        return queue.due(until_ms)

    def _labelled_flow(self) -> Iterator[tuple[Episodes, Ints]]:
        """Delays are drawn with the events, so that they do not depend on the size of batches."""
        rng = np.random.default_rng(self._label_seed)
        for rows in self._flow():
            yield rows, arrivals(rng, rows.time, is_fraud(rows.scenario))

    def _flow(self) -> Iterator[Episodes]:
        """Ordinary purchases hour by hour, with the planned episodes merged in; sorted by time."""
        rng = np.random.default_rng(self._flow_seed)
        hours = np.arange(self.span.start // HOUR_MS, -(-self.span.end // HOUR_MS))
        weights = [self.world.hour_weights(weekend=False), self.world.hour_weights(weekend=True)]
        shares = [weight / weight.sum(axis=1, keepdims=True) for weight in weights]
        of_day, weekend = hours % 24, ((hours // 24 + 3) % 7 >= 5).astype(np.int64)
        rate = np.array([weight.sum(axis=1) for weight in weights])[weekend, of_day]
        covered = np.minimum(hours * HOUR_MS + HOUR_MS, self.span.end) - np.maximum(hours * HOUR_MS, self.span.start)
        counts = rng.multinomial(max(0, self.events - len(self._planned.time)), rate * covered / (rate * covered).sum())

        cuts = np.flatnonzero(np.diff(np.cumsum(counts) // _ROWS_PER_DRAW)) + 1
        done = 0
        for block in np.split(np.arange(len(hours)), cuts):
            slot = np.repeat(block, counts[block])
            pair = _choose(rng, np.stack(shares), weekend[slot], of_day[slot])
            ordinary = self._ordinary(rng, hours[slot], pair)
            edge = min(int(hours[block[-1]] + 1) * HOUR_MS, self.span.end)
            upto = int(np.searchsorted(self._planned.time, edge))
            yield _merge(ordinary, self._planned.rows(slice(done, upto)))
            done = upto

    def _ordinary(self, rng: np.random.Generator, hour: Ints, pair: Ints) -> Episodes:
        low = np.maximum(hour * HOUR_MS, self.span.start)
        high = np.minimum((hour + 1) * HOUR_MS, self.span.end)
        at = low + (rng.random(len(hour)) * (high - low)).astype(np.int64)
        card, category = self.world.draw_cards(rng, pair), pair % len(CATEGORIES)
        city = self.world.cards.city[card]
        begin, finish, there = self._trips
        away = (at >= begin[card]) & (at < finish[card])
        # One purchase in a hundred is made in some other city without being part of a trip.
        visit = rng.random(len(card)) < 0.01
        city = np.where(away, there[card], np.where(visit, rng.integers(0, self.world.cities, len(card)), city))
        merchant = self.world.draw_merchants(rng, category, city)
        scenario = np.where(away, SCENARIOS.index("trip"), 0)
        return Episodes(at, card, merchant, self.world.draw_amounts(rng, category, card), scenario)


class _Text:
    """The JSON of what never changes about a card or a merchant, made once: encoding an event is then one format."""

    def __init__(self, world: World, seed: int) -> None:
        cards, merchants = world.cards, world.merchants
        self.prefix = f"t{seed}-"
        self.card_keys = [number.encode() for number in cards.number]
        self.merchant_keys = [name.encode() for name in merchants.name]
        columns = (cards.lat, cards.lon, cards.age, cards.gender, cards.region)
        self.cards = [
            f'"card":"{number}","home_lat":{lat},"home_lon":{lon},"age":{age},'
            f'"gender":"{GENDERS[gender]}","region":"{REGIONS[region]}"'
            for number, lat, lon, age, gender, region in zip(
                cards.number, *(column.tolist() for column in columns), strict=True
            )
        ]
        places = zip(merchants.name, merchants.category, merchants.lat.tolist(), merchants.lon.tolist(), strict=True)
        self.merchants = [
            f'"merchant":"{name}","category":"{CATEGORIES[category].name}"'
            + ("" if lat != lat else f',"merchant_lat":{lat},"merchant_lon":{lon}')
            for name, category, lat, lon in places
        ]

    def event_id(self, number: int) -> str:
        return f"{self.prefix}{number:010d}"


def _trips(rng: np.random.Generator, cards: int, cities: int, span: Span) -> tuple[Ints, Ints, Ints]:
    """Begin, end and city of one trip per travelling card; about 3 % of the cards travel in a month."""
    months = (span.end - span.start) / (30 * DAY_MS)
    travels = rng.random(cards) < min(0.5, 0.03 * months)
    begin = np.where(travels, rng.integers(span.start, span.end, cards), span.end)
    finish = begin + rng.integers(2, 12, cards) * DAY_MS
    return begin, np.where(travels, finish, begin), rng.integers(0, cities, cards)


def _choose(rng: np.random.Generator, shares: Floats, weekend: Ints, hour: Ints) -> Ints:
    """A (rhythm, category) pair per event from the shares of its kind of day and hour."""
    table = np.cumsum(shares, axis=2)
    row = weekend * 24 + hour
    ramp = (table.reshape(48, -1) + np.arange(48)[:, None]).ravel()
    found = np.searchsorted(ramp, rng.random(len(row)) + row, side="right")
    pair: Ints = np.minimum(found, (row + 1) * table.shape[2] - 1) - row * table.shape[2]
    return pair


def _merge(ordinary: Episodes, planned: Episodes) -> Episodes:
    rows = Episodes.join([ordinary, planned])
    return rows.rows(np.argsort(rows.time, kind="stable"))


def _rebatch(blocks: Iterator[tuple[Episodes, Ints]], size: int) -> Iterator[tuple[int, Episodes, Ints]]:
    """Cuts blocks of any length into batches of `size`, with the number of each batch's first event."""
    none = np.zeros(0, np.int64)
    number, held, held_arrival = 0, Episodes(none, none, none, np.zeros(0), none), none
    for rows, arrival in blocks:
        held, held_arrival = Episodes.join([held, rows]), np.concatenate([held_arrival, arrival])
        whole = len(held_arrival) // size * size
        for low in range(0, whole, size):
            yield number, held.rows(slice(low, low + size)), held_arrival[low : low + size]
            number += size
        held, held_arrival = held.rows(slice(whole, None)), held_arrival[whole:]
    if len(held_arrival):
        yield number, held, held_arrival
