"""What a person sees while the demo runs: a live table on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from processors._demo import Answer, Demo
    from streams.demo.traffic import Came

__all__ = ["Progress", "View", "formatted", "in_a_row", "make_view", "numbers"]

_WINDOW_S = 5.0
_SHOWN_ANSWERS = 8
_LINE_EVERY_S = 1.0
_GAP = 3


class Progress:
    """Rates and latencies of the last seconds, and the flagged answers last seen."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.sent = 0
        self.answered = 0
        self.dead_letters = 0
        self.flagged: deque[Answer] = deque(maxlen=_SHOWN_ANSWERS)
        self._latencies: deque[tuple[float, float]] = deque()
        self._counts: deque[tuple[float, int]] = deque()

    def took(self, came: Iterable[Came]) -> None:
        """These came back."""
        for answer, latency_s, at in came:
            if answer is None:
                self.dead_letters += 1
            else:
                self._saw(answer, latency_s, at)

    def _saw(self, answer: Answer, latency_s: float | None, now: float) -> None:
        self.answered += 1
        if latency_s is not None:
            self._latencies.append((now, latency_s * 1000))
        if answer.flagged:
            self.flagged.appendleft(answer)

    def tick(self, now: float) -> None:
        """Forgets what is older than the window."""
        self._counts.append((now, self.answered))
        while self._latencies and self._latencies[0][0] < now - _WINDOW_S:
            self._latencies.popleft()
        while len(self._counts) > 2 and self._counts[0][0] < now - _WINDOW_S:
            self._counts.popleft()

    @property
    def rate(self) -> float:
        """Answers per second."""
        (first, before), (last, after) = self._counts[0], self._counts[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def percentiles(self) -> tuple[float, float] | None:
        """Median and 99th percentile of latency in milliseconds."""
        if not self._latencies:
            return None
        p50, p99 = np.percentile([ms for _at, ms in self._latencies], [50, 99])
        return float(p50), float(p99)

    @property
    def lag(self) -> int:
        """Events sent and not yet answered."""
        return max(0, self.sent - self.answered - self.dead_letters)


class View(Protocol):
    """Where the run is shown."""

    def say(self, text: str) -> None:
        """One line about what happens now."""

    def show(self, progress: Progress) -> None:
        """The state of the run; called several times a second."""

    def close(self) -> None:
        """Leaves the terminal as it was."""

    def summary(self, title: str, figures: Mapping[str, Any], steps: Sequence[tuple[str, str]]) -> None:
        """The end."""


def make_view(demo: Demo, console: Console, *, silent: bool) -> View:
    """The view that fits the terminal."""
    if silent:
        return SilentView()
    return LiveView(demo, console) if console.is_terminal else LineView(demo, console)


class SilentView:
    """Shows nothing: for --json."""

    def say(self, text: str) -> None:
        pass

    def show(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass

    def summary(self, title: str, figures: Mapping[str, Any], steps: Sequence[tuple[str, str]]) -> None:
        pass


class LineView:
    """Plain lines, one a second: for logs and pipes."""

    def __init__(self, demo: Demo, console: Console) -> None:
        self._demo = demo
        self._console = console
        self._next_at = 0.0
        self._last_shown: Answer | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + _LINE_EVERY_S
        parts = [f"{name} {value}" for name, value in numbers(progress).items()]
        newest = progress.flagged[0] if progress.flagged else None
        if newest is not None and newest is not self._last_shown:
            parts.append(f"last {self._demo.flagged}: " + " ".join(newest.row))
            self._last_shown = newest
        self.say(" · ".join(parts))

    def close(self) -> None:
        pass

    def summary(self, title: str, figures: Mapping[str, Any], steps: Sequence[tuple[str, str]]) -> None:
        self.say(title)
        for name, value in figures.items():
            self.say(f"  {name:<20} {formatted(value)}")
        if not steps:
            return
        self.say("Next:")
        width = max(len(command) for command, _ in steps)
        for command, what in steps:
            self.say(f"  {command:<{width}}  {what}")


class LiveView:
    """A table that is drawn anew in place."""

    def __init__(self, demo: Demo, console: Console) -> None:
        self._demo = demo
        self._console = console
        self._live: Live | None = None
        self._last: Progress | None = None

    def say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def show(self, progress: Progress) -> None:
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=5, transient=False)
            self._live.start()
        self._live.update(self.drawn(progress))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def summary(self, title: str, figures: Mapping[str, Any], steps: Sequence[tuple[str, str]]) -> None:
        table = Table.grid(padding=(0, 2))
        for name, value in figures.items():
            table.add_row(Text(name, style="dim"), Text(formatted(value), style="bold"))
        self._console.print(Panel(table, title=title, title_align="left", expand=False))
        if not steps:
            return
        following = Table.grid(padding=(0, 3))
        for command, what in steps:
            following.add_row(Text(command, style="cyan"), what)
        self._console.print(Text("Next:", style="bold"))
        self._console.print(following)

    def drawn(self, progress: Progress) -> Group:
        """The picture of a moment."""
        figures = in_a_row(numbers(progress), self._console.width)
        total = progress.total or max(1, progress.sent)
        bar = Padding(ProgressBar(total=total, completed=min(total, progress.answered + progress.dead_letters)))
        table = Table(expand=True, box=None)
        *fixed, widest = self._demo.columns
        for column in fixed:
            table.add_column(column, no_wrap=True, header_style="dim")
        table.add_column(widest, no_wrap=True, overflow="ellipsis", header_style="dim", ratio=1)
        for answer in progress.flagged:
            table.add_row(*answer.row)
        return Group(figures, bar, Text(f"Last {self._demo.flagged}:", style="bold"), table)


def in_a_row(shown: Mapping[str, str], width: int) -> Table | Text:
    """A row under a row, or words that wrap where the terminal is too narrow: a number cut off is none."""
    needed = sum(max(len(name), len(value)) + _GAP for name, value in shown.items()) - _GAP
    if needed > width:
        return Text(" · ").join(Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in shown.items())
    row = Table.grid(padding=(0, _GAP))
    row.add_row(*(Text(name, style="dim") for name in shown))
    row.add_row(*(Text(value, style="bold") for value in shown.values()))
    return row


def numbers(progress: Progress) -> dict[str, str]:
    """The figures of a moment, in words."""
    latency = progress.percentiles()
    return {
        "sent": f"{progress.sent:,}",
        "answered": f"{progress.answered:,}",
        "dead letters": f"{progress.dead_letters:,}",
        "events/s": f"{progress.rate:,.0f}",
        "p50": "-" if latency is None else f"{latency[0]:,.0f} ms",
        "p99": "-" if latency is None else f"{latency[1]:,.0f} ms",
        "lag": f"{progress.lag:,}",
    }


def formatted(value: Any) -> str:
    """A value of a summary as people read it."""
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
