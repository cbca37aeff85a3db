"""Why bytes could not become an event: foreign errors turned into stable words, a field's path and a safe sentence.

Rules: a reason never changes its name (dashboards group by it), and a detail never repeats what the message held
(it might be a card number). So no text of a foreign library is passed on, except msgspec's `Expected …` sentences,
which hold types and bounds alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

    from schemas.envelope import Record

REASONS: dict[str, str] = {
    "tombstone": "The message has no value; this topic takes none without.",
    "empty_payload": "The message's value is empty.",
    "payload_too_large": "The message's value is larger than a message may be.",
    "invalid_encoding": "A string in the message is no valid UTF-8.",
    "invalid_json": "The message's value is no JSON document.",
    "nesting_too_deep": "The message is nested too deeply to be read.",
    "not_finite": "A number is NaN, infinite or too large to hold.",
    "missing_field": "A required field is missing.",
    "invalid_field": "A field has the wrong type or is out of its bounds.",
    "naive_time": "The time has no offset from UTC; write it as 2026-01-31T12:00:00Z or as epoch milliseconds.",
    "invalid_time": "The time is neither RFC 3339 nor whole epoch milliseconds.",
    "time_too_old": "The time lies before the earliest one accepted.",
    "time_in_future": "The time lies further ahead of the message's own timestamp than is accepted.",
    "invalid_framing": "The message does not start with the magic byte and the schema id of the registry's format.",
    "unknown_schema": "The registry does not know the schema id in the message.",
    "incompatible_schema": "The schema that the message was written with cannot be read as this topic's.",
    "truncated": "The message ends before its last field, or does not follow its schema.",
    "undecodable": "The message's value cannot be read.",
}
"""Every reason that decoding gives, with the sentence that explains it where nothing more exact is known."""

_SENTENCE = re.compile(r"(?P<what>.+?)(?: - at `(?P<path>\$[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`")
_TYPES_AND_BOUNDS = re.compile(r"Expected `[a-z| ]+`(?: of length)?(?: [<>]=? [-+.\de]+)?(?:, got `[a-z| ]+`)?")
_NOT_A_NUMBER = re.compile(rb'"(?P<field>\w+)"\s*:\s*-?(?:NaN|Infinity)\b')


class RefusedError(ValueError):
    """The data's fault: one message cannot be decoded. Carries what a `Reject` needs."""

    def __init__(self, reason: str, path: str = "", detail: str = "") -> None:
        """Takes a reason of `REASONS`; an empty detail stands for the reason's own sentence."""
        super().__init__(reason, path, detail)
        self.reason = reason
        self.path = path
        self.detail = detail or REASONS[reason]


def explain(record: Record, error: Exception, fields: Collection[str], max_bytes: int) -> RefusedError:
    """What to answer for a record whose decoding raised; `fields` are the names that may be shown."""
    value = record.value
    if value is None:
        return RefusedError("tombstone")
    if not value:
        return RefusedError("empty_payload")
    if len(value) > max_bytes:
        return RefusedError(
            "payload_too_large", detail=f"The value has {len(value):,} bytes; {max_bytes:,} are accepted."
        )
    return explain_error(error, value, fields)


def explain_error(error: Exception, value: bytes, fields: Collection[str]) -> RefusedError:
    """The refusal behind an exception of a decoder; an unknown one becomes `undecodable`."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, RecursionError):
        return RefusedError("nesting_too_deep")
    if isinstance(error, UnicodeDecodeError):
        return RefusedError("invalid_encoding")
    if isinstance(error, msgspec.ValidationError):
        return _explain_validation(str(error))
    if isinstance(error, msgspec.DecodeError):
        return _explain_malformed(value, fields)
    return RefusedError("undecodable")


def _explain_validation(message: str) -> RefusedError:
    match = _SENTENCE.fullmatch(message)
    assert match is not None, "This is a bug: the pattern takes any text."
    what, path = match["what"], match["path"] or ""
    if missing := _MISSING.fullmatch(what):
        return RefusedError("missing_field", f"{path or '$'}.{missing['field']}")
    if what == "Number out of range":
        return RefusedError("not_finite", path)
    return RefusedError("invalid_field", path or "$", f"{what}." if _TYPES_AND_BOUNDS.fullmatch(what) else "")


def _explain_malformed(value: bytes, fields: Collection[str]) -> RefusedError:
    """Python's json module writes NaN and Infinity, which JSON does not have: worth a word of its own."""
    match = _NOT_A_NUMBER.search(value)
    if match is None:
        return RefusedError("invalid_json")
    field = match["field"].decode("ascii", "replace")
    return RefusedError("not_finite", f"$.{field}" if field in fields else "")
