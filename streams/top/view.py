"""The picture on a terminal: one block per domain, one line per other process, and what could not be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

    from streams.top.figures import Domain, Member, Monitor, Picture, Store

__all__ = ["drawn"]

_UNKNOWN = "-"
_GAP = 3
_BAR = 30
# Work, in the order of the way of an event; the rest of the time is waiting.
_STAGES = (
    ("prepare", "cyan"),
    ("execute", "magenta"),
    ("interpret", "blue"),
    ("produce", "green"),
    ("commit", "yellow"),
)


def drawn(picture: Picture, width: int) -> Group:
    """Everything, for a terminal of this width."""
    parts: list[RenderableType] = [_domain(domain, width - 4) for domain in picture.domains]
    parts += [_panel("store", [_store(store, width - 4)], [store.process]) for store in picture.stores]
    parts += [_panel(one.process.name, [_monitor(one, width - 4)], [one.process]) for one in picture.monitors]
    parts += [_members([member]) for member in picture.others]
    if not parts:
        parts.append(Text("Nothing answers. Is `headrace up` running here? Else name processes with --url.", "yellow"))
    for unreachable in picture.unreachable:
        parts.append(Text.assemble(("not reached  ", "red"), (unreachable.what, "bold"), f"  {unreachable.why}"))
    return Group(*parts)


def _domain(domain: Domain, width: int) -> Panel:
    facts = {
        "in/s": _number(domain.in_per_s),
        "answered/s": _number(domain.answered_per_s),
        "lag": f"{sum(domain.lag.values()):,}" if domain.lag else _UNKNOWN,
        "p50": _ms(domain.p50_ms),
        "p99": _ms(domain.p99_ms),
        "micro-batch": _number(domain.micro_batch_events),
        "slice": _number(domain.slice_rows),
        "model": _UNKNOWN if domain.model_us_per_row is None else f"{domain.model_us_per_row:,.1f} µs/row",
        "commits/s": _number(domain.committed_per_s, digits=1),
        "aborted": f"{domain.aborted:,}",
    }
    body: list[RenderableType] = [_facts(facts, width)]
    if domain.lag:
        body.append(_lags(domain.lag, width))
    if domain.stages:
        body.append(_stages(domain.stages, width))
    if domain.restoring:
        shares = "  ".join(f"{partition}: {share:.0%}" for partition, share in sorted(domain.restoring.items()))
        body.append(_line("restoring", shares, "yellow", width))
    if domain.dead_letters:
        rate = "" if not domain.dead_letters_per_s else f"  ({domain.dead_letters_per_s:,.1f}/s)"
        body.append(_line("dead letters", _counts(domain.dead_letters) + rate, "", width))
    if domain.too_old:
        body.append(_line("too old", _counts(domain.too_old), "", width))
    if any(domain.queue_bytes.values()):
        queues = "  ".join(f"{name.replace('_', ' ')} {_bytes(held)}" for name, held in domain.queue_bytes.items())
        body.append(_line("queues", queues, "", width))
    title = domain.name if not domain.model else f"{domain.name} · {domain.model} · {_provider(domain.providers)}"
    return _panel(title, body, domain.workers)


def _store(store: Store, width: int) -> RenderableType:
    facts = {
        "rows/s": _number(store.rows_per_s),
        "lag": f"{sum(store.lag.values()):,}",
        "delay p50": _ms(store.delay_p50_ms),
        "delay p99": _ms(store.delay_p99_ms),
        "failures": f"{store.failures:,}",
        "unreadable": f"{store.unreadable:,}",
    }
    return _facts(facts, width)


def _monitor(monitor: Monitor, width: int) -> RenderableType:
    facts = {
        "messages/s": _number(monitor.messages_per_s),
        "lag": f"{sum(monitor.lag.values()):,}",
        "keys": f"{monitor.keys:,}",
    }
    return _facts(facts, width)


def _panel(title: str, body: list[RenderableType], members: list[Member]) -> Panel:
    well = bool(members) and all(member.ready for member in members)
    if not members:
        body.append(Text("no worker says anything of itself: name them with --url", "yellow"))
    style = "green" if well else "yellow" if all(member.live for member in members) else "red"
    return Panel(Group(*body, _members(members)), title=title, title_align="left", border_style=style)


def _facts(facts: Mapping[str, str], width: int) -> RenderableType:
    """A number under its name, in as many rows as the width needs: a number that is cut off is none."""
    rows: list[list[str]] = [[]]
    used = 0
    for name, value in facts.items():
        needed = max(len(name), len(value)) + _GAP
        if used + needed - _GAP > width:
            rows.append([])
            used = 0
        rows[-1].append(name)
        used += needed
    parts = []
    for names in rows:
        table = Table.grid(padding=(0, _GAP, 0, 0))
        table.add_row(*(Text(name, "dim") for name in names))
        table.add_row(*(Text(facts[name], "bold") for name in names))
        parts.append(table)
    return Group(*parts)


def _lags(lag: Mapping[int, int], width: int) -> RenderableType:
    """Partitions, those that are furthest behind first, as many as fit."""
    behind = sorted(((n, p) for p, n in lag.items()), key=lambda one: (-one[0], one[1]))
    shown: list[str] = []
    used = 0
    for messages, partition in behind:
        text = f"{partition}: {messages:,}"
        used += len(text) + 2
        if used > width - 28:
            shown.append(f"and {len(behind) - len(shown)} more")
            break
        shown.append(text)
    return _line("lag by partition", "  ".join(shown), "", width)


def _stages(stages: Mapping[str, float], width: int) -> RenderableType:
    """A bar of the workers' time: each stage a colour, what is left was waiting."""
    bar, legend = Text(), Text()
    room = min(_BAR, max(10, width // 4))
    cells = 0
    # What took longer than the time between two looks is told of when it is over.
    whole = max(1.0, sum(stages.get(stage, 0.0) for stage, _ in _STAGES))
    for stage, style in _STAGES:
        share = stages.get(stage, 0.0) / whole
        mine = round(share * room)
        cells += mine
        bar.append("█" * mine, style)
        legend.append(f"  {stage} ", "dim").append(f"{share:.0%}", style)
    bar.append("░" * max(0, room - cells), "dim")
    idle = 1 - sum(stages.get(stage, 0.0) for stage, _ in _STAGES) / whole
    legend.append("  waiting ", "dim").append(f"{idle:.0%}")
    grid = Table.grid()
    grid.add_row(bar, legend)
    return grid if room + len(legend) <= width else Group(bar, Text(legend.plain.strip()))


def _members(members: Iterable[Member]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in ("name", "state", "cpu", "memory"):
        table.add_column(column, no_wrap=True)
    table.add_column("why", overflow="fold")
    for member in members:
        state = ("ready", "green") if member.ready else ("not ready", "yellow") if member.live else ("stuck", "red")
        table.add_row(
            Text(member.name, "bold"),
            Text(*state),
            Text("" if member.cpu_ratio is None else f"{member.cpu_ratio:.0%} cpu", "dim"),
            Text("" if member.memory_bytes is None else _bytes(member.memory_bytes), "dim"),
            Text(_why(member), state[1] if not member.ready else "dim"),
        )
    return table


def _why(member: Member) -> str:
    if member.ready:
        return member.url
    return "; ".join(f"{condition}: {why}" for condition, why in member.missing.items())


def _line(name: str, text: str, style: str, width: int) -> Text:
    line = Text.assemble((f"{name}  ", "dim"), (text, style))
    line.truncate(max(width, 20), overflow="ellipsis")
    return line


def _counts(counts: Mapping[str, int]) -> str:
    return "  ".join(f"{name} {count:,}" for name, count in counts.items())


def _provider(providers: str) -> str:
    return providers.partition(",")[0].removesuffix("ExecutionProvider")


def _number(value: float | None, digits: int = 0) -> str:
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"


def _ms(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.0f} s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
