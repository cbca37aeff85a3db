"""`headrace produce`: a file of events, validated and produced with every delivery checked."""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress

    from processors._tabular import Row
    from schemas.codec import Codec
    from schemas.envelope import Message, Reject
    from schemas.topics import TopicType

app = typer.Typer(add_completion=False)

_AT_ONCE = 1000
# So many invalid rows are shown one by one; the rest is counted.
_SHOWN = 20


@app.command()
def produce(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose input topic takes the events.")],
    file: Annotated[
        Path, typer.Argument(help="JSON lines, CSV (also .gz) or Parquet.", exists=True, dir_okay=False, readable=True)
    ],
    preset: Annotated[str, typer.Option("--preset", help="A built-in mapping of columns, by name.")] = "",
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="A mapping file of your own (TOML).", exists=True, dir_okay=False)
    ] = None,
    topic: Annotated[str, typer.Option("--topic", help="Another input topic of the domain.")] = "",
    rate: Annotated[float, typer.Option("--rate", min=0, help="Events per second; 0 is as fast as it goes.")] = 0.0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many rows of the file.")] = None,
    send_invalid: Annotated[
        bool, typer.Option("--send-invalid", help="Produce invalid rows too, to see their dead letters.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end, and no progress bar.")] = False,
) -> None:
    """Validate a file of events and produce them to the domain's input topic.

    Invalid rows are shown with line and field, and left out. Every delivery is checked; an event's partition is the
    murmur2 hash of its key, as Java's producers do it. Makes the topic where it is missing.

    Example: `headrace produce fraud transactions.jsonl --rate 500`
    """
    from schemas.codec import codec_for
    from streams.cli._domain import input_topic, read_file, rows_in
    from streams.clients import Writer
    from streams.local.connection import kafka_config
    from streams.local.topics import TopicSpec, ensure_topics

    if preset and mapping:
        msg = "--preset and --mapping exclude each other"
        raise typer.BadParameter(msg)
    settings = settings_of(context)
    config = kafka_config(settings)
    into = input_topic(domain, topic)
    codec = codec_for(into.name, into.message, settings.topics.get(into.name), settings.registry)
    form = settings.topics.get(into.name)
    rows = islice(read_file(domain, into, file, preset, mapping), limit)
    ensure_topics(config, {into.name: TopicSpec(settings.kafka.partitions, {}, settings.kafka.replication)})
    invalid: Counter[str] = Counter()
    word = "row" if file.name.removesuffix(".gz").endswith((".csv", ".parquet")) else "line"
    raw = form is None or form.format == "json"
    with _progress(as_json) as progress, Writer(config) as writer:
        task = progress.add_task(into.name, total=min(filter(None, (rows_in(file), limit)), default=None))
        pace = _Pace(rate)
        for message in _messages(rows, into, codec, _Invalid(invalid, word), raw=raw, keep=send_invalid):
            pace.wait()
            writer.send(message)
            if pace.sent % _AT_ONCE == 0 or rate:
                progress.update(task, completed=writer.delivered)
        writer.finish()
        progress.update(task, completed=writer.delivered)
    _summary(into.name, writer.delivered, invalid, sent_invalid=send_invalid, as_json=as_json)


def _messages(
    rows: Iterator[Row], into: TopicType, codec: Codec[Any], invalid: _Invalid, *, raw: bool, keep: bool
) -> Iterator[Message]:
    """The messages of the rows in their order; counts and shows those that are invalid."""
    from schemas.envelope import Message, Record

    first = 1
    now_ms = time.time_ns() // 1_000_000
    while block := list(islice(rows, _AT_ONCE)):
        records = [Record(into.name, 0, first + i, row.key, row.value, now_ms) for i, row in enumerate(block)]
        events, valid, rejects = codec.decode_records(records)
        encoded = iter([record.value for record in valid] if raw else codec.encode(events))
        refused = {reject.record.offset: reject for reject in rejects}
        for record in records:
            reject = refused.get(record.offset)
            if reject is not None:
                invalid.add(reject)
            if reject is None or keep:
                yield Message(into.name, record.key, record.value if reject else next(encoded))
        first += len(block)


class _Invalid:
    """Counts invalid rows by reason, and shows the first ones."""

    def __init__(self, reasons: Counter[str], word: str) -> None:
        self._reasons = reasons
        self._word = word

    def add(self, reject: Reject) -> None:
        self._reasons[reject.reason] += 1
        if self._reasons.total() <= _SHOWN:
            where = f" {reject.path}" if reject.path else ""
            typer.echo(f"{self._word} {reject.record.offset}: {reject.reason}{where}: {reject.detail}", err=True)
        elif self._reasons.total() == _SHOWN + 1:
            typer.echo("more invalid rows are counted, not shown", err=True)


class _Pace:
    """Waits so that events leave at a rate; what was late is caught up, so the average holds."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self.sent = 0

    def wait(self) -> None:
        if self._rate:
            ahead = self._began + self.sent / self._rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
        self.sent += 1


def _progress(quiet: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )


def _summary(topic: str, delivered: int, invalid: Counter[str], *, sent_invalid: bool, as_json: bool) -> None:
    if as_json:
        print_json({"topic": topic, "delivered": delivered, "invalid": invalid, "sent_invalid": sent_invalid})
        return
    typer.echo(f"{topic}: {delivered} delivered")
    for why, count in invalid.most_common():
        typer.echo(f"{count:>8}  {'sent although' if sent_invalid else 'left out:'} {why}")
