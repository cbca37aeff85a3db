"""Why a score is high: contributions of features, summed where features say the same thing.

A person who reads a reason wants to hear each thing once. So the windows of a card are one reason, distance and speed
are one, and so are the figures of a merchant. Group attributes are never a reason, also where they are inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors.fraud.features import MERCHANT_FEATURES, WINDOWS
from schemas.fraud import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GROUPS: dict[str, str] = {
    **{f"card_{figure}_{window}": "card_velocity" for window in WINDOWS for figure in ("count", "sum")},
    "seconds_since_last": "card_velocity",
    "distance_km": "location_change",
    "speed_kmh": "location_change",
    "distance_home_km": "distance_from_home",
    **dict.fromkeys(MERCHANT_FEATURES, "merchant_risk"),
}
"""Features that share a reason; any other feature is a reason by its own name."""

SILENT = frozenset({"age", "gender", "region"})
"""Inputs that are never given as a reason."""

_MOST = 3
# Digits of a contribution to the log-odds: more than anybody reads, fewer than a float has.
_DIGITS = 6


class Reasons:
    """Turns contributions of a model's inputs into reasons.

    Args:
        names: The model's inputs, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        told = [GROUPS.get(name, name) for name in names if name not in SILENT]
        self._names = list(dict.fromkeys(told))
        self._sum = np.zeros((len(names), len(self._names)))
        for row, name in enumerate(names):
            if name not in SILENT:
                self._sum[row, self._names.index(GROUPS.get(name, name))] = 1

    def of(self, contributions: NDArray[np.float64]) -> list[list[Reason]]:
        """At most three reasons of each row that raise its score, the strongest first."""
        grouped = np.round(contributions @ self._sum, _DIGITS)
        order = np.argsort(-grouped, axis=1, kind="stable")[:, :_MOST]
        values = np.take_along_axis(grouped, order, axis=1)
        return [
            [Reason(self._names[at], value) for at, value in zip(places, row, strict=True) if value > 0]
            for places, row in zip(order.tolist(), values.tolist(), strict=True)
        ]
