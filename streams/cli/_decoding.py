"""Records as people read them: decoded by their topic's schema where there is one, as they are otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.codec import RefusedError, codec_for
from schemas.dead_letter import from_record
from schemas.topics import topics

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.envelope import Record
    from streams.settings import Settings

__all__ = ["Decoded", "decoder_for", "readable", "text", "when"]


class Decoded(msgspec.Struct, frozen=True):
    """What a message says; `problem` where it could not be read by its schema."""

    value: Any
    problem: str = ""


def decoder_for(topic: str, settings: Settings) -> Callable[[Record], Decoded]:
    """What turns a record of the topic into something to print."""
    known = topics().get(topic)
    if known is None:
        return lambda record: Decoded(readable(record.value))
    if known.direction == "dead-letter":
        return _dead_letter
    codec: Any = codec_for(topic, known.message, settings.topics.get(topic), settings.registry)

    def decode(record: Record) -> Decoded:
        if record.value is None:
            return Decoded(None)
        events, _, rejects = codec.decode_records([record])
        if rejects:
            return Decoded(readable(record.value), f"{rejects[0].reason} {rejects[0].path}".strip())
        return Decoded(msgspec.to_builtins(events[0]))

    return decode


def _dead_letter(record: Record) -> Decoded:
    try:
        letter, original = from_record(record)
    except RefusedError as refused:
        return Decoded(readable(record.value), f"{refused.reason} {refused.path}".strip())
    return Decoded({"dead_letter": msgspec.to_builtins(letter), "value": readable(original.value)})


def readable(value: bytes | None) -> Any:
    """JSON as such, other text as text, bytes that are no text as hexadecimal digits."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def text(value: bytes | None) -> str | None:
    """A key or header as text; bytes that are no text, and what would move a terminal's cursor, are shown escaped."""
    if value is None:
        return None
    shown = value.decode("utf-8", "backslashreplace")
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode()


def when(timestamp_ms: int) -> str:
    """RFC 3339, or the number itself where it is no time."""
    try:
        time = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
