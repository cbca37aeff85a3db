"""Labels as they arrive: days after the event, not for every event, and sometimes only to clear it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from processors.fraud.simulator_world import Bools, Ints

_DAY_MS = 86_400_000
# A quarter is found within hours (the holder calls), the rest by chargebacks: median 6.7 days in all, like public data.
_FAST_SHARE = 0.25
_FAST_MEAN_DAYS = 8 / 24
_SLOW_MEDIAN_DAYS = 9.0
_SLOW_SIGMA = 0.75
_MAX_DAYS = 60.0
# Genuine purchases that were looked into and cleared.
_CLEARED_SHARE = 0.002


@dataclass(frozen=True)
class Labels:
    """Messages of topic `transaction-labels`, in the order of arrival."""

    labelled_at: Ints
    """Epoch milliseconds."""
    event_number: Ints
    """Position of the labelled event in the stream of transactions."""
    keys: list[bytes]
    values: list[bytes]

    def __len__(self) -> int:
        return len(self.labelled_at)


def arrivals(rng: np.random.Generator, event_time: Ints, fraud: Bools) -> Ints:
    """When the label of each event arrives, epoch milliseconds; 0 where none ever does.

    Every fraud is labelled in the end, and of the genuine events the few that were looked into.
    """
    count = len(event_time)
    slow = _SLOW_MEDIAN_DAYS * np.exp(rng.normal(0, _SLOW_SIGMA, count))
    days = np.where(rng.random(count) < _FAST_SHARE, rng.exponential(_FAST_MEAN_DAYS, count), slow)
    arrival = event_time + (np.minimum(days, _MAX_DAYS) * _DAY_MS).astype(np.int64) + 1
    labelled: Ints = np.where(fraud | (rng.random(count) < _CLEARED_SHARE), arrival, 0)
    return labelled


class LabelQueue:
    """Labels on their way; they leave in the order of arrival."""

    def __init__(self, event_id: Callable[[int], str], merchant_keys: list[bytes]) -> None:
        """Takes the names of events and merchants."""
        self._event_id = event_id
        self._merchant_keys = merchant_keys
        self._waiting = np.zeros((0, 5), np.int64)

    def add(self, first_number: int, event_time: Ints, merchant: Ints, fraud: Bools, arrival: Ints) -> None:
        """Puts the labels of a batch on their way."""
        chosen = np.flatnonzero(arrival)
        rows = (arrival, first_number + np.arange(len(arrival)), event_time, merchant, fraud.astype(np.int64))
        waiting = np.concatenate([self._waiting, np.column_stack([column[chosen] for column in rows])])
        self._waiting = waiting[np.argsort(waiting[:, 0], kind="stable")]

    def due(self, until_ms: int | None) -> Labels:
        """Takes out the labels that arrive up to then; None takes all."""
        count = len(self._waiting)
        if until_ms is not None:
            count = int(np.searchsorted(self._waiting[:, 0], until_ms, side="right"))
        due, self._waiting = self._waiting[:count], self._waiting[count:]
        keys = [self._merchant_keys[row] for row in due[:, 3].tolist()]
        values = [
            f'{{"event_id":"{self._event_id(number)}","merchant":"{key.decode()}",'
            f'"is_fraud":{"true" if fraud else "false"},"event_time":{at},"labelled_at":{arrival}}}'.encode()
            for key, (arrival, number, at, _, fraud) in zip(keys, due.tolist(), strict=True)
        ]
        return Labels(due[:, 0], due[:, 1], keys, values)
