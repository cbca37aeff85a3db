"""What of a setting may be shown: secrets are replaced by stars wherever settings are printed or logged."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["STARS", "hints_of", "is_secret_name", "is_secret_type", "redact_text", "redact_url", "secrets_of", "shown"]

STARS = "****"

# Names that hold secrets in tables of free names: librdkafka's settings, a domain's section.
_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|secret|credential|basic_auth|jaas|oauthbearer\.config|[._]pem$|(^|[._-])(token|key)$",
    re.IGNORECASE,
)
# Greedy up to the last @: a password that holds an @ or a / by mistake is hidden whole.
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*):(\S*)@")
_QUERY_SECRET = re.compile(r"([?&](?:[\w.-]*(?:password|secret|token|key)))=([^&\s#]+)", re.IGNORECASE)
# Shorter strings are part of ordinary words: replacing them would spoil a log and hide nothing.
_SHORTEST_SECRET = 6


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The types of a class's fields, with what `Annotated` says of them; resolving the names takes a while."""
    return get_type_hints(kind, include_extras=True)


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is hidden where no type says so."""
    return _SECRET_NAME.search(name) is not None


def is_secret_type(annotation: Any) -> bool:
    """Whether a field is marked `Annotated[str, Meta(extra={"secret": True})]`."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and (meta.extra or {}).get("secret"):
            return True
    return False


def redact_url(text: str) -> str:
    """The text without passwords of URLs: `https://me:****@host/?password=****`."""
    return _QUERY_SECRET.sub(rf"\1={STARS}", _URL_PASSWORD.sub(rf"\1:{STARS}@", text))


def redact_text(text: str, secrets: frozenset[str] = frozenset()) -> str:
    """The text without the given secrets and without passwords of URLs."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, STARS)
    return redact_url(text)


def shown(value: Any, name: str = "", *, secret: bool = False) -> Any:
    """A value of the settings as it may be printed; tables and sections are redacted inside."""
    if isinstance(value, msgspec.Struct):
        hints = hints_of(type(value))
        return {
            field: shown(getattr(value, field), field, secret=secret or is_secret_type(hints[field]))
            for field in value.__struct_fields__
        }
    if isinstance(value, dict):
        return {key: shown(item, str(key), secret=secret) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [shown(item, name, secret=secret) for item in value]
    if secret or (isinstance(value, str | bytes) and is_secret_name(name)):
        return STARS if value not in ("", b"", None) else value
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_url(str(value))


def secrets_of(value: Any) -> frozenset[str]:
    """Every secret string inside settings, for whoever filters text (logs) that could hold one."""
    return frozenset(text for text in _secrets(value, "", secret=False) if len(text) >= _SHORTEST_SECRET)


def _secrets(value: Any, name: str, *, secret: bool) -> Iterator[str]:
    if isinstance(value, msgspec.Struct):
        hints = hints_of(type(value))
        for field in value.__struct_fields__:
            yield from _secrets(getattr(value, field), field, secret=secret or is_secret_type(hints[field]))
    elif isinstance(value, dict):
        table: Mapping[Any, Any] = value
        for key, item in table.items():
            yield from _secrets(item, str(key), secret=secret)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item, name, secret=secret)
    elif isinstance(value, str):
        if secret or is_secret_name(name):
            yield value
            yield from (part for part in value.split(":")[1:] if secret)  # the password of `user:password`
        elif found := _URL_PASSWORD.search(value):
            yield found.group(2)
