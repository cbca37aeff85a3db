"""The messages of the perceptron domain: a number in, a number out."""

from __future__ import annotations

import msgspec

from schemas.dead_letter import dead_letter_topic
from schemas.fields import Name
from schemas.topics import TopicType


class Question(msgspec.Struct, frozen=True, gc=False):
    """A number (topic `questions`)."""

    event_id: Name
    x: float


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What the model makes of it (topic `replies`)."""

    event_id: str
    y: float


TOPICS = [
    TopicType("questions", Question, "any", "input", "Numbers."),
    TopicType("replies", Reply, "any", "output", "One answer to each number."),
    dead_letter_topic("perceptron"),
]
