"""`headrace config`: the effective settings, and where each came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processors import model_reference, names
from streams._settings_redact import STARS
from streams.cli._context import loaded_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from processors._models import Manifest
    from streams.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def config(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: values and origins by key.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="A headrace.toml to start from; secrets are stars.")] = False,
) -> None:
    """Print the effective settings and where each came from.

    Secrets are shown as stars. Later sources win: defaults, headrace.toml, environment, command line.

    Example: `headrace --set worker.max_size=512 config`
    """
    if as_json and as_toml:
        msg = "--json and --toml exclude each other"
        raise typer.BadParameter(msg)
    loaded = loaded_of(context)
    rows = with_models(loaded.settings, loaded.effective())
    if as_json:
        print_json({key: {"value": value, "origin": origin} for key, value, origin in rows})
    elif as_toml:
        sys.stdout.write(toml(rows))
    else:
        _table(rows)


def with_models(settings: Settings, rows: list[tuple[str, Any, str]]) -> list[tuple[str, Any, str]]:
    """What nobody set about a domain is what its model's manifest says, and only then the default."""
    brought = {domain: _manifest_of(settings, domain) for domain in names()}
    found = []
    for key, value, origin in rows:
        section, _, name = key.rpartition(".")
        manifest = brought.get(section.removeprefix("domains."))
        if origin == "default or model" and manifest is not None:
            theirs = name in manifest.settings
            value, origin = (manifest.settings[name], f"model {manifest.reference}") if theirs else (value, "default")
        found.append((key, value, origin))
    return found


def _manifest_of(settings: Settings, domain: str) -> Manifest | None:
    """None where there is no such model: `doctor` and `models` say what is wrong with it."""
    from processors._contract import ModelError
    from processors._models import Registry

    cache = Path(settings.model.cache_dir) if settings.model.cache_dir else None
    try:
        reference = model_reference(domain, settings.domains.get(domain, {}))
        return Registry(settings.data, cache).find(reference).manifest
    except ModelError:
        return None


def toml(rows: list[tuple[str, Any, str]]) -> str:
    """The settings as a file; secrets, and what has no value, are comments."""
    lines: list[str] = []
    section = ""
    for key, value, origin in rows:
        table, _, name = _split(key)
        if table != section:
            section = table
            lines += ["", f"[{table}]"]
        where = "" if origin.startswith(("default", "model ")) else f"  # from {origin}"
        # A default written down would count as set, against what a model's manifest says.
        own = origin.startswith(("default", "model "))
        unset = "# " if value is None or value == STARS or (own and key.startswith("domains.")) else ""
        lines.append(f"{unset}{name} = {'' if value is None else _toml_value(value)}{where}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _split(key: str) -> tuple[str, str, str]:
    if key.endswith('"'):
        table, _, name = key[:-1].rpartition('."')
        return table, ".", f'"{name}"'
    return key.rpartition(".")


def _toml_value(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists of them are TOML's too, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(rows: list[tuple[str, Any, str]]) -> None:
    """A table on a terminal, lines of tab-separated columns elsewhere."""
    if not sys.stdout.isatty():
        for key, value, origin in rows:
            sys.stdout.write(f"{key}\t{json.dumps(value, ensure_ascii=False)}\t{origin}\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    for key, value, origin in rows:
        style = "dim" if origin.startswith("default") else ""
        table.add_row(key, escape(json.dumps(value, ensure_ascii=False)), origin, style=style)
    Console(highlight=False).print(table)
