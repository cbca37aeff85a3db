"""`headrace store` runs the store process; `headrace query` asks it, or the configured server, in SQL."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli._context import settings_of

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(add_completion=False)

PRETTY = "Table"


@app.command()
def store(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the endpoint; 0 takes store.port.")] = 0,
    sink: Annotated[bool, typer.Option(help="Store topics; --no-sink only answers questions.")] = True,
) -> None:
    """Run the ClickHouse store until Ctrl-C: sink, queries, HTTP endpoint.

    Topics are stored exactly once, in the embedded engine in the data directory, or in the server that
    HEADRACE_CLICKHOUSE names. Prints where questions are answered.

    Example: `headrace store --port 8123`
    """
    import msgspec

    from schemas.topics import domains
    from streams.grace import Grace
    from streams.local import endpoints
    from streams.local.allowed import require_some
    from streams.local.connection import kafka_config
    from streams.observe import logs
    from streams.rights import store_rights
    from streams.settings import secrets_of
    from streams.store.service import StoreService

    settings = settings_of(context)
    logs.configure(settings.log, process="store", secrets=secrets_of(settings))
    if port:
        settings = msgspec.structs.replace(settings, store=msgspec.structs.replace(settings.store, port=port))
    kafka = kafka_config(settings) if sink else {}
    if sink and settings.kafka.security:
        for name in require_some(kafka, {name: store_rights(settings, name) for name in domains()}, "store"):
            logging.getLogger(__name__).warning("nothing of %s is stored: this user may not read its topics", name)
    service = StoreService(settings, kafka, sinks=sink)
    with Grace(settings.store.shutdown_grace_s, service.stop, "leaving; what is not stored is read again"):
        service.start()
        endpoints.publish(settings.data, "store", service.url)
        endpoints.publish(settings.data, "clickhouse", service.clickhouse_url)
        typer.echo(service.url)
        try:
            service.wait()
        finally:
            endpoints.withdraw(settings.data, "store", "clickhouse")


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(help="One statement; - reads it from standard input.")],
    form: Annotated[
        str, typer.Option("--format", "-f", help="Table, or any of ClickHouse's: JSONEachRow, CSVWithNames, Parquet, …")
    ] = "",
    params: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="A value for {NAME:Type}.")
    ] = None,
) -> None:
    """Ask the store in SQL.

    A table on a terminal, tab-separated lines with names into a pipe. Exit code 1 where ClickHouse refuses.

    Example: `headrace query "SELECT decision, count() FROM fraud_scores GROUP BY 1"`
    """
    from streams.store.asking import ask_over_http

    settings = settings_of(context)
    url, token = _where(settings)
    text = sys.stdin.read() if sql == "-" else sql
    wanted = form or (PRETTY if sys.stdout.isatty() else "TabSeparatedWithNames")
    values = dict(_parameter(one) for one in params or [])
    table = wanted.lower() == PRETTY.lower()
    answer = ask_over_http(
        url,
        token,
        settings.clickhouse.database,
        text,
        "JSONCompact" if table else wanted,
        values,
        settings.clickhouse.ca_file,
    )
    if table and answer.format == "JSONCompact":
        _print_table(answer.body)
    else:
        sys.stdout.buffer.write(answer.body)
        sys.stdout.buffer.flush()


def _where(settings: Settings) -> tuple[str, str]:
    """Who answers questions, and the password."""
    from streams.local import endpoints
    from streams.store.client import StoreUnavailableError

    if settings.clickhouse.url:
        return settings.clickhouse.url, ""
    url = endpoints.read(settings.data).get("clickhouse")
    if url is None:
        raise StoreUnavailableError(
            f"no store runs on {settings.data}: run `headrace up` or `headrace store`, or set"
            " HEADRACE_CLICKHOUSE=https://user:password@host:8443"
        )
    return url, settings.store.admin_token or settings.store.token


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        message = f"{text!r} is no NAME=VALUE"
        raise typer.BadParameter(message, param_hint="--param")
    return name, value


def _print_table(body: bytes) -> None:
    """Columns as wide as they need be; numbers to the right."""
    import json

    from rich.console import Console
    from rich.table import Table

    answer = json.loads(body)
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in answer["meta"]:
        numeric = any(
            column["type"].removeprefix("Nullable(").startswith(kind) for kind in ("Int", "UInt", "Float", "Dec")
        )
        table.add_column(column["name"], justify="right" if numeric else "left", overflow="fold")
    for row in answer["data"]:
        table.add_row(*("" if value is None else _shown(value) for value in row))
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{answer['rows']} rows in {answer['statistics']['elapsed']:.3f} s", style="dim")


def _shown(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
