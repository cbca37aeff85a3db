"""Batched by hand, without state: typed decoding, numpy columns, one `session.run` a batch.

Features that need a history of the card are missing (NaN): the windows, the ratio to the mean, the time, distance and
speed since the last purchase. With `short` the answer is id, probability and decision alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from scripts.bench.contenders.answers import Answer, Values, encode
from scripts.bench.contenders.features import DAY_MS, HOUR_MS, NAMES, WHOLE, Model, Transaction, decode
from scripts.bench.contenders.loop import COMMIT_EVENTS, arguments, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka import Message

Answers = list[tuple[bytes | None, bytes]]

_EARTH_KM = 6371.0088
_AT = {name: column for column, name in enumerate(NAMES)}


def columns(events: list[Transaction], codes: dict[str, float]) -> np.ndarray:
    """Features of n events, as float64; what needs a history stays NaN."""
    found = np.full((len(events), len(NAMES)), np.nan)
    times = np.array([e.event_time for e in events])
    found[:, _AT["amount"]] = [e.amount for e in events]
    found[:, _AT["hour"]] = times // HOUR_MS % 24
    found[:, _AT["weekday"]] = (times // DAY_MS + 3) % 7
    found[:, _AT["category"]] = [codes.get(e.category or "", np.nan) for e in events]
    places = np.array([(e.home_lat, e.home_lon, e.merchant_lat, e.merchant_lon) for e in events], np.float64)
    lat_a, lon_a, lat_b, lon_b = np.radians(places).T
    chord = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    found[:, _AT["distance_home_km"]] = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.minimum(chord, 1)))
    return found


def kept(values: np.ndarray) -> Iterator[object]:
    """The feature values of each row as they are written."""
    written = []
    for name, column in zip(NAMES, values.T, strict=True):
        unknown = np.isnan(column)
        numbers = np.where(unknown, 0, column)
        plain: list[float | None] = (numbers.astype(np.int64) if name in WHOLE else numbers).tolist()
        for row in np.flatnonzero(unknown).tolist():
            plain[row] = None
        written.append(plain)
    return map(Values, *written)


def main() -> None:
    """Runs until SIGTERM."""
    given = arguments()
    model = Model(given)

    def score(messages: list[Message]) -> Answers:
        if not messages:
            return []
        events = [decode(message.value() or b"") for message in messages]
        values = columns(events, model.codes)
        probabilities = model.scores(values.astype(np.float32))
        write = short if given.get("short") else full
        return write(messages, events, probabilities, values, model)

    run(given, score, COMMIT_EVENTS)


def short(
    messages: list[Message], events: list[Transaction], scores: list[float], _values: np.ndarray, model: Model
) -> Answers:
    """Three fields by hand."""
    return [
        (m.key(), f'{{"event_id":"{e.event_id}","probability":{p:.8f},"decision":"{model.decide(p)}"}}'.encode())
        for m, e, p in zip(messages, events, scores, strict=True)
    ]


def full(
    messages: list[Message], events: list[Transaction], scores: list[float], values: np.ndarray, model: Model
) -> Answers:
    """The same answer as everybody's."""
    now = time.time_ns() // 1_000_000
    return [
        (
            m.key(),
            encode(
                Answer(
                    e.event_id, e.card, e.merchant, round(p, 8), model.decide(p), v, model.reference, e.event_time, now,
                    e.amount, e.category, e.currency, e.age, e.gender, e.region,
                )
            ),
        )
        for m, e, p, v in zip(messages, events, scores, kept(values), strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
