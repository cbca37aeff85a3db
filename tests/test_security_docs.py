"""The documents on security are what the code does: rights, limits, and the tests that the threat model leans on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.codec import MAX_PAYLOAD_BYTES
from schemas.topics import domains
from streams._reading import READING, UNPACKABLE_HEADERS
from streams.rights import PROCESSES, rights
from streams.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
MODEL = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_rights_are_those_of_the_code() -> None:
    """Every table of the page is what `headrace acls` would print; that of `topics` is said in words."""
    expected = []
    for process, wanted in rights(Settings(), "fraud").items():
        if process != "topics":
            expected += [f"**{process}**: {PROCESSES[process]}", "", "| operation | on | for |", "|---|---|---|"]
            expected += [
                f"| {right.operation} | {right.resource} `{right.name}{'*' if right.prefixed else ''}` | {right.why} |"
                for right in wanted
            ]
            expected.append("")
    found = re.search(r"<!-- rights:.*?-->\n\n(.*)\n<!-- end of rights -->", PAGE, re.S)

    assert found
    assert expected == found[1].split("\n")


def test_limits_are_those_of_the_code() -> None:
    """The numbers in the table of limits are set where it says."""
    assert "value of a message | 1 MiB" in PAGE
    assert 1024 * 1024 == MAX_PAYLOAD_BYTES
    assert "100 MB (`receive.message.max.bytes`)" in PAGE
    assert 100_000_000 == READING["receive.message.max.bytes"]
    assert f"`{UNPACKABLE_HEADERS[0][0]}`" in PAGE


def test_every_topic_has_a_row_in_the_threat_model() -> None:
    """Who may write to a topic is said of each."""
    told = set(re.findall(r"`([\w.-]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", MODEL, re.M))))

    assert {topic.name for topic in domains()["fraud"]} <= told


@pytest.mark.parametrize("row", re.findall(r"^\| [^|\n]+ \| [^|\n]+ \| [^|\n]*\|$", MODEL, re.M))
def test_every_row_of_the_threat_model_has_a_test_or_says_that_nothing_stops_it(row: str) -> None:
    """A mitigation without a test is a hope."""
    if "---" in row or "shown by" in row:
        return
    _, _, stops, shown, _ = row.split("|")

    assert "tests/test_" in shown or "nothing" in stops
    assert [] == [path for path in re.findall(r"`(tests/[\w.]+)`", shown) if not (ROOT / path).exists()]
