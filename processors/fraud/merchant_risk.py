"""What labels say about merchants: a ledger that sums tallies and labels, and the table of rates that workers hold.

Rules of the ledger, all of which make reading something again harmless:

- A tally (transactions per merchant and hour in one range of a source partition) counts for a merchant only where
  its range begins after the last range counted for that merchant and source. Ranges of one source therefore have to
  arrive in order, as they do where tallies are keyed by their source; different sources may interleave in any way.
- Of two labels of one event the later `labelled_at` holds, whatever came first (fraud holds on a tie), so a reversal
  removes a fraud also when it arrives before it.
- Time is the newest hour that a tally mentioned. What is older than delay + 30 days is forgotten and never counted.

Figures are counts and frauds in the windows (as_of - delay - w, as_of - delay] of w = 1, 7 and 30 days, in whole
hours, and rates (frauds + k * overall) / (count + k), at most 1, with `overall` the share of frauds among all
transactions of the 30-day window: the mean of a Beta posterior whose prior weighs k transactions. A merchant without
a transaction or fraud in its 30-day window has no figures.
"""

from __future__ import annotations

from itertools import repeat
from math import ceil
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from processors.fraud._hourly import HourlyWindows
from processors.fraud._label_book import LabelBook, digest
from processors.fraud._merchant_figures import Figures, Told
from schemas.fraud import MerchantRisk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from schemas.fraud import MerchantTally

HOUR_MS = 3_600_000


class MerchantRecord(msgspec.Struct, frozen=True, array_like=True):
    """All the ledger knows about one merchant: what is kept so that it can be restored. Arrays are little-endian."""

    covers: dict[str, int]
    """Per source the last offset counted."""
    hours: bytes = b""
    """int32, ascending."""
    counts: bytes = b""
    """int32, one per hour."""
    frauds: bytes = b""
    """Rows of `_label_book.PACKED`."""
    genuine: bytes = b""
    """Rows of `_label_book.PACKED`."""


class MerchantRiskTable:
    """The newest rates of every merchant, as a worker holds them (a `GlobalTable`)."""

    topic = "merchant-risk"

    def __init__(self) -> None:
        self.unreadable = 0
        """Records that were skipped because they could not be read."""
        self._decoder = msgspec.json.Decoder(MerchantRisk)
        # Row 0 is what is said of a merchant nobody knows.
        self._rows: dict[str, int] = {}
        self._values = np.full((1024, 4), np.nan, np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, key: bytes, value: bytes | None) -> None:
        """Applies one record of the topic; None forgets the merchant's figures."""
        try:
            merchant = key.decode()
            risk = None if value is None else self._decoder.decode(value)
        except (UnicodeDecodeError, msgspec.DecodeError, AttributeError):
            self.unreadable += 1
            return
        self.put(merchant, risk)

    def put(self, merchant: str, risk: MerchantRisk | None) -> None:
        """Sets or forgets the figures of one merchant."""
        row = self._rows.get(merchant)
        if risk is None:
            if row is not None:
                self._values[row] = np.nan
            return
        if row is None:
            row = self._rows[merchant] = len(self._rows) + 1
            if row == len(self._values):
                self._values = np.concatenate([self._values, np.full_like(self._values, np.nan)])
        self._values[row] = (risk.rate_1d, risk.rate_7d, risk.rate_30d, risk.count_30d)

    def rates(self, merchants: Sequence[str]) -> NDArray[np.float32]:
        """Rows of rate_1d, rate_7d, rate_30d, count_30d; NaN for a merchant without figures."""
        rows = np.fromiter(map(self._rows.get, merchants, repeat(0)), np.intp, len(merchants))
        return self._values.take(rows, axis=0)


