"""The features of a card transaction, for serving and for training: one code, one definition.

| feature | what it is |
|---|---|
| `amount` | as sent |
| `amount_ratio` | amount over the mean amount of the card's 30-day window |
| `hour`, `weekday` | of the event time, in UTC; Monday is 0 |
| `category` | position in the list of known categories |
| `card_count_*`, `card_sum_*` | the card's earlier transactions in the last 1 h, 24 h, 7 d, 30 d, this one excluded |
| `seconds_since_last` | to the card's newest earlier transaction that is not after this one |
| `distance_km` | great circle from the card's last located transaction to this merchant |
| `speed_kmh` | that distance over the time between the two, which is taken as a second where it is less |
| `distance_home_km` | great circle from the card holder's home to this merchant |
| `merchant_rate_*`, `merchant_count_30d` | what late labels say of the merchant: `merchant-risk` as the worker has it |

What is unknown is NaN, and null in a result. `_windows.py` says which transactions count as earlier. The last located
transaction is the one with the greatest event time among those processed earlier; for a late event it can lie in its
future, and the time between the two is taken without its sign. It is forgotten with the 30 days and the lateness.

Monotone twins, such as the logarithm of the amount, are left out: a tree model cannot tell them apart, and reasons
would name the same thing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors._regions import NEVER, Ints
from processors._windows import KeyedWindows
from processors.fraud.settings import FraudSettings
from schemas.fraud import Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors._window_sums import Windows

Floats = NDArray[np.float64]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WINDOWS = {"1h": HOUR_MS, "24h": DAY_MS, "7d": 7 * DAY_MS, "30d": 30 * DAY_MS}
MERCHANT_FEATURES = ("merchant_rate_1d", "merchant_rate_7d", "merchant_rate_30d", "merchant_count_30d")
FEATURE_NAMES: tuple[str, ...] = (
    "amount",
    "amount_ratio",
    "hour",
    "weekday",
    "category",
    *(f"card_{figure}_{window}" for window in WINDOWS for figure in ("count", "sum")),
    "seconds_since_last",
    "distance_km",
    "speed_kmh",
    "distance_home_km",
    *MERCHANT_FEATURES,
)
"""Columns of the model's input, in order; configured group attributes follow behind."""

_MILLIONTHS = 1e6
# Mean Earth radius R1 (IUGG).
_EARTH_KM = 6371.0088
# 1970-01-01 was a Thursday.
_EPOCH_WEEKDAY = 3


class MerchantRates(Protocol):
    """What the worker knows of merchants; `merchant_risk.MerchantRiskTable` is one."""

    def rates(self, merchants: Sequence[str], /) -> NDArray[np.float32]:
        """(n, 4): the columns of `MERCHANT_FEATURES`, NaN where unknown."""


class Columns(msgspec.Struct, frozen=True):
    """n transactions in the order in which they are processed, as columns."""

    partitions: Ints
    """Source partition, each with windows of its own."""
    cards: Sequence[bytes]
    """Tokens of 16 bytes (`_tokens.CardTokens`); whoever only trains may take any 16 bytes per card."""
    times: Ints
    """Event time in epoch milliseconds."""
    amounts: Floats
    merchants: Sequence[str]
    categories: Sequence[str | None]
    merchant_places: Floats
    """(n, 2): latitude and longitude in degrees, NaN where unknown."""
    home_places: Floats
    """(n, 2), likewise."""
    ages: Sequence[int | None] = ()
    genders: Sequence[str | None] = ()
    regions: Sequence[str | None] = ()
    """The group attributes may be left empty where none of them is an input."""

    @classmethod
    def of(cls, events: Sequence[Transaction], cards: Sequence[bytes], times: Ints, partitions: Ints) -> Columns:
        """Columns of decoded transactions; `cards` are their tokens, `times` their parsed event times."""
        return cls.of_fields(fields_of(events), cards, times, partitions)

    @classmethod
    def of_fields(
        cls, fields: Mapping[str, Sequence[Any]], cards: Sequence[bytes], times: Ints, partitions: Ints
    ) -> Columns:
        """The same from the fields of transactions by name, each a column."""
        return cls(
            partitions=partitions,
            cards=cards,
            times=times,
            amounts=np.array(fields["amount"], np.float64),
            merchants=fields["merchant"],
            categories=fields["category"],
            merchant_places=np.array([fields["merchant_lat"], fields["merchant_lon"]], np.float64).T,
            home_places=np.array([fields["home_lat"], fields["home_lon"]], np.float64).T,
            ages=fields["age"],
            genders=fields["gender"],
            regions=fields["region"],
        )


def fields_of(events: Sequence[Transaction]) -> dict[str, Sequence[Any]]:
    """The fields of transactions by name, each a column."""
    names = Transaction.__struct_fields__
    columns = zip(*map(msgspec.structs.astuple, events), strict=True) if events else [()] * len(names)
    return dict(zip(names, columns, strict=True))


