"""Command lines in documents, deployments and help: whether `headrace` would take them, without running them."""

from __future__ import annotations

import itertools
import re
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

from typer.main import get_command

from streams.cli._app import app
from streams.cli._commands import COMMANDS, load
from streams.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What a shell would cut a line at.
_OPERATORS = re.compile(r"[();<>|&]+")
_UNFINISHED = {"…", "..."}
_ASKING = {"--version", "--help", "-h"}


def mistake(words: list[str], *, whole: bool = True) -> str:
    """What is wrong with the words after `headrace`; empty where nothing is.

    Args:
        words: Command, options and arguments.
        whole: Whether it is a line to run, which needs its arguments, rather than a mention of a command.
    """
    if _UNFINISHED & set(words):
        words, whole = list(itertools.takewhile(lambda word: word not in _UNFINISHED, words)), False
    whole = whole and not _ASKING & set(words)
    try:
        values, rest = _parsed(get_command(app), "headrace", words)
        load_settings(overrides=dict(text.split("=", 1) for text in values.get("assignments") or ()))
        commands: dict[str, Callable[[], Any]] = {name: partial(load, name) for name in COMMANDS}
        while commands:
            if not rest:
                return "a command is missing" if whole else ""
            name, *rest = rest
            if name not in commands:
                return f"no command {name}"
            command = commands[name]()
            values, rest = _parsed(command, name, rest)
            commands = {name: lambda inner=inner: inner for name, inner in getattr(command, "commands", {}).items()}
    except Exception as error:
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    if rest:
        return f"more arguments than {command.name} takes: {' '.join(rest)}"
    missing = [one.name for one in command.params if one.required and values.get(one.name) in (None, ())]
    return f"missing: {', '.join(missing)}" if whole and missing else ""


def command_lines(shell: str) -> Iterator[list[str]]:
    """The words after `headrace` of every call in some lines of shell."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for is_operator, command in itertools.groupby(words, lambda word: bool(_OPERATORS.fullmatch(word))):
            if not is_operator and (found := own_words(list(command))) is not None:
                yield found


def own_words(command: list[str]) -> list[str] | None:
    """What follows `headrace` in a command that calls it, also through `uv run`; None where none is called."""
    rest = list(
        itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word) or word in {"sudo", "then", "do"}, command)
    )
    if rest[:2] == ["uv", "run"]:
        rest = rest[2:]
        while rest and rest[0].startswith("-"):
            rest = rest[2:] if rest[0] in {"--with", "--extra", "--group", "--no-group"} else rest[1:]
    if rest[:3] == ["python", "-m", "streams"]:
        return rest[3:]
    return rest[1:] if rest[:1] == ["headrace"] else None


def alternatives(text: str) -> list[str]:
    """`models list|pull` is `models list` and `models pull`."""
    parts = [part.split("|") for part in re.split(r"(\s+)", text)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def _parsed(command: Any, name: str, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    context = command.context_class(command, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(args=list(words))
    return values, rest
