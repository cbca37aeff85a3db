"""`headrace monitor`: the live monitor beside the hot path, in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli._context import loaded_of

app = typer.Typer(add_completion=False)


@app.command()
def monitor(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="Whose monitor; `fraud` has one.")] = "fraud",
) -> None:
    """Run the live monitor of a domain until Ctrl-C: what labels say about merchants.

    Reads `merchant-tallies` and `transaction-labels`, writes `merchant-risk`. Run one per cluster. It leaves with exit
    code 75 when it makes no progress, so that a supervisor starts it again.

    Example: `headrace --data .headrace monitor fraud`
    """
    from streams.monitor.run import run_monitor
    from streams.observe import logs
    from streams.settings import secrets_of

    settings = loaded_of(context).settings
    logs.configure(settings.log, process="monitor", secrets=secrets_of(settings))
    run_monitor(settings, domain)
