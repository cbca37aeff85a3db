"""Features for training, computed by the code that serves: histories per card and what labels said of merchants.

A stream is replayed in order of event time. Before the transactions of an hour are looked at, the ledger of merchant
risk has counted all earlier hours and taken every label that had arrived by then; the features are `FraudFeatures`'.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors.fraud.features import HOUR_MS, Columns, FraudFeatures
from processors.fraud.merchant_risk import MerchantRiskLedger
from schemas.codec import JsonCodec
from schemas.envelope import Record
from schemas.fraud import Transaction
from schemas.times import parse_times
from scripts.train.fraud_data import DAY_MS, HANDBOOK_LABEL_DELAY_DAYS, Block, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from processors.fraud.settings import FraudSettings

GROUPS = ("age", "gender", "region")


class Table(msgspec.Struct, frozen=True):
    """Transactions with features and truth, in order of event time."""

    features: NDArray[np.float32]
    names: tuple[str, ...]
    event_time: NDArray[np.int64]
    is_fraud: NDArray[np.bool_]
    card: NDArray[np.str_]
    groups: dict[str, NDArray[np.str_]]
    """Value per transaction and attribute, empty where unknown."""

    def __len__(self) -> int:
        return len(self.event_time)

    def rows(self, chosen: slice | NDArray[np.bool_]) -> Table:
        """Some of the transactions."""
        groups = {name: values[chosen] for name, values in self.groups.items()}
        return Table(
            self.features[chosen],
            self.names,
            self.event_time[chosen],
            self.is_fraud[chosen],
            self.card[chosen],
            groups,
        )

    def between(self, start: float, end: float) -> Table:
        """Those in a share of the time that the table covers."""
        first, last = int(self.event_time[0]), int(self.event_time[-1]) + 1
        low, high = (first + share * (last - first) for share in (start, end))
        return self.rows((self.event_time >= low) & (self.event_time < high))

    def save(self, path: Path) -> None:
        """Keeps it for another run."""
        groups = {f"group_{name}": values for name, values in self.groups.items()}
        np.savez(
            path,
            features=self.features,
            names=np.array(self.names),
            event_time=self.event_time,
            is_fraud=self.is_fraud,
            card=self.card,
            **groups,  # type: ignore[arg-type]
        )

    @classmethod
    def load(cls, path: Path) -> Table:
        """The reverse of `save`."""
        with np.load(path) as arrays:
            groups = {name: arrays[f"group_{name}"] for name in GROUPS}
            names = tuple(arrays["names"].tolist())
            return cls(arrays["features"], names, arrays["event_time"], arrays["is_fraud"], arrays["card"], groups)

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        """One after another."""
        return cls(
            np.concatenate([table.features for table in tables]),
            tables[0].names,
            np.concatenate([table.event_time for table in tables]),
            np.concatenate([table.is_fraud for table in tables]),
            np.concatenate([table.card for table in tables]),
            {name: np.concatenate([table.groups[name] for table in tables]) for name in GROUPS},
        )


def replay(stream: Stream, settings: FraudSettings | None = None, delay_days: float = 7.0) -> Table:
    """Features and truth of every transaction of a stream that can be decoded."""
    merchants = LedgerRates(MerchantRiskLedger(delay_days))
    features = FraudFeatures(settings, merchants)
    parts = [part for block in stream.blocks() for part in _replay_block(block, features, merchants)]
    return Table.join(parts)


class LedgerRates:
    """The ledger as features see it: the figures as of the hour that is replayed."""

    def __init__(self, ledger: MerchantRiskLedger) -> None:
        self.ledger = ledger
        self._labels: list[tuple[int, str, str, bool, int]] = []
        self._table: NDArray[np.float32] = np.full((1, 4), np.nan, np.float32)
        self._hour: int | None = None
        self._seen: list[tuple[NDArray[np.int64], int]] = []

    def rates(self, merchants: Sequence[str]) -> NDArray[np.float32]:
        """(n, 4) as `MerchantRiskTable.rates`."""
        rows = self.ledger.rows(merchants)
        known = rows < len(self._table)
        found = self._table[np.where(known, rows, 0)]
        found[~known] = np.nan
        return found

    def expect_label(self, labelled_at: int, event_id: str, merchant: str, is_fraud: bool, event_time: int) -> None:
        """Puts a label on its way."""
        heapq.heappush(self._labels, (labelled_at, event_id, merchant, is_fraud, event_time))

    def begin_hour(self, hour: int) -> None:
        """Brings the figures to the start of an hour: counts of all hours before, labels that have arrived."""
        if hour == self._hour:
            return
        self._hour = hour
        for rows, past in self._seen:
            self.ledger.add_counts(rows, np.full(len(rows), past), np.ones(len(rows), np.int64))
        self._seen.clear()
        while self._labels and self._labels[0][0] <= hour * HOUR_MS:
            labelled_at, event_id, merchant, is_fraud, event_time = heapq.heappop(self._labels)
            self.ledger.add_label(event_id, merchant, is_fraud, event_time, labelled_at)
        self._table = self.ledger.figures().features()
        if not len(self._table):
            self._table = np.full((1, 4), np.nan, np.float32)

    def count(self, merchants: Sequence[str], hour: int) -> None:
        """Transactions of the running hour; they count once it is over."""
        self._seen.append((self.ledger.rows(merchants), hour))


def _replay_block(block: Block, features: FraudFeatures, merchants: LedgerRates) -> Iterator[Table]:
    events, times, fraud, labelled_at = _decode(block)
    hours = times // HOUR_MS
    tokens = [event.card.encode().rjust(16, b"\0")[-16:] for event in events]
    cuts = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(events)]
    values = []
    for low, high in itertools.pairwise(cuts):
        merchants.begin_hour(int(hours[low]))
        some = events[low:high]
        columns = Columns.of(some, tokens[low:high], times[low:high], np.zeros(high - low, np.int64))
        values.append(features.update(columns).inputs)
        merchants.count(columns.merchants, int(hours[low]))
        for row in (np.flatnonzero(labelled_at[low:high]) + low).tolist():
            event = events[row]
            arrival = int(labelled_at[row])
            merchants.expect_label(arrival, event.event_id, event.merchant, bool(fraud[row]), int(times[row]))
    if values:
        cards = np.array([event.card for event in events])
        yield Table(np.concatenate(values), features.names, times, fraud, cards, _groups(events))


def _decode(
    block: Block,
) -> tuple[list[Transaction], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Events of a block with times, truths and arrivals; what cannot be decoded is left out, as in serving."""
    records = [Record("", 0, number, None, value, 0) for number, value in enumerate(block.values)]
    events, kept, _ = JsonCodec(Transaction).decode_records(records)
    rows = np.fromiter((record.offset for record in kept), np.int64, len(kept))
    times, bad = parse_times([event.event_time for event in events])
    if bad:
        raise ValueError(f"{len(bad)} event times cannot be read; the first: {next(iter(bad.items()))}.")
    fraud = block.is_fraud[rows]
    if block.labelled_at is None:
        labelled_at = np.where(fraud, times + HANDBOOK_LABEL_DELAY_DAYS * DAY_MS, 0)
    else:
        labelled_at = block.labelled_at[rows]
    return events, times, fraud, labelled_at


def _groups(events: list[Transaction]) -> dict[str, NDArray[np.str_]]:
    bands = ((25, "<25"), (35, "25-34"), (50, "35-49"), (65, "50-64"), (131, "65+"))
    ages = ["" if e.age is None else next(name for limit, name in bands if e.age < limit) for e in events]
    return {
        "age": np.array(ages, "U8"),
        "gender": np.array([e.gender or "" for e in events], "U8"),
        "region": np.array([e.region or "" for e in events], "U8"),
    }
