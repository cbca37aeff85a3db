"""Faust: an agent, the card's history in a table, `processing_guarantee="exactly_once"` as far as it has it.

Its output is not transactional: the producer of a topic that nobody in the app subscribes to is a plain one
(faust-streaming issue 177). Commits once a second; the table is in memory, with its changelog topic.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import faust
import numpy as np

from scripts.bench.contenders.answers import answer
from scripts.bench.contenders.features import Card, Model, decode, features, pack, unpack

RAW: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


def main() -> None:
    """Runs until SIGTERM."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    model = Model(given)
    app = faust.App(
        given["group"],
        broker=f"kafka://{given['bootstrap']}",
        store="memory://",
        datadir=given["folder"],
        processing_guarantee="exactly_once",
        topic_partitions=4,
        # A killed worker's partitions wait for its session to end: a minute by default.
        broker_session_timeout=10,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        # Its default sends every answer in a request of its own.
        producer_linger=0.05,
        producer_max_batch_size=1_000_000,
        web_enabled=False,
        key_serializer="raw",
        value_serializer="raw",
    )
    source = app.topic(given["topic"], **RAW)
    output = app.topic(given["output"], **RAW)
    cards = app.Table("cards", partitions=4, key_type=bytes, value_type=bytes)

    @app.agent(source)
    async def score(stream: Any) -> None:
        async for key, value in stream.items():
            event = decode(value)
            packed = cards.get(key)
            card = Card() if packed is None else unpack(packed)
            values = features(event, card, model.codes)
            cards[key] = pack(card)
            [probability] = model.scores(np.array([values], np.float32))
            output.send_soon(key=key, value=answer(event, probability, values, model))

    sys.argv = [sys.argv[0], "worker", "-l", "warn", "--without-web"]
    app.main()


if __name__ == "__main__":
    main()
