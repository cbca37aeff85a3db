"""`headrace worker`: one process that answers the events of a domain, in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli._context import settings_of

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose events it answers.")],
    slot: Annotated[
        str,
        typer.Option(
            help="This worker's identity in its group: one of its own for each, kept over restarts; {host} is the"
            " name of this machine or container."
        ),
    ] = "0",
    workers: Annotated[int, typer.Option(min=1, help="Workers on this machine, which share its cores.")] = 1,
) -> None:
    """Answer the events of a domain until Ctrl-C; the transaction in flight is finished first.

    Workers of one domain share its partitions: start more, here or on other machines, each with a --slot of its own.

    Example: `headrace worker fraud --slot 0`, or `--slot {host}-0` on several machines
    """
    import socket

    from streams.observe import logs
    from streams.running import run_worker
    from streams.settings import secrets_of

    settings = settings_of(context)
    slot = slot.replace("{host}", socket.gethostname())
    logs.configure(settings.log, process=f"worker-{slot}", secrets=secrets_of(settings))
    run_worker(settings, domain, slot, workers)
