"""A plain loop: one event, its features, one `session.run`; histories in a dictionary, lost with the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scripts.bench.contenders.answers import answer
from scripts.bench.contenders.features import Card, Model, decode, features
from scripts.bench.contenders.loop import arguments, run

if TYPE_CHECKING:
    from confluent_kafka import Message


def main() -> None:
    """Runs until SIGTERM."""
    given = arguments()
    model = Model(given)
    cards: dict[str, Card] = {}

    def score(messages: list[Message]) -> list[tuple[bytes | None, bytes]]:
        answers = []
        for message in messages:
            event = decode(message.value() or b"")
            card = cards.setdefault(event.card, Card())
            values = features(event, card, model.codes)
            [probability] = model.scores(np.array([values], np.float32))
            answers.append((message.key(), answer(event, probability, values, model)))
        return answers

    run(given, score, 1)


if __name__ == "__main__":
    main()
