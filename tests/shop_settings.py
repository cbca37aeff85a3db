"""A domain's settings as a domain would write them, and settings loaded with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streams.settings import Loaded, load_settings


class ShopSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a made-up domain."""

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    names: tuple[str, ...] = ()
    mode: Literal["fast", "exact"] = "exact"
    api_key: Annotated[str, Meta(extra={"secret": True})] = ""
    limits: dict[str, int] = {}


SHOP: dict[str, type[msgspec.Struct] | None] = {"shop": ShopSettings}


def load(text: str | None = None, env: dict[str, str] | None = None, overrides: dict[str, str] | None = None) -> Loaded:
    """Loads settings of a file with this text, an environment and a command line."""
    path = None
    if text is not None:
        path = Path("given.toml")
        path.write_text(text, encoding="utf-8")
    return load_settings(path, env or {}, overrides or {}, SHOP)
