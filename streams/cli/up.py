"""`headrace up`: all services of a domain until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli._context import context_of, settings_of

app = typer.Typer(add_completion=False)


@app.command()
def up(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose events are answered.")] = "fraud",
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Worker processes.")] = 1,
) -> None:
    """Run broker, store, workers and monitor until Ctrl-C; what dies is started again.

    A configured Kafka (HEADRACE_KAFKA) or ClickHouse (HEADRACE_CLICKHOUSE) is used instead of the embedded one.
    `endpoints.json` in the data directory says where everything is; logs are in its folder `logs`.

    Example: `headrace up --workers 2`
    """
    from streams.cli._domain import input_topic
    from streams.local.services import Services

    input_topic(domain)  # there is such a domain
    settings = settings_of(context)
    own = context_of(context)
    with Services(settings, domain, workers, config=own.config, overrides=own.overrides) as services:
        services.fetch(typer.echo)
        with services.supervisor.stopping_on_signals():
            services.start(typer.echo)
            for name, url in services.endpoints().items():
                typer.echo(f"  {name:<12} {url}")
            typer.echo(f"All of it stays up until Ctrl-C; data and logs are in {settings.data}")
            services.supervisor.run()
