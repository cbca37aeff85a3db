"""Bytes to typed events and back, batch in and batch out.

Decoding never raises for what a message holds: what cannot be read comes back as a `Reject` and the others go on.
It raises only where the world is at fault (`RegistryUnavailableError`), so that the caller aborts and tries again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

from schemas._refusal import REASONS, RefusedError, explain, explain_error
from schemas.envelope import Record, Records, Reject

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "REASONS",
    "Codec",
    "JsonCodec",
    "RefusedError",
    "bounded_values",
    "codec_for",
    "decode_records",
    "encode",
    "without",
]

T = TypeVar("T", bound=msgspec.Struct)
T_co = TypeVar("T_co", covariant=True)

# Kafka's own default limit of a message; a topic that allows more needs to say so here too.
MAX_PAYLOAD_BYTES = 1_048_576

_ENCODER = msgspec.json.Encoder()


class Decodes(Protocol[T_co]):
    """Turns the bytes of one message into an event, or raises; `msgspec.json.Decoder` is one."""

    def decode(self, value: bytes, /) -> T_co:
        """The event that the bytes stand for."""


class Codec(Protocol[T]):
    """The encoding of one topic's values."""

    def decode(self, value: bytes, /) -> T:
        """One event; raises `RefusedError` where the bytes are none."""

    def decode_records(self, records: Sequence[Record], /) -> tuple[list[T], Sequence[Record], list[Reject]]:
        """Events, the records they came from (same order and length), and rejects for all the others."""

    def encode(self, events: Iterable[T], /) -> list[bytes]:
        """The bytes of each event, in order."""


class TopicFormat(Protocol):
    """What is asked of a topic's settings."""

    @property
    def format(self) -> str:
        """`json`, `avro` or `protobuf`."""


class RegistryAddress(Protocol):
    """What is asked of the schema registry's settings."""

    @property
    def url(self) -> str:
        """Base URL."""

    @property
    def basic_auth(self) -> str:
        """`user:password`, or empty."""


def decode_records(
    records: Sequence[Record],
    decoder: Decodes[T],
    fields: Collection[str] = (),
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> tuple[list[T], Sequence[Record], list[Reject]]:
    """Decodes a batch; returns events, the records they came from, and rejects for the others.

    Args:
        records: The batch, as read.
        decoder: Reused between calls.
        fields: Names that a reject's path may show where the document itself is malformed.
        max_bytes: Values above are rejected unread.
    """
    events: list[T] = []
    refused: dict[int, Reject] = {}
    remaining = iter(bounded_values(records, max_bytes))
    while True:
        try:
            # `extend` keeps what came before an exception, and the iterator goes on behind the value that raised:
            # good events are decoded once, however many bad ones lie between them.
            events.extend(map(decoder.decode, remaining))  # type: ignore[arg-type]  # None raises, as it should
        except Exception as error:
            row = len(events) + len(refused)
            if isinstance(error, OSError):
                raise
            refusal = explain(records[row], error, fields, max_bytes)
            refused[row] = Reject(records[row], refusal.reason, refusal.path, refusal.detail)
        else:
            break
    return events, without(records, refused), list(refused.values())


def bounded_values(records: Sequence[Record], max_bytes: int) -> Sequence[bytes | None]:
    """The values of a batch; those above the bound are empty, so that nothing tries to decode them."""
    values = records.values if isinstance(records, Records) else [record.value for record in records]
    if max(map(len, filter(None, values)), default=0) <= max_bytes:
        return values
    return [b"" if value is not None and len(value) > max_bytes else value for value in values]


def without(records: Sequence[Record], refused: Collection[int]) -> Sequence[Record]:
    """The records of a batch but for these rows; the batch itself where none was refused."""
    if not refused:
        return records
    rows = [row for row in range(len(records)) if row not in refused]
    return records.take(rows) if isinstance(records, Records) else [records[row] for row in rows]


def encode(events: Iterable[Any]) -> list[bytes]:
    """JSON of each event; NaN and infinities become null, so that the result is always valid JSON."""
    return list(map(_ENCODER.encode, events))


class JsonCodec(Generic[T]):
    """JSON values of one type; unknown fields are ignored."""

    def __init__(self, type_: type[T], max_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._decoder = msgspec.json.Decoder(type_)
        self._fields = frozenset(field.name for field in msgspec.structs.fields(type_))
        self._max_bytes = max_bytes

    def decode(self, value: bytes, /) -> T:
        """One event; raises `RefusedError` where the bytes are none."""
        try:
            return self._decoder.decode(value)
        except Exception as error:
            raise explain_error(error, value, self._fields) from None

    def decode_records(self, records: Sequence[Record], /) -> tuple[list[T], Sequence[Record], list[Reject]]:
        """Events, the records they came from, and rejects for the others."""
        return decode_records(records, self._decoder, self._fields, self._max_bytes)

    def encode(self, events: Iterable[T], /) -> list[bytes]:
        """The bytes of each event, in order."""
        return encode(events)


def codec_for(
    topic: str,
    type_: type[T],
    settings: TopicFormat | None = None,
    registry: RegistryAddress | None = None,
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> Codec[T]:
    """The codec of a topic's values: JSON unless the topic's settings say Avro or Protobuf.

    Called once per topic at start. Avro and Protobuf register the type's schema under `<topic>-value` when they
    first encode, and raise `RegistryUnavailableError`, an OSError, where the registry cannot be asked.
    """
    format_ = settings.format if settings is not None else "json"
    if format_ == "json":
        return JsonCodec(type_, max_bytes)
    # Imported here: most topics are JSON, and these bring an HTTP client and two serialisation libraries with them.
    from schemas._registry import connect_to

    if format_ == "avro":
        from schemas._avro import AvroCodec

        return AvroCodec(topic, type_, connect_to(topic, registry), max_bytes)
    if format_ == "protobuf":
        from schemas._protobuf import ProtobufCodec

        return ProtobufCodec(topic, type_, connect_to(topic, registry), max_bytes)
    raise ValueError(f"Topic {topic} has the format {format_!r}; use json, avro or protobuf.")
