"""`headrace chaos`: faults by a seed against the real services under load, accounted for."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from streams.cli._context import context_of, settings_of

app = typer.Typer(add_completion=False)


@app.command()
def chaos(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose services are broken.")] = "fraud",
    seed: Annotated[int, typer.Option(help="Same seed, same faults at the same times.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.2, help="How long the load and the faults last.")] = 5.0,
    faults: Annotated[str, typer.Option(help="Kinds of faults, such as kill,cut,disk; all where empty.")] = "",
    targets: Annotated[str, typer.Option(help="Whom they hit, such as store,worker-0; everybody where empty.")] = "",
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 200,
    pace: Annotated[float, typer.Option(min=0.5, help="Seconds from one fault to the next, on average.")] = 10.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs also where all is right.")] = False,
    report: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A Markdown page that the ledger is written into.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Break everything, by a seed, and account for every event.

    Starts a Kafka broker, the ClickHouse store, two workers and the monitor in a directory of their own, sends events
    at a steady rate, and meanwhile kills, stops, cuts off, fills up and confuses them as a schedule says. When all is
    quiet again, everything is read back and compared with an undisturbed run. Exit code 1 where anything is wrong:
    then data and logs are kept, and named. Linux only.

    Example: `headrace chaos --seed 7 --minutes 2 --faults kill,freeze,cut`
    """
    import logging

    import orjson
    from rich.console import Console

    from streams.chaos.report import write_report
    from streams.chaos.run import Options, run_chaos
    from streams.chaos.view import make_view
    from streams.cli._domain import input_topic
    from streams.cli._output import fail, write_line
    from streams.observe import logs

    input_topic(domain)  # there is such a domain
    settings = settings_of(context)
    logs.configure(settings.log, process="chaos")
    logging.getLogger().setLevel(logging.ERROR)
    own = context_of(context)
    view = make_view(Console(), silent=as_json)
    options = Options(domain, seed, minutes, rate, faults, targets, pace, keep)
    outcome = run_chaos(settings, options, view, config=own.config, overrides=own.overrides)
    view.summary(outcome.ledger, outcome.wrong, outcome.data)
    if report is not None:
        write_report(report, outcome.ledger, outcome.wrong)
    if as_json:
        write_line(orjson.dumps(outcome.ledger))
    if outcome.wrong:
        if as_json:
            fail("\n".join([*outcome.wrong, f"data and logs are kept in {outcome.data}"]))
        raise typer.Exit(1)
