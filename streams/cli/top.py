"""`headrace top`: how a running deployment is doing, in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.top.figures import Picture

app = typer.Typer(add_completion=False)


@app.command()
def top(
    context: typer.Context,
    domains: Annotated[list[str] | None, typer.Argument(help="Domains to show; all unless given.")] = None,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", "-u", help="A process, such as http://worker-1:9400; else those of the data directory."),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, show one picture, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture.")] = False,
) -> None:
    """Show rates, lag, latency, stages, transactions, dead letters, the store and health, until Ctrl-C.

    Asks the processes' endpoints and Kafka; joins no consumer group. What it cannot reach it says. With --once it
    ends with code 1 where something is not reached or not ready, for scripts.

    Example: `headrace top`, or `headrace top fraud --url http://worker-1:9400 --url http://store:9400 --once --json`
    """
    from streams.top.run import pictures

    shown = pictures(settings_of(context), url or [], domains or [], interval)
    if once:
        next(shown)  # only tells what to compare with
        last = next(shown)
        _show(iter([last]), as_json=as_json)
        raise typer.Exit(0 if _well(last) else 1)
    if as_json or not sys.stdout.isatty():
        _show(shown, as_json=as_json)
    else:
        _live(shown)


def _show(shown: Iterator[Picture], *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console

    from streams.top.view import drawn

    for picture in shown:
        if as_json:
            print_json(msgspec.to_builtins(picture))
        else:
            console = Console(highlight=False)
            console.print(drawn(picture, console.width))


def _live(shown: Iterator[Picture]) -> None:
    from rich.console import Console
    from rich.live import Live

    from streams.top.view import drawn

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for picture in shown:
            live.update(drawn(picture, console.width), refresh=True)


def _well(picture: Picture) -> bool:
    """Whether everything was reached and is ready."""
    members = [
        *(worker for domain in picture.domains for worker in domain.workers),
        *(store.process for store in picture.stores),
        *(monitor.process for monitor in picture.monitors),
        *picture.others,
    ]
    return not picture.unreachable and bool(members) and all(member.ready for member in members)
