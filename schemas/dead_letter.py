"""Dead letters: the original bytes as they came, and in the headers why they got no result and where they lay.

The value and the key are the original's, in clear by contract, so that nothing is lost and a retry is exact. Whoever
may not see the input topic may not see this one either. What goes to ClickHouse is a `DeadLetterRow`: the reason and
the coordinates, and of the value its size alone: a hash of a bare card number is undone by trying all numbers.

A letter that its topic would refuse for its size leaves the original out and says how much: a record that came in must
not be able to stop a worker. The coordinates tell where the original lies.

Our headers are always the last ones, in one order: what lies before them is the original's, even where a sender used
our names.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas._refusal import RefusedError
from schemas.envelope import Message, Record, Reject
from schemas.fields import Count, EpochMs, Word
from schemas.topics import TableSpec, TopicType

__all__ = [
    "DeadLetter",
    "DeadLetterRow",
    "dead_letter_topic",
    "from_record",
    "retry_identity",
    "to_message",
    "to_row",
    "topic_name",
]

HEADERS: dict[str, str] = {
    "reason": "headrace-reason",
    "path": "headrace-path",
    "detail": "headrace-detail",
    "topic": "headrace-topic",
    "partition": "headrace-partition",
    "offset": "headrace-offset",
    "timestamp_ms": "headrace-timestamp",
    "rejected_at": "headrace-rejected-at",
    "omitted": "headrace-omitted",
}
"""The header that carries each field, in the order in which they are written."""

# What Kafka's format adds at most: to a message (with the batch around it), and to each header.
_MESSAGE_OVERHEAD, _HEADER_OVERHEAD = 128, 16


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """Why a record got no result, and where it lay; carried in the headers `headrace-*`."""

    reason: Word
    """A stable word to group by, such as `invalid_field`."""
    path: str
    """The field at fault, such as `$.amount`; empty where it is the whole record."""
    detail: str
    """One sentence for a person."""
    topic: str
    partition: Count
    offset: Count
    timestamp_ms: EpochMs
    """Kafka's own timestamp of the record."""
    rejected_at: EpochMs
    omitted: Count = 0
    """Bytes of value, key and headers that were left out because the topic takes no message so large; usually 0."""


class DeadLetterRow(msgspec.Struct, frozen=True, gc=False):
    """A dead letter as ClickHouse keeps it: without the original bytes, which may hold a card number."""

    reason: Word
    path: Word
    detail: str
    topic: Word
    """Where the record lay, with `partition` and `offset`."""
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    offset: Count
    timestamp: EpochMs
    """Kafka's own timestamp of the record."""
    rejected_at: EpochMs
    value_size: Count
    """Bytes of the value; 0 for a tombstone too. Where the letter leaves the original out, of that altogether."""


def topic_name(domain: str) -> str:
    """The dead-letter topic of a domain."""
    return f"{domain}.dead-letters"


def retry_identity(topic: str) -> str:
    """The consumer group and the transactional id of whoever sends the dead letters of a topic again."""
    return f"headrace-retry-{topic}"


def dead_letter_topic(domain: str) -> TopicType:
    """The declaration of a domain's dead-letter topic and table."""
    return TopicType(
        name=topic_name(domain),
        message=DeadLetter,
        key="the original's",
        direction="dead-letter",
        description=(
            f"Records of the {domain} domain that got no result: original bytes, key and headers, and why in headrace-*"
            " headers. Holds what the input topic holds, in clear; restrict who reads it alike."
        ),
        table=TableSpec(
            name=f"{domain}_dead_letters", order_by=("toStartOfHour(rejected_at)", "reason"), row=DeadLetterRow
        ),
    )


def to_message(reject: Reject, topic: str, now_ms: int, max_bytes: int | None = None) -> Message:
    """The dead letter of a reject, to be written to `topic`, which takes messages of `max_bytes`."""
    record = reject.record
    ours = _headers(reject, now_ms, omitted=0)
    message = Message(topic, record.key, record.value, headers=(*record.headers, *ours))
    if max_bytes is None or _size(message) + _MESSAGE_OVERHEAD <= max_bytes:
        return message
    omitted = _size(record)
    return Message(topic, None, None, headers=_headers(reject, now_ms, omitted)) if omitted else message


def _headers(reject: Reject, now_ms: int, omitted: int) -> tuple[tuple[str, bytes], ...]:
    record = reject.record
    values = (
        reject.reason,
        reject.path,
        reject.detail,
        record.topic,
        str(record.partition),
        str(record.offset),
        str(record.timestamp_ms),
        str(now_ms),
        str(omitted),
    )
    return tuple((name, value.encode()) for name, value in zip(HEADERS.values(), values, strict=True))


def _size(message: Message | Record) -> int:
    headers = sum(len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers


def from_record(record: Record) -> tuple[DeadLetter, Record]:
    """The dead letter that a record of a dead-letter topic carries, and the original record as it was read.

    Raises `RefusedError` where the record is none of ours.
    """
    ours = record.headers[-len(HEADERS) :]
    if tuple(name for name, _ in ours) != tuple(HEADERS.values()):
        raise RefusedError("missing_field", "$.headers", "The headers headrace-* of a dead letter are not there.")
    fields = {field: value for field, (_, value) in zip(HEADERS, ours, strict=True)}
    try:
        texts = {field: (value or b"").decode() for field, value in fields.items()}
        letter = msgspec.convert(texts, DeadLetter, strict=False)
    except (UnicodeDecodeError, msgspec.ValidationError):
        raise RefusedError("invalid_field", "$.headers", "The headers headrace-* hold no dead letter.") from None
    original = Record(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=record.key,
        value=record.value,
        timestamp_ms=letter.timestamp_ms,
        headers=record.headers[: -len(HEADERS)],
    )
    return letter, original


def to_row(letter: DeadLetter, value: bytes | None) -> DeadLetterRow:
    """What ClickHouse keeps of a dead letter with this original value."""
    return DeadLetterRow(
        reason=letter.reason,
        path=letter.path,
        detail=letter.detail,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        timestamp=letter.timestamp_ms,
        rejected_at=letter.rejected_at,
        value_size=len(value or b"") + letter.omitted,
    )
