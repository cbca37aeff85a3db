"""What a person sees of a run: a live picture on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.demo.view import formatted, in_a_row, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from streams.chaos.happening import Happening, Happenings
    from streams.chaos.schedule import Fault
    from streams.demo.view import Progress
    from streams.local.supervisor import State

__all__ = ["View", "make_view", "shown_figures"]

_SHOWN = 10
_COLOURS = {"on": "red", "recovering": "yellow", "due": "dim", "missed": "dim"}
_STATUS_COLOURS = {"running": "green", "restarting": "yellow"}


class View(Protocol):
    """Where a run is shown."""

    def plan(self, seed: int, faults: Sequence[Fault]) -> None:
        """The seed and the schedule, before anything is started."""

    def say(self, text: str) -> None:
        """One line about what happens now."""

    def show(self, progress: Progress, happenings: Happenings, states: Sequence[State], elapsed_s: float) -> None:
        """The state of the run; called several times a second."""

    def close(self) -> None:
        """Leaves the terminal as it was."""

    def summary(self, ledger: Mapping[str, Any], wrong: Sequence[str], data: Path | None) -> None:
        """The end."""


def make_view(console: Console, *, silent: bool) -> View:
    """The view that fits the terminal."""
    if silent:
        return SilentView()
    return LiveView(console) if console.is_terminal else LineView(console)


def shown_figures(ledger: Mapping[str, Any]) -> dict[str, str]:
    """The ledger as rows of text: what has parts in one line."""
    rows = {}
    for name, value in ledger.items():
        if name in ("command", "recovery_s"):
            continue
        if isinstance(value, dict):
            rows[name] = ", ".join(f"{part} {formatted(number)}" for part, number in value.items()) or "none"
        else:
            rows[name] = formatted(value)
    return rows


class SilentView:
    """Shows nothing: for --json."""

    def plan(self, seed: int, faults: Sequence[Fault]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def show(self, progress: Progress, happenings: Happenings, states: Sequence[State], elapsed_s: float) -> None:
        pass

    def close(self) -> None:
        pass

    def summary(self, ledger: Mapping[str, Any], wrong: Sequence[str], data: Path | None) -> None:
        pass


class LineView:
    """Plain lines, one for each fault and each turn that it takes: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[int, str] = {}

    def plan(self, seed: int, faults: Sequence[Fault]) -> None:
        self.say(f"seed {seed}, {len(faults)} faults:")
        for fault in faults:
            self.say(f"  {fault}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress, happenings: Happenings, states: Sequence[State], elapsed_s: float) -> None:
        for one in happenings.all:
            if self._told.get(one.fault.number) != one.status:
                self._told[one.fault.number] = one.status
                figures = " · ".join(f"{name} {value}" for name, value in numbers(progress).items())
                down = " ".join(f"{state.name} {state.status}" for state in states if state.status != "running")
                self.say(f"{elapsed_s:7.1f} s  {one.fault}: {one.status}   [{figures}] {down}")

    def close(self) -> None:
        pass

    def summary(self, ledger: Mapping[str, Any], wrong: Sequence[str], data: Path | None) -> None:
        self.say(_title(wrong))
        for name, value in shown_figures(ledger).items():
            self.say(f"  {name:<20} {value}")
        for line in wrong:
            self.say(f"wrong: {line}")
        if data is not None:
            self.say(f"data and logs are kept in {data}")


class LiveView:
    """A picture that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._faults = 0

    def plan(self, seed: int, faults: Sequence[Fault]) -> None:
        self._faults = len(faults)
        self._console.print(Text.assemble(("seed ", "dim"), (str(seed), "bold"), (f", {len(faults)} faults", "dim")))
        for fault in faults:
            self._console.print(Text(f"  {fault}", style="dim"))

    def say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def show(self, progress: Progress, happenings: Happenings, states: Sequence[State], elapsed_s: float) -> None:
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=5, transient=False)
            self._live.start()
        self._live.update(self.drawn(progress, happenings, states, elapsed_s))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def drawn(self, progress: Progress, happenings: Happenings, states: Sequence[State], elapsed_s: float) -> Group:
        """The picture of a moment."""
        figures = {"seconds": f"{elapsed_s:,.0f}", "faults": f"{len(happenings.all)} of {self._faults}"}
        done = progress.answered + progress.dead_letters
        total = progress.total or 1
        bar = Padding(ProgressBar(total=total, completed=min(total, done)))
        return Group(
            in_a_row({**figures, **numbers(progress)}, self._console.width),
            bar,
            _services(states),
            _faults([one for one in happenings.all if not one.missed][-_SHOWN:]),
        )

    def summary(self, ledger: Mapping[str, Any], wrong: Sequence[str], data: Path | None) -> None:
        table = Table.grid(padding=(0, 2))
        for name, value in shown_figures(ledger).items():
            table.add_row(Text(name, style="dim"), Text(value, style="bold"))
        colour = "red" if wrong else "green"
        self._console.print(Panel(table, title=_title(wrong), title_align="left", border_style=colour, expand=False))
        for line in wrong:
            self._console.print(Text(f"wrong: {line}", style="red"))
        if data is not None:
            self._console.print(Text(f"data and logs are kept in {data}"))


def _title(wrong: Sequence[str]) -> str:
    return "NOT RIGHT: see what is wrong below" if wrong else "Every event answered exactly once, whatever happened"


def _services(states: Sequence[State]) -> Text:
    return Text("   ").join(
        Text.assemble(
            (f"{state.name} ", "dim"),
            (state.status, _STATUS_COLOURS.get(state.status, "red")),
            (f" {state.restarts}↻" if state.restarts else "", "dim"),
        )
        for state in states
    )


def _faults(happenings: Sequence[Happening]) -> Table:
    table = Table(expand=True, box=None)
    for column in ("at", "fault", "of", "for"):
        table.add_column(column, no_wrap=True, header_style="dim")
    table.add_column("now", no_wrap=True, overflow="ellipsis", header_style="dim", ratio=1)
    for one in reversed(happenings):
        fault = one.fault
        lasts = f"{fault.lasts_s:.1f} s" if fault.lasts_s else ""
        status = Text(one.status, style=_COLOURS.get(one.status, "green"))
        table.add_row(f"{fault.at_s:.0f} s", fault.kind, fault.target, lasts, status)
    return table
