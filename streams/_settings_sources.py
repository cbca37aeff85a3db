"""Where settings come from: a TOML file, the environment, the command line. Each gives entries, later ones win."""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from streams._settings_schema import Key, Node, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PREFIX", "Entry", "Problem", "from_environment", "from_file", "from_overrides", "variable"]

PREFIX = "HEADRACE_"
# Used by headrace or its tests, but no settings.
_RESERVED = {
    "HEADRACE_CACHE",
    "HEADRACE_CONFIG",
    "HEADRACE_DEBUG",
    "HEADRACE_MAVEN",
    "HEADRACE_MODELS",
    "HEADRACE_TEST_DATA",
}
# Container platforms hand secrets over as files: HEADRACE_TOKEN_KEY_FILE=/run/secrets/token_key
_FILE = "_FILE"
# Kubernetes sets these for every service whose name starts with `headrace`.
_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP)(_\w+)?)?$")


class Entry(msgspec.Struct, frozen=True):
    """One value that somebody set."""

    key: Key
    value: Any
    origin: str
    text: bool = False
    """Whether the value is a string to be read as whatever type the key has."""


class Problem(msgspec.Struct, frozen=True):
    """One mistake in the settings."""

    key: str
    origin: str
    text: str

    def __str__(self) -> str:
        return self.text


def from_file(path: Path, schema: Node) -> Iterator[Entry | Problem]:
    """Reads a TOML file."""
    name = str(path)
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        yield Problem("", name, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
    except tomllib.TOMLDecodeError as error:
        yield Problem("", name, f"{name} is no valid TOML: {error}")
    else:
        for key, value in schema.spread(table):
            yield Entry(key, value, name)


def from_environment(env: Mapping[str, str], schema: Node, short: Mapping[str, Key]) -> Iterator[Entry | Problem]:
    """Reads `HEADRACE_WORKER__MAX_SIZE` and the short names (`HEADRACE_KAFKA`).

    With `_FILE` at its end a variable names a file whose content is the value. A name that is no key but looks like one
    is a problem; others are left alone: they belong to somebody else.
    """
    lookalikes = {*(variable(key) for key, node in schema.walk() if not _is_section(node)), *short}
    for name, value in sorted(env.items()):
        if not name.startswith(PREFIX) or name in _RESERVED:
            continue
        if _names_file(name, schema, lookalikes):
            if value:
                yield _from_named_file(name, value, env, short.get(name.removesuffix(_FILE)), schema)
            continue
        key = short.get(name) or _key_of(name, schema)
        node = schema.find(key)
        if node is not None and (name in short or "__" in name or len(key) == 1) and not _is_section(node):
            if value or node.bare is str:  # nothing says nothing of a number
                yield Entry(key, value, name, text=True)
        elif problem := _stray(name, lookalikes):
            yield problem


def from_overrides(overrides: Mapping[str, str], schema: Node) -> Iterator[Entry | Problem]:
    """Takes values of the command line, by their dotted keys."""
    for name, value in overrides.items():
        yield Entry(_split(name, schema), value, "command line", text=True)


def variable(key: Key) -> str:
    """The environment variable of a key."""
    return PREFIX + "__".join(key).upper().replace(".", "_")


def _names_file(name: str, schema: Node, declared: set[str]) -> bool:
    """Whether a variable names a file; names that are keys themselves do not, nor do librdkafka's own `….key.file`."""
    plain = name.removesuffix(_FILE)
    if plain == name or name in declared:
        return False
    key = _key_of(plain, schema)
    node = schema.find(key)
    secret = node is not None and node.secret and not key[-1].endswith(".key")
    return plain in declared or secret


def _from_named_file(name: str, path: str, env: Mapping[str, str], short: Key | None, schema: Node) -> Entry | Problem:
    """The content of the file that a variable names, without the line's end."""
    plain = name.removesuffix(_FILE)
    if env.get(plain):
        return Problem(name, name, f"{plain} and {name} are both set; keep one of them")
    try:
        content = Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return Problem(name, name, f"{name} names {path}, which cannot be read: {reason}")
    return Entry(short or _key_of(plain, schema), content, name, text=True)


def _key_of(name: str, schema: Node) -> Key:
    """The key of a variable; below tables of plain values `_` stands for a dot: `KAFKA_SECURITY__SASL_USERNAME`."""
    body = name.removeprefix(PREFIX).lower()
    body = re.sub(r"^kafka_security__", "kafka__security__", body)
    names = body.split("__")
    for depth in range(1, len(names)):
        node = schema.find(tuple(names[:depth]))
        if node is not None and node.free is not None and not _holds_sections(node):
            return (*names[:depth], "__".join(names[depth:]).replace("_", "."))
    return tuple(names)


def _split(name: str, schema: Node) -> Key:
    """Splits `kafka.security.sasl.username` where the names of the table end."""
    names = tuple(part.strip('"') for part in re.findall(r'"[^"]*"|[^.]+', name))
    for depth in range(1, len(names)):
        node = schema.find(names[:depth])
        if node is not None and node.free is not None and not _holds_sections(node):
            return (*names[:depth], ".".join(names[depth:]))
    return names or (name,)


def _holds_sections(node: Node) -> bool:
    """Whether the free names of a table lead to tables or anything, not to plain values."""
    if node.known:
        return True
    child = node.child("x")
    return child is None or child.is_table or child.bare is Any


def _is_section(node: Node) -> bool:
    return node.children is not None


def _stray(name: str, lookalikes: set[str]) -> Problem | None:
    """A problem where an unknown variable was meant for headrace."""
    if _KUBERNETES.search(name):
        return None
    flat = {candidate.replace("__", "_"): candidate for candidate in lookalikes}
    close = get_close_matches(name.replace("__", "_"), flat, n=1, cutoff=0.8)
    if not close:
        text = f"unknown key {dotted(tuple(name.removeprefix(PREFIX).lower().split('__')))} in the environment ({name})"
        return Problem(name, name, text) if "__" in name else None
    return Problem(name, name, f"unknown setting {name} in the environment; did you mean {flat[close[0]]}?")
