"""`docs/models.md` is true: its example runs as it stands, and its tables name every key."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processors._contract import Contract, Tensor
from processors._models import ExtraFile, Manifest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run(command: str, folder: Path) -> str:
    """Runs a line of the page on a copy of the packages and returns what it prints."""
    words = command.split()
    words = words[words.index("python") :] if "python" in words else ["python", "-m", "streams", *words[3:]]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with the files that the page tells to write."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("schemas", "processors", "streams"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks("python"):
        first, _, text = block.partition("\n")
        (folder / first.removeprefix("# ")).write_text(text)
    (folder / "readings.jsonl").write_text(blocks("json")[0])
    return folder


def test_own_model_in_ten_minutes(checkout: Path) -> None:
    """Every command of the example runs and prints what the page shows, but for the time and the last digits."""
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", blocks("console")[0], re.MULTILINE)

    assert ["train.py", "verify", "try"] == [
        re.split(r"python |headrace |models ", step[0])[-1].split()[0] for step in steps
    ]
    for command, expected in steps:
        shown, actual = expected.splitlines(), run(command, checkout).splitlines()

        assert len(shown) == len(actual)
        for want, got in zip(shown, actual, strict=True):
            assert comparable(want) == comparable(got)


def comparable(line: str) -> object:
    """A line without what differs from run to run."""
    if not line.startswith("{"):
        return line
    result = json.loads(line)
    return {**result, "scored_at": 0, "risk": round(result["risk"], 1)} if "risk" in result else result


def test_example_passes_the_linter(checkout: Path) -> None:
    """Code to copy is held to the rules of the project."""
    files = ["schemas/bearings.py", "processors/bearings.py"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *files],
        cwd=checkout,
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stdout


def test_tables_name_every_key() -> None:
    """A key that is added to a manifest is added to the page, and the reverse."""
    tables = re.findall(r"^\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    named = [set(re.findall(r"`([a-z0-9_]+)`", "\n".join(re.findall(r"^\| (.*?) \|", rows, re.M)))) for rows in tables]

    assert [set(Manifest.__struct_fields__), set(Tensor.__struct_fields__)] == named
    for key in (*ExtraFile.__struct_fields__, *Contract.__struct_fields__):
        assert f"`{key}`" in PAGE