class MerchantRiskLedger:
    """Sums tallies and labels into figures per merchant; pure, so that serving and training share it."""

    def __init__(self, delay_days: float = 7.0, prior_weight: float = 10.0) -> None:
        self.delay_days = delay_days
        self.prior_weight = prior_weight
        self.skipped = {"repeated": 0, "too_old": 0, "too_far_ahead": 0}
        """Rows and labels that changed nothing, by reason."""
        self._transactions = HourlyWindows(ceil(delay_days * 24))
        self._labels = LabelBook(ceil(delay_days * 24))
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._covers: dict[str, NDArray[np.int64]] = {}
        self._dirty: set[int] = set()
        self._told = Told()

    @property
    def as_of_ms(self) -> int | None:
        """Start of the newest hour that a tally mentioned."""
        return None if self._transactions.head is None else self._transactions.head * HOUR_MS

    @property
    def labels_over_limit(self) -> int:
        """Fraud labels not taken because their merchant has too many."""
        return self._labels.over_limit

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, merchants: Iterable[str]) -> NDArray[np.int64]:
        """Row numbers of merchants, made where new; they stay valid until `forget_idle`."""
        known = self._rows
        return np.array([known[m] if m in known else self._new_row(m) for m in merchants], np.int64)

    # What comes in.

    def add_tally(self, tally: MerchantTally, latest_hour: int | None = None) -> int:
        """Counts one tally message; hours after `latest_hour` are skipped. Returns the transactions counted."""
        return self.add_tallies(
            tally.merchants,
            tally.hours,
            tally.counts,
            f"{tally.topic}/{tally.partition}",
            tally.first_offset,
            tally.last_offset,
            latest_hour,
        )

    def add_tallies(
        self,
        merchants: Sequence[str],
        hours: ArrayLike,
        counts: ArrayLike,
        source: str,
        first_offset: int,
        last_offset: int,
        latest_hour: int | None = None,
    ) -> int:
        """As `add_tally`, in columns: all rows that one range of one source has."""
        hour_of, count_of = np.asarray(hours, np.int64), np.asarray(counts, np.int64)
        use = self._in_time(hour_of, latest_hour)
        if not use.all():
            merchants = [merchants[i] for i in np.flatnonzero(use).tolist()]
            hour_of, count_of = hour_of[use], count_of[use]
        rows = self.rows(merchants)
        covers = self._covers_of(source)
        fresh = covers[rows] < first_offset
        if not fresh.all():
            self.skipped["repeated"] += int(len(rows) - fresh.sum())
            rows, hour_of, count_of = rows[fresh], hour_of[fresh], count_of[fresh]
        covers[rows] = last_offset
        self._dirty.update(rows.tolist())
        return self.add_counts(rows, hour_of, count_of)

    def add_counts(self, rows: NDArray[np.int64], hours: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
        """Counts transactions by row number without asking whether they were counted before: for offline replays."""
        if not len(rows):
            return 0
        self._advance(int(hours.max()))
        use = self._in_time(hours, None)
        self._transactions.add(rows[use], hours[use], counts[use])
        return int(counts[use].sum())

    def add_label(
        self,
        event_id: str,
        merchant: str,
        is_fraud: bool,
        event_time_ms: int,
        labelled_at_ms: int,
        latest_hour: int | None = None,
    ) -> bool:
        """Takes what became of one transaction; returns whether anything changed."""
        hour = event_time_ms // HOUR_MS
        if self._transactions.is_over(hour) or (latest_hour is not None and hour > latest_hour):
            self.skipped["too_old" if self._transactions.is_over(hour) else "too_far_ahead"] += 1
            return False
        row = self._rows.get(merchant)
        row = self._new_row(merchant) if row is None else row
        changed = self._labels.take(row, digest(event_id), is_fraud, labelled_at_ms, hour)
        if changed:
            self._dirty.add(row)
        return changed

    # What comes out.

    def figures(self, as_of_ms: int | None = None) -> Figures:
        """Figures of all merchants at a time, which is at least the newest that a tally mentioned."""
        if as_of_ms is not None:
            self._advance(as_of_ms // HOUR_MS)
        n = len(self._names)
        counts, frauds = self._transactions.sums[:, :n].copy(), self._labels.windows.sums[:, :n].copy()
        total = int(counts[2].sum())
        known = ((counts[2] != 0) | (frauds[2] != 0)) & (total > 0)
        k, overall = self.prior_weight, min(1.0, int(frauds[2].sum()) / total) if total else 0.0
        rates = np.where(known, np.minimum(1.0, (frauds + k * overall) / (counts + k)), np.nan)
        return Figures(as_of_ms=self.as_of_ms or 0, known=known, counts=counts, frauds=frauds, rates=rates)

    def risk(self, as_of_ms: int | None = None) -> list[MerchantRisk]:
        """Figures of every merchant that has any."""
        figures = self.figures(as_of_ms)
        return self._messages(figures, np.flatnonzero(figures.known))

    def changed(self, as_of_ms: int | None = None, tolerance: float = 0.01) -> list[tuple[str, MerchantRisk | None]]:
        """What is news since the last call: (merchant, figures), or None for a merchant that has none any more.

        Counts and frauds are always news; a rate that moved only because the overall rate did is from a relative
        `tolerance` on, so that one label does not make news of every merchant.
        """
        figures = self.figures(as_of_ms)
        news = self._told.news(figures, tolerance)
        self._told.tell(figures, news)
        gone = [(self._names[row], None) for row in news[~figures.known[news]].tolist()]
        told = self._messages(figures, news[figures.known[news]])
        return [*gone, *((risk.merchant, risk) for risk in told)]

    # What is kept.

    def drain(self) -> list[tuple[str, MerchantRecord]]:
        """Records of the merchants that changed since the last call."""
        rows = sorted(self._dirty)
        self._dirty.clear()
        histories = self._transactions.history(np.array(rows, np.int64))
        return [(self._names[row], self._record(row, *history)) for row, history in zip(rows, histories, strict=True)]

    def restore(self, records: Iterable[tuple[str, MerchantRecord]]) -> None:
        """Takes over what was kept of merchants that this ledger does not know yet."""
        kept = list(records)
        rows = self.rows(merchant for merchant, _ in kept)
        hours = [np.frombuffer(record.hours, "<i4") for _, record in kept]
        counts = [np.frombuffer(record.counts, "<i4") for _, record in kept]
        if kept:
            repeated = np.repeat(rows, [len(h) for h in hours])
            self.add_counts(repeated, np.concatenate(hours).astype(np.int64), np.concatenate(counts).astype(np.int64))
        for row, (_, record) in zip(rows.tolist(), kept, strict=True):
            for source, offset in record.covers.items():
                self._covers_of(source)[row] = offset
            self._labels.restore(row, record.frauds, record.genuine)

    def forget_idle(self) -> list[str]:
        """Forgets merchants of which nothing is young enough to matter, and names them; row numbers are used again."""
        busy = self._transactions.occupied() | self._labels.windows.occupied()
        idle = [row for row in self._rows.values() if not busy[row] and not self._labels.holds(row)]
        names = [self._names[row] for row in idle]
        for row, name in zip(idle, names, strict=True):
            del self._rows[name]
            self._names[row] = ""
            self._labels.forget(row)
            self._dirty.discard(row)
        for covers in self._covers.values():
            covers[idle] = -1
        self._told.forget(idle)
        self._free.extend(idle)
        return names

    # Inside.

    def _new_row(self, merchant: str) -> int:
        if self._free:
            row = self._free.pop()
            self._names[row] = merchant
        else:
            row = len(self._names)
            self._names.append(merchant)
            self._reserve(row + 1)
        self._rows[merchant] = row
        return row

    def _reserve(self, rows: int) -> None:
        self._transactions.reserve(rows)
        self._labels.windows.reserve(rows)
        room = self._transactions.sums.shape[1]
        for source, covers in self._covers.items():
            if len(covers) < room:
                self._covers[source] = np.concatenate([covers, np.full(room - len(covers), -1, np.int64)])

    def _covers_of(self, source: str) -> NDArray[np.int64]:
        if source not in self._covers:
            self._covers[source] = np.full(self._transactions.sums.shape[1], -1, np.int64)
        return self._covers[source]

    def _advance(self, hour: int) -> None:
        if self._transactions.head is not None and hour <= self._transactions.head:
            return
        self._transactions.advance(hour)
        self._labels.windows.advance(hour)

    def _in_time(self, hours: NDArray[np.int64], latest_hour: int | None) -> NDArray[np.bool_]:
        use = np.ones(len(hours), np.bool_)
        if latest_hour is not None:
            use &= hours <= latest_hour
            self.skipped["too_far_ahead"] += int(len(hours) - use.sum())
        if self._transactions.head is not None:
            old = hours <= self._transactions.head - self._transactions.span
            self.skipped["too_old"] += int(old.sum())
            use &= ~old
        return use

    def _record(self, row: int, hours: NDArray[np.int64], counts: NDArray[np.int64]) -> MerchantRecord:
        frauds, genuine = self._labels.pack(row)
        return MerchantRecord(
            covers={source: int(covers[row]) for source, covers in self._covers.items() if covers[row] >= 0},
            hours=hours.astype("<i4").tobytes(),
            counts=counts.astype("<i4").tobytes(),
            frauds=frauds,
            genuine=genuine,
        )

    def _messages(self, figures: Figures, rows: NDArray[np.int64]) -> list[MerchantRisk]:
        columns = np.vstack([figures.counts[:, rows], figures.frauds[:, rows]]).tolist()
        rates = figures.rates[:, rows].tolist()
        names = [self._names[row] for row in rows.tolist()]
        return [
            MerchantRisk(name, figures.as_of_ms, self.delay_days, *whole)
            for name, *whole in zip(names, *columns, *rates, strict=True)
        ]
