"""`docs/dead-letters.md` is true: its tables name what the code has, all of it, and its commands exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.codec import REASONS
from schemas.dead_letter import HEADERS
from streams.cli._app import run
from streams.cli._letters import Choice
from streams.deadline import TOO_OLD
from streams.inference import MODEL_ERROR, UNANSWERED

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "dead-letters.md").read_text()


def first_column(title: str) -> list[str]:
    """The words in backquotes that open the rows of the table with this title."""
    table = PAGE.split(f"\n| {title} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def reasons_of_processors() -> Iterator[str]:
    """Reasons that processors give by themselves: the second argument of a Reject, the first part of a Refusal."""
    for path in (ROOT / "processors").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="Reject"), args=[_, ast.Constant(value=str(reason)), *_]):
                    yield reason
                case ast.AnnAssign(
                    annotation=ast.Name(id="Refusal"), value=ast.Tuple(elts=[ast.Constant(value=str(reason)), *_])
                ):
                    yield reason


def test_every_reason_is_explained() -> None:
    """The table of reasons has those of decoding, of processors and of the worker, and no other."""
    own = set(reasons_of_processors())
    listed = first_column("reason")

    assert {"duplicate_event", "model_error"} <= own
    assert sorted({*REASONS, *own, MODEL_ERROR, TOO_OLD, UNANSWERED}) == sorted(listed)


def test_every_header_is_listed() -> None:
    """The table of headers has all of them, in the order in which they are written."""
    assert list(HEADERS.values()) == first_column("header")


def test_every_word_of_a_retry_is_explained() -> None:
    """Why letters are left out of a retry is told by the words that the command prints."""
    tree = ast.parse((ROOT / "streams" / "cli" / "_letters.py").read_text())
    [body] = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "why_not"]
    returned = [ast.walk(node) for node in ast.walk(body) if isinstance(node, ast.Return)]
    words = {node.value for nodes in returned for node in nodes if isinstance(node, ast.Constant) and node.value}

    assert Choice.why_not.__name__ == body.name
    assert words == set(first_column("left out"))


@pytest.mark.parametrize("command", re.findall(r"^    headrace (.+?)(?:  +#.*)?$", PAGE, re.MULTILINE))
def test_every_command_exists(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command on the page is one, with the options that are used there."""
    monkeypatch.setenv("COLUMNS", "200")
    words = shlex.split(command)
    name = words[: 2 if words[0] == "dlq" else 1]

    assert 0 == run([*name, "--help"])
    help_ = capsys.readouterr().out
    assert [] == [word for word in words if word.startswith("--") and word not in help_]
