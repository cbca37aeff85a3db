"""Reading Kafka: what a message is to us, whatever its sender put into it."""

from __future__ import annotations

from collections.abc import Callable

from harness import Follower
from raw_headers import send_with_header

from streams.local.topics import TopicSpec, ensure_topics
from streams.source import UNREADABLE_HEADERS


def test_header_whose_name_is_no_text_costs_the_headers_alone(kafka: str, topic_name: Callable[..., str]) -> None:
    """Key and value are read as ever, and a header says that the others could not be."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    send_with_header(kafka, topic, b"\xff\xfe", [(b"k", b"bad name")])
    send_with_header(kafka, topic, "\N{BLACK STAR}".encode(), [(b"k", b"good name")])

    bad, good = Follower(kafka, topic).read_until(2, 30)

    assert (b"k", b"bad name", UNREADABLE_HEADERS) == (bad.key, bad.value, bad.headers)
    assert (b"good name", (("\N{BLACK STAR}", b"x"),)) == (good.value, good.headers)
