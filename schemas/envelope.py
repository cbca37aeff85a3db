"""The types that cross package borders: what Kafka carried, what was refused, what is to be written."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as it was read from a topic; `timestamp_ms` is Kafka's own (UTC, milliseconds)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Reject(msgspec.Struct, frozen=True):
    """A record that gets no result, and why; it ends as a dead letter with its original bytes."""

    record: Record
    reason: str
    """A stable word to group by, such as `invalid_json`, `invalid_field`, `duplicate_event`, `model_error`."""
    path: str = ""
    """The field at fault, such as `$.amount`; empty where the whole record is."""
    detail: str = ""
    """One sentence for a person; never holds a card number."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """Bytes to be written; `partition` is None where the key decides. A None value is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
