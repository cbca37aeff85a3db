"""Figures of all merchants at one time, and which of them are news."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


class Figures(msgspec.Struct, frozen=True):
    """Figures of all merchants by row (see `MerchantRiskLedger.rows`): windows of 1, 7 and 30 days."""

    as_of_ms: int
    known: NDArray[np.bool_]
    """Which rows have figures, (n,)."""
    counts: NDArray[np.int64]
    """(3, n)."""
    frauds: NDArray[np.int64]
    """(3, n)."""
    rates: NDArray[np.float64]
    """(3, n), NaN where not known."""

    def features(self) -> NDArray[np.float32]:
        """What `MerchantRiskTable.rates` would say, as (n, 4) by row."""
        count_30d = np.where(self.known, self.counts[2], np.nan)
        return np.vstack([self.rates, count_30d]).T.astype(np.float32)


class Told:
    """What was told of each row, so that only news is told."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.bool_)
        self._whole = np.zeros((6, 0), np.int64)
        self._rates = np.zeros((3, 0))

    def news(self, figures: Figures, tolerance: float) -> NDArray[np.int64]:
        """Rows whose figures differ from what was told."""
        self._grow(len(figures.known))
        whole = np.vstack([figures.counts, figures.frauds])
        moved = np.abs(figures.rates - self._rates) > tolerance * self._rates
        differs = (whole != self._whole).any(axis=0) | moved.any(axis=0)
        return np.flatnonzero((figures.known != self._known) | (figures.known & differs))

    def tell(self, figures: Figures, rows: NDArray[np.int64]) -> None:
        """Notes that the figures of these rows were told."""
        self._known[rows] = figures.known[rows]
        self._whole[:, rows] = np.vstack([figures.counts, figures.frauds])[:, rows]
        self._rates[:, rows] = figures.rates[:, rows]

    def forget(self, rows: list[int]) -> None:
        """Nothing was told of these rows."""
        rows = [row for row in rows if row < len(self._known)]
        self._known[rows] = False

    def _grow(self, rows: int) -> None:
        more = rows - len(self._known)
        if more > 0:
            self._known = np.pad(self._known, (0, more))
            self._whole = np.pad(self._whole, ((0, 0), (0, more)))
            self._rates = np.pad(self._rates, ((0, 0), (0, more)))
