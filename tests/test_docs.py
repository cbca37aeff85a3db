"""The documents are true: commands, options, settings, links, and the file tree of the README exist as written."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from command_lines import alternatives, command_lines, mistake

from streams._settings_sources import _RESERVED
from streams.cli._commands import COMMANDS, load
from streams.settings import SHORT_NAMES, Settings, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

SHELLS = {"bash", "console", "sh", "shell", ""}
SECTIONS = [name for name in Settings.__struct_fields__ if name not in {"data", "topics", "domains"}]
SETTING = re.compile(rf"^\[?((?:{'|'.join(SECTIONS)})\.[a-z_.]+|(?:topics|domains)\.[a-z_.<>\"-]+)\]?(?: *=.*)?$")
SUFFIXES = (".py", ".md", ".toml", ".onnx", ".json", ".yml", ".log", ".sql")

ELSEWHERE = re.compile(r"[<>*{}…]|\.\.\.")
"""Names with a hole in them, which the reader fills."""
MADE_UP = re.compile(r"\bshop\b|_shop\b")
"""The domain that CONTRIBUTING.md tells how to add."""


class Block(NamedTuple):
    """A block of code."""

    language: str
    text: str


@cache
def blocks(page: Path) -> list[Block]:
    """The fenced and the indented blocks of a page; indented ones have no language."""
    text = page.read_text(encoding="utf-8")
    fenced = [Block(found[1], found[2]) for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.M | re.S)]
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:\n\n)((?: {4}[^\n]*\n|\n(?= {4}))+)", rest)
    return fenced + [Block("", re.sub(r"^ {4}", "", one, flags=re.M)) for one in indented]


@cache
def mentions(page: Path) -> list[str]:
    """The inline code of a page, outside of its blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^ {4}[^\n]*$", "", text, flags=re.M)
    return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


@EVERY_PAGE
def test_command_lines_are_taken(page: Path) -> None:
    """Each `headrace …` in a block of shell would run: command, options and required arguments."""
    wrong = {
        " ".join(words): problem
        for block in blocks(page)
        if block.language in SHELLS and "headrace" in block.text and not is_tree(block)
        for words in command_lines(shell_of(block))
        if (problem := mistake(words))
    }

    assert {} == wrong


def shell_of(block: Block) -> str:
    """What is typed: where a block shows prompts, the rest is what was printed."""
    if not re.search(r"^\$ ", block.text, re.M):
        return block.text
    return "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.text, re.M))


@EVERY_PAGE
def test_commands_in_the_text_exist(page: Path) -> None:
    """`headrace dlq list|show` in a sentence names commands and options that exist; arguments may be left out."""
    wrong = {
        line: problem
        for mention in mentions(page)
        if re.match(r"(uv run )?headrace ", mention)
        for line in alternatives(mention)
        for words in command_lines(line)
        if (problem := mistake(words, whole=False))
    }

    assert {} == wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_knows_every_command(name: str) -> None:
    """A command that the README does not mention would be found by nobody."""
    text = README.read_text(encoding="utf-8")
    listed = {word for found in re.findall(r"headrace ([a-z|]+)", text) for word in found.split("|")}

    assert name in listed | {word for names, _ in command_rows() for word in names}


def command_rows() -> list[tuple[list[str], list[str]]]:
    """The rows of the README's table of commands: its commands, and the code in what is said of them."""
    rows = re.findall(r"^\| (`headrace .*?) \| (.*) \|$", README.read_text(encoding="utf-8"), re.M)
    return [
        (re.findall(r"`(?:headrace )?([a-z]+)`", first), re.findall(r"`([^`]+)`", second)) for first, second in rows
    ]


