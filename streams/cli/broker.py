"""`headrace broker`: the embedded Kafka broker in the foreground."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

_POLL_S = 0.2


def broker(
    data: Annotated[
        Path, typer.Option(help="Data directory; the broker keeps its topics in DATA/kafka.", envvar="HEADRACE_DATA")
    ] = Path(".headrace"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes the last one again, or a free one.")
    ] = 0,
    heap: Annotated[str, typer.Option(help="Most memory of the JVM's heap, such as 512m or 2g.")] = "512m",
) -> None:
    """Runs a real Apache Kafka broker on this machine until Ctrl-C.

    It prints its bootstrap address when it answers. The first run fetches Kafka's jars (45 MB) and checks them.

    Example: headrace broker --data .headrace --port 9092
    """
    from streams.errors import HeadraceError
    from streams.local import endpoints
    from streams.local.broker import Broker

    # From here on: a signal during the start ends the start too, and what was started goes with this process.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        running = Broker.start(data, port, heap=heap)
    except HeadraceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    with running:
        endpoints.publish(data, "kafka", running.bootstrap, pid=running.pid)
        typer.echo(running.bootstrap)
        while running.alive() and not stop.wait(_POLL_S):
            pass
        if not stop.is_set():
            typer.echo(f"the broker died; its log is {running.log}", err=True)
            raise typer.Exit(1)
        endpoints.withdraw(data, "kafka", pid=running.pid)
