"""`headrace broker`: the embedded Kafka broker in the foreground."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import Annotated

import typer

from streams.cli._context import settings_of

app = typer.Typer(add_completion=False)

_POLL_S = 0.2


@app.command()
def broker(
    context: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes the last one again, or a free one.")
    ] = 0,
    heap: Annotated[str, typer.Option(help="Most memory of the JVM's heap, such as 512m or 2g.")] = "512m",
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="KEY=VALUE",
            help="A setting of Kafka's own, instead of or besides ours; {port} stands for the port.",
        ),
    ] = None,
) -> None:
    """Run a real Kafka broker on this machine until Ctrl-C.

    Topics are kept in the data directory. Prints its bootstrap address when it answers. The first run fetches
    Kafka's jars (45 MB) and checks each against its pinned sha256.

    Example: `headrace --data .headrace broker --port 9092`
    """
    from streams.local import endpoints
    from streams.local.broker import Broker, BrokerError

    stop = threading.Event()
    data = settings_of(context).data
    own = dict(_property(text) for text in properties or [])
    with Broker.start(data, port, heap=heap, progress=partial(typer.echo, err=True), properties=own) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        endpoints.publish(data, "kafka", running.bootstrap, pid=running.pid)
        typer.echo(running.bootstrap)
        while running.alive() and not stop.wait(_POLL_S):
            pass
        endpoints.withdraw(data, "kafka", pid=running.pid)
        if not stop.is_set():
            raise BrokerError(f"the broker died; its log is {running.log}")


def _property(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        message = f"{text!r} is no KEY=VALUE, such as log.retention.hours=24"
        raise typer.BadParameter(message, param_hint="--property")
    return name.strip(), value
