"""`headrace try`: a file through a domain's processor, without Kafka."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli._context import settings_of
from streams.cli._output import write_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from processors._tabular import Row
    from schemas.envelope import Record
    from streams.inference import Outcome

app = typer.Typer(add_completion=False)


@app.command("try")
def try_(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose processor answers.")],
    file: Annotated[
        Path, typer.Argument(help="JSON lines, CSV (also .gz) or Parquet.", exists=True, dir_okay=False, readable=True)
    ],
    preset: Annotated[str, typer.Option("--preset", help="A built-in mapping of columns, by name.")] = "",
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="A mapping file of your own (TOML).", exists=True, dir_okay=False)
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many rows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, which is what it prints anyway.")] = False,
) -> None:
    """Run a file through a processor without Kafka: one JSON line per input, in its order.

    Each line is the result, or {"dead_letter": {"reason": …, "path": …}}. Keyed state begins empty and global tables
    stay so. The loop for whoever writes a processor or checks a model.

    Example: `headrace try fraud transactions.csv | head`
    """
    del as_json
    if preset and mapping:
        msg = "--preset and --mapping exclude each other"
        raise typer.BadParameter(msg)
    from schemas.codec import codec_for
    from streams.cli._domain import input_topic, read_file
    from streams.inference import infer_all
    from streams.loading import open_domain
    from streams.observe import logs
    from streams.settings import LogSettings, secrets_of

    into = input_topic(domain)
    rows = islice(read_file(domain, into, file, preset, mapping), limit)
    settings = settings_of(context)
    logs.configure(LogSettings("warning", settings.log.format), secrets=secrets_of(settings))
    opened = open_domain(settings, domain, codecs=codec_for)
    for outcome in infer_all(opened.processor, opened.session, _records(rows, into.name), _now_ms):
        write_line(_line(outcome))


def _records(rows: Iterable[Row], topic: str) -> Iterator[Record]:
    """The rows as Kafka would have carried them: one partition, written now."""
    from schemas.envelope import Record

    for offset, row in enumerate(rows):
        yield Record(topic, 0, offset, row.key, row.value, _now_ms())


def _line(outcome: Outcome) -> bytes:
    """One line of JSON, whatever became of the record."""
    import orjson

    from schemas.envelope import Reject

    _record, answer = outcome
    if isinstance(answer, Reject):
        return orjson.dumps({"dead_letter": {"reason": answer.reason, "path": answer.path}})
    value = answer.value or b"null"
    return value.replace(b"\n", b" ") if b"\n" in value else value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
