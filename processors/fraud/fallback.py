"""What a transaction gets that was too old for the model: the configured decision, and nothing that looks like a score.

The probability is the least that gives the decision, so that whoever decides by it again decides alike; `model` is
`fallback`, and there are no reasons and no features, since nothing was given to a model. The transaction is part of its
card's history and counts for its merchant as any other.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.fraud import FraudScore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from processors.fraud.settings import FraudSettings
    from schemas.fraud import Reason

__all__ = ["MODEL", "fallback_scores"]

MODEL = "fallback"
"""Stands where a score has the model's `name@version`."""

_NO_REASONS: list[Reason] = []
_KEPT = ("event_id", "merchant", "amount", "category", "currency", "age", "gender", "region")


def fallback_scores(
    fields: Mapping[str, Sequence[Any]],
    derived: Mapping[str, Sequence[Any]],
    stamps_ms: NDArray[np.int64],
    rows: Sequence[int],
    settings: FraudSettings,
    now_ms: int,
) -> list[FraudScore]:
    """One score for each of the rows.

    Args:
        fields: Columns of the transactions.
        derived: Columns of `card_token`, `event_time` and `late`.
        stamps_ms: Timestamps of the messages.
        rows: Which of them.
        settings: Have the decision and its thresholds.
        now_ms: When it is decided.
    """
    decision = settings.fallback
    chosen: dict[str, Iterable[Any]] = {
        "probability": repeat({"approve": 0.0, "review": settings.review, "decline": settings.decline}[decision]),
        "decision": repeat(decision),
        "reasons": repeat(_NO_REASONS),
        "features": repeat({}),
        "model": repeat(MODEL),
        "scored_at": repeat(now_ms),
        "latency_ms": np.maximum(now_ms - stamps_ms[list(rows)], 0).astype(np.float64).tolist(),
    }
    for name in _KEPT:
        column = fields[name]
        chosen[name] = [column[row] for row in rows]
    for name, column in derived.items():
        chosen[name] = [column[row] for row in rows]
    return list(map(FraudScore, *(chosen[name] for name in FraudScore.__struct_fields__)))
