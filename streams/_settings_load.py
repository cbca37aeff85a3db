"""Entries to typed settings: later entries win, every problem is found before anything is raised."""

from __future__ import annotations

import re
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import msgspec

from streams._settings_redact import STARS, redact_url
from streams._settings_schema import Key, Node, dotted
from streams._settings_sources import Entry, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SettingsError", "assemble"]

T = TypeVar("T", bound=msgspec.Struct)

# Longer values say no more in an error.
_SHOWN_VALUE = 60


class SettingsError(Exception):
    """The settings cannot be used; `problems` holds every reason."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def assemble(
    root: type[T], schema: Node, entries: Iterable[Entry | Problem]
) -> tuple[T, dict[Key, Entry], list[Problem]]:
    """Builds the settings of whatever is right in the entries, with the entry behind each key that was set."""
    problems: list[Problem] = []
    chosen: dict[Key, Entry] = {}
    for entry in entries:
        if isinstance(entry, Problem):
            problems.append(entry)
        else:
            for piece in _pieces(entry, schema, problems):
                _overrule(chosen, piece)
    tree: dict[str, Any] = {}
    for key, entry in chosen.items():
        try:
            _put(tree, key, _converted(entry, schema))
        except ValueError as error:  # msgspec.ValidationError is one
            problems.append(_wrong_value(entry, schema, error))
    return _built(root, tree, schema, (), chosen, problems), chosen, problems


def _pieces(entry: Entry, schema: Node, problems: list[Problem]) -> list[Entry]:
    """The entry, where its key is known; a table that came as JSON text is spread."""
    node = schema.find(entry.key)
    if node is None:
        problems.append(_unknown(entry, schema))
        return []
    if not node.is_table:
        return [entry]
    value = entry.value
    if entry.text:
        try:
            value = msgspec.json.decode(entry.value)
        except msgspec.DecodeError:
            value = None
    if not isinstance(value, dict):
        text = f"{_where(entry)}: expected a table of keys"
        problems.append(Problem(dotted(entry.key), entry.origin, text))
        return []
    inner = [Entry((*entry.key, *key), item, entry.origin) for key, item in node.spread(value)]
    return [piece for piece in inner if piece.key != entry.key]


def _overrule(chosen: dict[Key, Entry], entry: Entry) -> None:
    """Takes an entry over what earlier sources said of the same key, or of keys below it."""
    for key in [key for key in chosen if key[: len(entry.key)] == entry.key]:
        del chosen[key]
    chosen[entry.key] = entry


def _converted(entry: Entry, schema: Node) -> Any:
    node = schema.find(entry.key)
    assert node is not None, "unknown keys were left out before"
    value = _read(entry.value, node.bare) if entry.text else entry.value
    if isinstance(value, float) and not isfinite(value):
        msg = "Expected a finite number"
        raise ValueError(msg)
    if get_origin(node.bare) is Literal and value not in get_args(node.bare):
        msg = f"Expected one of {', '.join(map(str, get_args(node.bare)))}"
        raise ValueError(msg)
    return msgspec.convert(value, node.annotation, strict=not entry.text, dec_hook=_from_text)


def _read(text: str, bare: Any) -> Any:
    """Lists may be written as JSON or with commas; where anything may stand, JSON is read as such."""
    if bare is float:
        with suppress(ValueError):
            return float(text)  # msgspec reads JSON's numbers only: no `.5`, no `1.`
    is_list = getattr(bare, "__origin__", bare) in (list, tuple, set, frozenset)
    if bare is Any or is_list:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    return text


def _from_text(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    msg = f"Expected `{'str' if kind is Path else kind.__name__}`, got `{type(value).__name__}`"
    raise ValueError(msg)


def _put(tree: dict[str, Any], key: Key, value: Any) -> None:
    for name in key[:-1]:
        tree = tree.setdefault(name, {})
    tree[key[-1]] = value


def _built(
    kind: type[T], tree: dict[str, Any], schema: Node, key: Key, chosen: dict[Key, Entry], problems: list[Problem]
) -> T:
    """Makes a section of its converted values; what the type itself refuses becomes a problem of the section."""
    assert schema.children is not None, "only sections are built"
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values[name] = _built_value(value, schema.children[name], (*key, name), chosen, problems)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        origins = sorted({entry.origin for path, entry in chosen.items() if path[: len(key)] == key})
        place = f"{dotted(key) or 'settings'}{' in ' + ', '.join(origins) if origins else ''}"
        problems.append(Problem(dotted(key), ", ".join(origins), f"{place}: {error}"))
        return _defaults(kind)


def _built_value(value: Any, node: Node, key: Key, chosen: dict[Key, Entry], problems: list[Problem]) -> Any:
    if node.children is not None:
        return _built(node.bare, value, node, key, chosen, problems)
    if node.free is None or not isinstance(value, dict):
        return value
    built: dict[str, Any] = {}
    for name, item in value.items():
        child = node.child(name)
        if child is None:
            continue
        # The values of a section that somebody else owns are handed on as they are, set ones only: its owner has
        # more to put under them, so only the owner can say whether they fit together.
        theirs = bool(node.known) and child.children is not None
        built[name] = item if theirs else _built_value(item, child, (*key, name), chosen, problems)
    return built


def _defaults(kind: type[T]) -> T:
    """Any instance, so that the search for problems can go on; it is never handed out."""
    try:
        return kind()
    except (TypeError, ValueError):
        return msgspec.defstruct("Broken", [])()  # type: ignore[return-value]


def _unknown(entry: Entry, schema: Node) -> Problem:
    nearest = schema.nearest(entry.key)
    hint = f"; did you mean {dotted(nearest)}?" if nearest else ""
    return Problem(dotted(entry.key), entry.origin, f"unknown key {_where(entry)}{hint}")


def _wrong_value(entry: Entry, schema: Node, error: ValueError) -> Problem:
    node = schema.find(entry.key)
    got = ""
    if node is not None and not node.secret:
        shown = redact_url(repr(entry.value))
        got = f" (got {shown if len(shown) <= _SHOWN_VALUE else shown[:_SHOWN_VALUE] + '…'})"
    elif entry.value:
        got = f" (got {STARS})"
    return Problem(dotted(entry.key), entry.origin, f"{_where(entry)}: {_plain(str(error))}{got}")


def _where(entry: Entry) -> str:
    place = "on the command line" if entry.origin == "command line" else f"in {entry.origin}"
    return f"{dotted(entry.key)} {place}"


def _plain(message: str) -> str:
    """The words of msgspec without its backticks and with its path left to ours."""
    message = re.sub(r" - at `\$(.*?)`$", lambda found: f" at {found[1]}" if found[1] else "", message)
    return message.replace("`", "")
