"""`headrace topics`: the topics of a domain, and making them by somebody who may."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

app = typer.Typer(add_completion=False)


@app.command()
def topics(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose topics are meant.")],
    create: Annotated[bool, typer.Option("--create", help="Make those that are missing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object: partitions by topic, 0 where missing.")
    ] = False,
) -> None:
    """Show the topics of a domain, or make those that are missing, as its processes would.

    Where workers and monitor may not make topics, run this once with --create, as a user who may: see `headrace acls`.

    Example: `headrace topics fraud --create`
    """
    from streams.clients import reach
    from streams.local.connection import kafka_config
    from streams.monitor import MONITORED
    from streams.rights import rights
    from streams.running import ensure_domain_topics

    settings = settings_of(context)
    config = kafka_config(settings)
    names = list(dict.fromkeys(right.name for right in rights(settings, domain)["topics"]))
    if create:
        ensure_domain_topics(settings, domain, config)
        if domain in MONITORED:
            from streams.monitor.run import ensure

            ensure(config, settings)
    seen = reach(config)
    partitions = {name: seen.get(name, 0) for name in names}
    if as_json:
        print_json(partitions)
        return
    for name, count in partitions.items():
        typer.echo(f"{name:<56} {f'{count} partitions' if count else 'missing'}")
