"""The ledger of a run as Markdown, written into a page between two marks, so that nobody types figures."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from streams.chaos.view import shown_figures
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["BEGIN", "END", "NoPlaceError", "rendered", "write_report"]

BEGIN, END = "<!-- ledger: written by headrace chaos -->", "<!-- end of the ledger -->"
_LIBRARIES = ("confluent-kafka", "faust-streaming", "chdb", "onnxruntime", "numpy")


class NoPlaceError(HeadraceError):
    """The page has no marks."""


def write_report(page: Path, ledger: Mapping[str, Any], wrong: Sequence[str]) -> None:
    """Replaces what stands between the marks of a page.

    Raises:
        NoPlaceError: It has none.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise NoPlaceError(f"{page} has no place for the ledger: put the lines {BEGIN!r} and {END!r} where it belongs")
    page.write_text(f"{before}{BEGIN}\n\n{rendered(ledger, wrong)}\n\n{END}{after}", encoding="utf-8")


def rendered(ledger: Mapping[str, Any], wrong: Sequence[str]) -> str:
    """The ledger as Markdown."""
    lines = [
        f"`{ledger['command']}`, {datetime.now(UTC):%d %B %Y}, {_machine()}.",
        "",
        "**Nothing is wrong.**" if not wrong else "**Something is wrong:**",
        *(f"- {line}" for line in wrong),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {value} |" for name, value in shown_figures(ledger).items()),
        "",
        "| fault | times | recovered in (median) | longest |",
        "|---|---|---|---|",
        *(
            f"| {name} | {each['times']} | {each['median']:.1f} s | {each['longest']:.1f} s |"
            for name, each in ledger["recovery_s"].items()
        ),
    ]
    return "\n".join(lines)


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {system}, {libraries}"
