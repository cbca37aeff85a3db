"""How well scores rank the true cases before the others: two standard figures, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["average_precision", "roc_auc"]


def roc_auc(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve: the chance that a true case scores above another, ties counting half.

    By rank sums (Mann and Whitney 1947). None where there are not both kinds.
    """
    positives = int(np.count_nonzero(truth))
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    _values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Mean precision over the recall steps, one step per distinct score, without interpolation.

    AP = Σ (Rₙ - Rₙ₋₁) Pₙ, as scikit-learn defines it. None where nothing is true.
    """
    positives = int(np.count_nonzero(truth))
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = hits[ends]
    precision = found / (ends + 1)
    return float(np.sum(np.diff(found, prepend=0) / positives * precision))
