"""What was measured, as JSON files, as tables in a terminal, and as tables in Markdown: all from the same JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console


# Where there is no figure.
_NONE = "-"


class Table(NamedTuple):
    """A table for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def number(value: float | None, digits: int = 0) -> str:
    """With a comma for the thousands; a dash where there is none."""
    return _NONE if value is None else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """As a percentage."""
    return _NONE if value is None else f"{value:.2%}"


def spread_text(spread: Mapping[str, Any] | None, digits: int) -> str:
    """The median, and the range where there were several rounds."""
    if spread is None:
        return _NONE
    text = number(spread["median"], digits)
    if spread["rounds"] == 1:
        return text
    return f"{text} ({number(spread['low'], digits)} to {number(spread['high'], digits)})"


def goal(what: str, value: float | None, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """A goal, and whether it is reached, in one sentence."""
    bound = f"at least {at_least:,.10g}" if at_least is not None else f"at most {at_most:,.10g}"
    if value is None:
        return f"Goal: {bound} {what}: not measured."
    reached = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return f"Goal: {bound} {what}: {value:,.10g}, {'reached' if reached else 'missed'}."


def print_tables(tables: Sequence[Table], console: Console) -> None:
    """Shows tables in a terminal."""
    from rich import box
    from rich.table import Table as RichTable

    for table in tables:
        console.print(f"\n{table.title}", style="bold", highlight=False)
        drawn = RichTable(box=box.SIMPLE_HEAD)
        for at, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if at == 0 else "right")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
        for note in table.notes:
            console.print(f"  {note}", style="dim")


def markdown(table: Table) -> str:
    """The same table in Markdown."""
    lines = [
        f"| {' | '.join(table.columns)} |",
        f"|{'---|' + '---:|' * (len(table.columns) - 1)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table.rows),
    ]
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([*lines, *notes]) + "\n"


def file_of(out: Path, name: str) -> Path:
    """Where the JSON of a benchmark lies."""
    return out / f"bench-{name}.json"


def write(out: Path, name: str, report: Mapping[str, Any]) -> Path:
    """Writes the JSON of a benchmark."""
    out.mkdir(parents=True, exist_ok=True)
    path = file_of(out, name)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


def read(out: Path, name: str) -> dict[str, Any] | None:
    """The JSON of a benchmark, None where it did not run."""
    path = file_of(out, name)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