def test_the_table_of_commands_is_right() -> None:
    """A row of one command names options and subcommands that it has, and of subcommands all."""
    for names, said in command_rows():
        assert [] == [name for name in names if name not in COMMANDS]
        if len(names) == 1:
            command = load(names[0])
            options = {option for one in command.params for option in one.opts}
            inner = set(getattr(command, "commands", {}))
            told = {word for word in said if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")}

            assert [] == [word for word in said if word.startswith("--") and word not in options]
            assert not inner or inner == told


@EVERY_PAGE
def test_settings_exist(page: Path) -> None:
    """Every key in the text, in tables and in blocks of TOML, and every HEADRACE_ variable, is one that is read."""
    text = page.read_text(encoding="utf-8")
    named = [found[1] for mention in mentions(page) if (found := SETTING.match(mention))]
    named = [key.rstrip(".") for key in named if not key.endswith(SUFFIXES) and not ELSEWHERE.search(key)]
    named = [key for key in named if not MADE_UP.search(key)]
    tables = [key for block in blocks(page) if is_settings(block) for key in keys_of(block)]
    variables = set(re.findall(r"\bHEADRACE_[A-Z0-9_]*[A-Z0-9]\b", text)) - _RESERVED

    assert [] == [key for key in (*named, *tables) if not is_setting(key) and key not in chart_values()]
    assert [] == [name for name in sorted(variables) if not is_variable(name)]


@cache
def chart_values() -> set[str]:
    """The dotted keys of the Helm chart's values, which share names with sections of the settings."""

    def keys(values: dict[str, Any], above: str = "") -> Iterator[str]:
        for name, value in values.items():
            yield above + name
            if isinstance(value, dict):
                yield from keys(value, f"{above}{name}.")

    return set(keys(yaml.safe_load((ROOT / "deploy" / "chart" / "values.yaml").read_text())))


def is_settings(block: Block) -> bool:
    """Whether a block is (part of) a headrace.toml."""
    first = next((line for line in block.text.splitlines() if line and not line.startswith("#")), "")
    table = re.match(r"\[([a-z]+)", first)
    return block.language in {"toml", ""} and table is not None and table[1] in Settings.__struct_fields__


def keys_of(block: Block) -> Iterator[str]:
    """The keys of a block of TOML; its values may be examples."""
    table = ""
    for line in block.text.splitlines():
        if found := re.match(r"\[([^\]]+)\]", line):
            table = found[1]
            yield table
        elif found := re.match(r"([\w.\"-]+)\s*=", line):
            yield f"{table}.{found[1]}"


def is_setting(key: str) -> bool:
    """Whether a dotted key leads somewhere; names below librdkafka's table may hold dots."""
    names = tuple(part.strip('"') for part in re.findall(r'"[^"]*"|[^.]+', key))
    if names[:2] == ("kafka", "security"):
        return True
    return schema().find(names) is not None


def is_variable(name: str) -> bool:
    """Whether a variable, or with `_FILE` the file that it names, is read."""
    plain = name.removesuffix("_FILE")
    key = SHORT_NAMES.get(plain) or tuple(plain.removeprefix("HEADRACE_").lower().split("__"))
    return key[:2] == ("kafka", "security") or schema().find(key) is not None


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links, images and anchors resolve; what is on the web is not asked for."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    broken = [target for target in targets if not re.match(r"[a-z]+:", target) and not leads(page, target)]

    assert [] == broken


def leads(page: Path, target: str) -> bool:
    """Whether a relative link has an end."""
    path, _, anchor = target.partition("#")
    goal = (page.parent / path).resolve() if path else page
    if not goal.exists():
        return False
    return not anchor or goal.suffix != ".md" or anchor in anchors(goal)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_paths_in_the_text_exist(page: Path) -> None:
    """A path below one of our folders is there, or the page tells the reader to write it."""
    tops = ("deploy", "docs", "processors", "schemas", "scripts", "streams", "tests")
    told = {found for block in blocks(page) for found in re.findall(r"^# (\S+\.\w+)$", block.text, re.M)}
    paths = [
        mention.split("::")[0] for mention in mentions(page) if re.match(rf"(?:{'|'.join(tops)})/[\w./-]+$", mention)
    ]

    assert [] == [
        path for path in paths if path not in told and not MADE_UP.search(path) and not (ROOT / path).exists()
    ]


def test_every_picture_is_shown() -> None:
    """A picture that no page shows is not kept."""
    shown = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [path for path in (ROOT / "docs" / "images").iterdir() if path.is_file() and path.suffix != ".py"]

    assert [] == [path.name for path in pictures if path.name not in shown]


def is_tree(block: Block) -> bool:
    """Whether a block is the file tree of the README."""
    return block.text.startswith("headrace/\n")


class Entry(NamedTuple):
    """A line of the tree."""

    path: str
    """Relative to the checkout; the name may be a pattern (`test_*.py`)."""
    comment: str


def tree() -> list[Entry]:
    """The lines of the README's file tree, each with its whole path, by how far it is indented."""
    [block] = [block for block in blocks(README) if is_tree(block)]
    entries: list[Entry] = []
    above: list[tuple[int, str]] = []
    for line in block.text.splitlines()[1:]:
        found = re.match(r"^([\s│├└─|`-]*)(\S+)\s*(.*)$", line)
        if not line.strip() or found is None:
            continue
        depth, name, comment = len(found[1]), found[2], found[3]
        while above and above[-1][0] >= depth:
            above.pop()
        path = "/".join([*(folder for _, folder in above), name.rstrip("/")])
        above.append((depth, name.rstrip("/")))
        entries.append(Entry(path, comment.lstrip("#- ")))
    return entries


@cache
def real_paths() -> set[str]:
    """Files that git keeps or would keep, and the folders that they lie in."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("this is no git checkout, so what belongs to it is not known")
    files = {Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).exists()}
    return {path.as_posix() for file in files for path in (file, *file.parents)} - {"."}


def parent(path: str) -> str:
    """The folder of a path; empty for what lies at the top."""
    return path.rpartition("/")[0]


def test_the_tree_lists_what_is_there() -> None:
    """Every line of the README's tree is a file or a folder, with a word on what it is."""
    real = real_paths()

    assert [] == [entry.path for entry in tree() if not any(fnmatch(path, entry.path) for path in real)]
    assert [] == [entry.path for entry in tree() if not entry.comment]


def test_the_tree_leaves_nothing_out() -> None:
    """Where the README's tree lists files of a folder it lists all, but for hidden and empty ones; else all folders."""
    listed = [entry.path for entry in tree()]
    siblings = {folder: [path for path in listed if parent(path) == folder] for folder in map(parent, listed)}
    real = real_paths()
    missing = [
        path
        for path in sorted(real)
        if parent(path) in siblings
        and not Path(path).name.startswith((".", "__"))
        and Path(path).name != "py.typed"
        and ((ROOT / path).is_dir() or any(not (ROOT / one).is_dir() for one in siblings[parent(path)]))
        and not any(fnmatch(path, pattern) for pattern in siblings[parent(path)])
    ]

    assert [] == missing


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_are_taken(name: str) -> None:
    """What `headrace COMMAND --help` shows as an example parses."""
    command = load(name)
    texts = [one.help or "" for one in (command, *getattr(command, "commands", {}).values())]
    codes = [code for text in texts for code in re.findall(r"`(headrace [^`]+)`", text)]
    examples = [words for code in codes for words in command_lines(code)]

    assert examples
    assert {} == {" ".join(words): problem for words in examples if (problem := mistake(words, whole=False))}
