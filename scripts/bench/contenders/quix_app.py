"""Quix Streams: exactly-once, the card's history in its own state (RocksDB and a changelog topic).

The history is kept as packed bytes, which its state stores as they are: JSON would be slower. Commits once a second.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from quixstreams import Application

from scripts.bench.contenders.answers import answer
from scripts.bench.contenders.features import Card, Model, decode, features, pack, unpack


def main() -> None:
    """Runs until SIGTERM."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    model = Model(given)
    app = Application(
        given["bootstrap"],
        consumer_group=given["group"],
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=1.0,
        state_dir=given["folder"],
        producer_extra_config={"compression.type": "lz4", "linger.ms": 5, "batch.size": 1_000_000},
        loglevel="WARNING",
    )
    source = app.topic(given["topic"], key_deserializer="bytes", value_deserializer="bytes")
    output = app.topic(given["output"], key_serializer="bytes", value_serializer="bytes")

    def score(value: bytes, state: Any) -> bytes:
        event = decode(value)
        packed = state.get_bytes("card")
        card = Card() if packed is None else unpack(packed)
        values = features(event, card, model.codes)
        state.set_bytes("card", pack(card))
        [probability] = model.scores(np.array([values], np.float32))
        return answer(event, probability, values, model)

    app.dataframe(source).apply(score, stateful=True).to_topic(output)
    app.run()


if __name__ == "__main__":
    main()
