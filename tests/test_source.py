"""Reading Kafka: what a message is to us, whatever its sender put into it."""

from __future__ import annotations

from collections.abc import Callable

from harness import Follower

from streams._messages import UNREADABLE_HEADERS
from streams.chaos.raw_headers import send_with_header
from streams.local.topics import TopicSpec, ensure_topics


def test_header_whose_name_is_no_text_costs_the_headers_alone(kafka: str, topic_name: Callable[..., str]) -> None:
    """Key and value are read as ever, and a header says that the others could not be."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    # Many, since the interpreter makes often used calls fast, and then notices less.
    good = [(b"k", b"good name")] * 300
    send_with_header(kafka, topic, "\N{BLACK STAR}".encode(), good)
    send_with_header(kafka, topic, b"\xff\xfe", [(b"k", b"bad name")] * 300)
    send_with_header(kafka, topic, "\N{BLACK STAR}".encode(), good)

    records = Follower(kafka, topic).read_until(900, 30)

    expected = {(b"k", b"bad name", UNREADABLE_HEADERS), (b"k", b"good name", (("\N{BLACK STAR}", b"x"),))}
    assert expected == {(record.key, record.value, record.headers) for record in records}
    assert [b"good name"] * 300 == [record.value for record in records[600:]]
