"""`headrace consume`: the messages of a topic, decoded."""

from __future__ import annotations

from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from schemas.envelope import Record
    from streams.cli._decoding import Decoded

app = typer.Typer(add_completion=False)


class Start(StrEnum):
    """Where reading begins."""

    beginning = "beginning"
    end = "end"


@app.command()
def consume(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="The topic to read.")],
    start: Annotated[
        Start, typer.Option("--from", help="Where to begin; `end` waits for new messages.")
    ] = Start.beginning,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after so many messages.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new messages at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per message, with its coordinates.")] = False,
) -> None:
    """Print the decoded messages of a topic.

    Reads what is committed, by the topic's schema where it has one, and moves nobody's offsets. The order is each
    partition's own.

    Example: `headrace consume fraud-scores --from end --json`
    """
    from streams.cli._decoding import decoder_for
    from streams.clients import Reader
    from streams.local.connection import kafka_config

    settings = settings_of(context)
    with Reader(kafka_config(settings), topic, start.value) as reader:
        decode = decoder_for(topic, settings)
        waits = follow or start is Start.end
        for record in islice(reader.records(follow=waits), count):
            print_message(record, decode(record), as_json=as_json)


def print_message(record: Record, decoded: Decoded, *, as_json: bool) -> None:
    """Prints one message in one line."""
    from streams.cli._decoding import text, when

    if as_json:
        line: dict[str, Any] = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": when(record.timestamp_ms),
            "key": text(record.key),
            "value": decoded.value,
        }
        if record.headers:
            line["headers"] = [[name, text(value)] for name, value in record.headers]
        if decoded.problem:
            line["problem"] = decoded.problem
        print_json(line)
        return
    import orjson

    key = text(record.key) or "-"
    problem = f"  ! {decoded.problem}" if decoded.problem else ""
    value = orjson.dumps(decoded.value).decode()
    typer.echo(f"{record.partition}/{record.offset}  {when(record.timestamp_ms)}  {key}  {value}{problem}")
