"""`headrace demo`: the main job, start to finish, accounted for."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from streams.cli._context import context_of, settings_of

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain to show.")] = "fraud",
    events: Annotated[int, typer.Option("--events", "-n", min=1, help="Simulated events.")] = 100_000,
    rate: Annotated[float, typer.Option(min=0, help="Events per second; 0 is as fast as they are answered.")] = 4000,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Worker processes.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and services until Ctrl-C.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--input", "-i", exists=True, dir_okay=False, help="JSON lines, CSV or Parquet instead."),
    ] = None,
    preset: Annotated[str, typer.Option(help="A built-in mapping of the file's columns, by name.")] = "",
    mapping: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A mapping file of your own (TOML).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the simulation; else a new one each time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Run the main job on real, embedded services: events in, answers out, every one accounted for.

    Starts a Kafka broker, the ClickHouse store, the workers and the monitor, sends events, shows the answers as they
    come, and ends with a summary read back from the output topic and from ClickHouse. Exit code 1 where an event is
    missing or answered twice, 130 where it was stopped before its end.

    Example: `headrace demo --events 200000 --rate 5000 --workers 2`
    """
    import logging
    import time

    import orjson
    from rich.console import Console

    from streams.cli._domain import input_topic
    from streams.cli._output import write_line
    from streams.demo.run import Options, load_demo, run_demo
    from streams.demo.view import make_view
    from streams.observe import logs

    input_topic(domain)  # there is such a domain
    settings = settings_of(context)
    logs.configure(settings.log, process="demo")
    logging.getLogger().setLevel(logging.WARNING)
    own = context_of(context)
    # Kept topics remember the event ids of a seed, which sent again would be duplicates.
    chosen_seed = int(time.time()) if seed is None else seed
    options = Options(domain, events, rate, workers, keep, chosen_seed, file, preset, mapping)
    view = make_view(load_demo(domain), Console(), silent=as_json)
    outcome = run_demo(settings, options, view, config=own.config, overrides=own.overrides)
    if as_json:
        write_line(orjson.dumps(outcome.summary))
    if not outcome.exact:
        raise typer.Exit(1)
    if outcome.stopped:
        raise typer.Exit(130)