class Features(msgspec.Struct, frozen=True):
    """Feature values of n transactions, in their order."""

    values: Floats
    """(n, number of names); exact, NaN where unknown."""
    late: NDArray[np.bool_]

    @property
    def inputs(self) -> NDArray[np.float32]:
        """What the model sees."""
        return self.values.astype(np.float32, order="C")


class FraudFeatures:
    """Computes features and keeps the cards' histories; needs no Kafka.

    Called with the transactions of each partition in their order, in batches of any size: how they are cut changes
    no value. `merchants` may be changed between calls.
    """

    def __init__(self, settings: FraudSettings | None = None, merchants: MerchantRates | None = None) -> None:
        self.settings = settings or FraudSettings()
        self.names: tuple[str, ...] = (*FEATURE_NAMES, *self.settings.group_inputs)
        self.merchants = merchants
        lateness_ms = round(self.settings.allowed_lateness_hours * HOUR_MS)
        self.windows = KeyedWindows(tuple(WINDOWS.values()), lateness_ms, self.settings.max_events_per_card)
        self._codes = {
            field: {name: float(code) for code, name in enumerate(names)}
            for field, names in (
                ("category", self.settings.categories),
                ("gender", self.settings.genders),
                ("region", self.settings.regions),
            )
        }

    def update(self, columns: Columns) -> Features:
        """Features of each transaction as of its turn, which then becomes history of its card."""
        millionths = np.rint(columns.amounts * _MILLIONTHS).astype(np.int64)
        places = columns.merchant_places
        windows = self.windows.update(
            columns.partitions, columns.cards, columns.times, millionths, np.where(_known(places), places, np.nan)
        )
        values = np.empty((len(columns.times), len(self.names)), order="F")
        column = {name: values[:, at] for at, name in enumerate(self.names)}
        column["amount"][:] = columns.amounts
        _fill_time(column, columns.times)
        column["category"][:] = self._code("category", columns.categories)
        _fill_windows(column, windows, columns)
        _fill_distances(column, windows, columns)
        first = self.names.index(MERCHANT_FEATURES[0])
        rates = self.merchants.rates(columns.merchants) if self.merchants is not None else np.nan
        values[:, first : first + len(MERCHANT_FEATURES)] = rates
        self._fill_groups(column, columns)
        return Features(values=values, late=windows.late)

    def _code(self, field: str, names: Sequence[str | None]) -> Floats:
        return np.fromiter(map(self._codes[field].get, names, repeat(np.nan)), np.float64, len(names))  # type: ignore[arg-type]  # None is no key: NaN

    def _fill_groups(self, column: dict[str, Floats], columns: Columns) -> None:
        for attribute in self.settings.group_inputs:
            if attribute == "age":
                column["age"][:] = np.array(columns.ages, np.float64)
            else:
                names = columns.genders if attribute == "gender" else columns.regions
                column[attribute][:] = self._code(attribute, names)


def _fill_time(column: dict[str, Floats], times: Ints) -> None:
    column["hour"][:] = times // HOUR_MS % 24
    column["weekday"][:] = (times // DAY_MS + _EPOCH_WEEKDAY) % 7


def _fill_windows(column: dict[str, Floats], windows: Windows, columns: Columns) -> None:
    sums = windows.sums / _MILLIONTHS
    for at, window in enumerate(WINDOWS):
        column[f"card_count_{window}"][:] = windows.counts[:, at]
        column[f"card_sum_{window}"][:] = sums[:, at]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums[:, -1] / windows.counts[:, -1]
        column["amount_ratio"][:] = np.where(mean > 0, columns.amounts / mean, np.nan)
    seen = windows.previous != NEVER
    column["seconds_since_last"][:] = np.where(seen, (columns.times - windows.previous) / 1000, np.nan)


def _fill_distances(column: dict[str, Floats], windows: Windows, columns: Columns) -> None:
    distance = great_circle_km(windows.mark, columns.merchant_places)
    hours = np.maximum(np.abs(columns.times - windows.mark_time), 1000) / HOUR_MS
    column["distance_km"][:] = distance
    column["speed_kmh"][:] = distance / hours
    column["distance_home_km"][:] = great_circle_km(columns.home_places, columns.merchant_places)


def _known(places: Floats) -> NDArray[np.bool_]:
    return ~(np.isnan(places[:, :1]) | np.isnan(places[:, 1:]))


def great_circle_km(start: Floats, end: Floats) -> Floats:
    """Distance between places (latitude, longitude in degrees) by the haversine formula (Sinnott, 1984)."""
    a, b = np.radians(start), np.radians(end)
    half = np.sin((b - a) / 2) ** 2
    chord = half[:, 0] + np.cos(a[:, 0]) * np.cos(b[:, 0]) * half[:, 1]
    distance: Floats = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))
    return distance
