"""Figures of a scored table: ranking, recall at given false alarms, calibration, and all of it per group."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors._ranking import average_precision, roc_auc

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Fewer of either kind and a rate says more about chance than about the model.
FEWEST = 30


class Figures(msgspec.Struct, frozen=True):
    """What a model reaches on one table."""

    rows: int
    frauds: int
    roc_auc: float
    average_precision: float
    recall_at_half_percent: float
    """Share of frauds above the score that 0.5 % of the genuine reach."""
    recall_at_tenth_percent: float
    brier: float
    calibration_error: float
    """Expected calibration error: |mean probability - share of frauds| over 15 groups of equal size, weighted."""
    expected_over_observed: float


class Rate(msgspec.Struct, frozen=True):
    """A share with its 95 % interval (Wilson, 1927)."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.hits / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.96, self.of, self.value
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def text(self) -> str:
        """For a table: per cent, interval, count."""
        if self.of < FEWEST:
            return f"too few ({self.of})"
        low, high = self.interval
        return f"{100 * self.value:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


class GroupFigures(msgspec.Struct, frozen=True):
    """How one group fares at the review threshold."""

    name: str
    rows: int
    frauds: int
    flagged: Rate
    caught: Rate
    """Frauds that are flagged: true positive rate."""
    false_alarms: Rate
    """Genuine that are flagged: false positive rate."""
    expected_over_observed: float


def measure(is_fraud: Bools, probability: Floats) -> Figures:
    """All figures of one table, which must hold frauds and others."""
    auc, precision = roc_auc(is_fraud, probability), average_precision(is_fraud, probability)
    if auc is None or precision is None:
        raise ValueError(f"Figures need frauds and others; there are {int(is_fraud.sum())} among {len(is_fraud)}.")
    return Figures(
        rows=len(is_fraud),
        frauds=int(is_fraud.sum()),
        roc_auc=auc,
        average_precision=precision,
        recall_at_half_percent=recall_at(is_fraud, probability, 0.005),
        recall_at_tenth_percent=recall_at(is_fraud, probability, 0.001),
        brier=float(((probability - is_fraud) ** 2).mean()),
        calibration_error=calibration_error(is_fraud, probability),
        expected_over_observed=float(probability.sum() / is_fraud.sum()),
    )


def recall_at(is_fraud: Bools, probability: Floats, false_positives: float) -> float:
    """Share of frauds above the threshold that lets this share of the genuine through."""
    threshold = np.quantile(probability[~is_fraud], 1 - false_positives)
    return float((probability[is_fraud] > threshold).mean())


def calibration_error(is_fraud: Bools, probability: Floats, bins: int = 15) -> float:
    """Expected calibration error over bins of equal size (Naeini et al., 2015)."""
    order = np.argsort(probability, kind="stable")
    parts = zip(np.array_split(probability[order], bins), np.array_split(is_fraud[order], bins), strict=True)
    return sum(len(p) * abs(float(p.mean()) - float(y.mean())) for p, y in parts if len(p)) / len(probability)


def measure_groups(groups: NDArray[np.str_], is_fraud: Bools, probability: Floats, review: float) -> list[GroupFigures]:
    """Each value of an attribute, in order; unknown ones are left out."""
    flagged = probability >= review
    found = []
    for name in sorted(set(groups.tolist()) - {""}, key=lambda name: (name[0] != "<", name)):
        mine = groups == name
        fraud, flag = is_fraud[mine], flagged[mine]
        found.append(
            GroupFigures(
                name=name,
                rows=int(mine.sum()),
                frauds=int(fraud.sum()),
                flagged=Rate(int(flag.sum()), len(flag)),
                caught=Rate(int((flag & fraud).sum()), int(fraud.sum())),
                false_alarms=Rate(int((flag & ~fraud).sum()), int((~fraud).sum())),
                expected_over_observed=float(probability[mine].sum() / max(1, int(fraud.sum()))),
            )
        )
    return found


def chance_of_gap(groups: NDArray[np.str_], card: NDArray[np.str_], alarm: Bools, permutations: int = 1000) -> float:
    """How often chance alone makes false-alarm rates differ as much between an attribute's groups (a p-value).

    A permutation test that hands the attribute around among cards, not transactions: alarms of one card come in
    bursts, and intervals that count them as independent are too narrow. `alarm` is of genuine transactions only.
    """
    cards, first, of = np.unique(card, return_index=True, return_inverse=True)
    genuine, alarms = np.bincount(of), np.bincount(of, weights=alarm)
    names, group = np.unique(groups[first], return_inverse=True)
    rng = np.random.default_rng(0)

    def gap(group: NDArray[np.intp]) -> float:
        of_group = np.bincount(group, genuine, len(names))
        rate = np.bincount(group, alarms, len(names)) / np.maximum(of_group, 1)
        return float(rate.max() - rate.min())

    seen = gap(group)
    as_large = sum(gap(rng.permutation(group)) >= seen for _ in range(permutations))
    return (1 + as_large) / (1 + permutations) if len(cards) else 1.0
