"""Types that the sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from streams._settings_redact import shown

__all__ = ["Count", "Port", "Positive", "PositiveFloat", "Secret", "Section", "Share", "database_of", "is_http"]

Positive = Annotated[int, Meta(gt=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Secret = Annotated[str, Meta(extra={"secret": True})]
"""Shown as stars wherever settings are shown."""
Share = Annotated[float, Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of `headrace.toml`; its repr hides secrets."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in shown(self).items())
        return f"{type(self).__name__}({fields})"


def is_http(url: str) -> bool:
    """Whether this is an http:// or https:// address with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets; its text may be a password whose @ was forgotten
        return False


def database_of(url: str, default: str) -> str:
    """The database that the URL of a ClickHouse server names (`https://host:8443/database`), or else the default."""
    return urlsplit(url).path.strip("/") or default
