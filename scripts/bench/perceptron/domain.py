"""A number, spread over the inputs of a perceptron with a million parameters: the model is all that it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from schemas.perceptron import Question, Reply  # type: ignore[import-not-found]  # where it is copied to

from processors import Prepared
from processors._contract import BATCH, Contract, Tensor
from schemas.envelope import Message, Record, Reject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors import Arrays, Setup

_INPUTS = 64


class PerceptronProcessor:
    """Answers each number by itself."""

    name = "perceptron"
    input_topic = "questions"
    output_topics = ("replies",)
    contract = Contract(
        inputs=(Tensor("x", "float32", (BATCH, _INPUTS)),),
        outputs=(Tensor("y", "float32", (BATCH, 1)),),
    )
    state = None
    tables = ()

    def __init__(self, setup: Setup) -> None:
        self.model = setup.manifest.reference if setup.manifest else "perceptron"
        self._questions = setup.codecs("questions", Question)
        self._replies = setup.codecs("replies", Reply)
        self._directions = np.linspace(-1, 1, _INPUTS, dtype=np.float32)

    def attach(self, metadata: Mapping[str, str]) -> None:
        """Needs nothing of the model's metadata."""

    def prepare(self, records: list[Record]) -> Prepared:
        """Each number times a fixed vector."""
        events, kept, rejects = self._questions.decode_records(records)
        numbers = np.array([event.x for event in events], np.float32)
        return Prepared({"x": np.outer(numbers, self._directions)}, kept, events, rejects)

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> list[Message | Reject]:
        """The output as it is."""
        del now_ms
        answers = outputs["y"][:, 0].tolist()
        replies = [Reply(event.event_id, y) for event, y in zip(prepared.context, answers, strict=True)]
        keys = [record.key for record in prepared.records]
        return [Message("replies", key, value) for key, value in zip(keys, self._replies.encode(replies), strict=True)]

    def drain(self) -> list[Message]:
        """Writes no side messages."""
        return []


def create(setup: Setup) -> PerceptronProcessor:
    """Called once by whoever runs the domain."""
    return PerceptronProcessor(setup)
