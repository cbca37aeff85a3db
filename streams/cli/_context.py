"""What the root hands to a command: where its settings come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

if TYPE_CHECKING:
    from streams.settings import Loaded, Settings

__all__ = ["Context", "context_of", "loaded_of", "override", "settings_of"]


class Context(msgspec.Struct, frozen=True):
    """The options given before the command."""

    config: Path | None = None
    overrides: dict[str, str] = {}
    debug: bool = False


def context_of(context: typer.Context) -> Context:
    """The options given before the command; none where a command is called without its root."""
    given = context.find_root().obj
    return given if isinstance(given, Context) else Context()


def settings_of(context: typer.Context) -> Settings:
    """The settings that a command runs with.

    Raises:
        SettingsError: every mistake in the file, the environment and the command line.
    """
    return loaded_of(context).settings


def loaded_of(context: typer.Context) -> Loaded:
    """The settings, and where each value came from."""
    from streams.settings import load_settings

    own = context_of(context)
    return load_settings(own.config, os.environ, own.overrides)


def override(assignment: str) -> tuple[str, str]:
    """Splits `worker.max_size=512`."""
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        msg = f"{assignment!r} is no KEY=VALUE, such as worker.max_size=512"
        raise typer.BadParameter(msg, param_hint="--set")
    return key.strip(), value
