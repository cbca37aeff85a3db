"""`headrace acls`: what each process may do in Kafka, as lines of Kafka's own tool, and whether this user may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from streams.rights import Right

app = typer.Typer(add_completion=False)


@app.command()
def acls(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose topics are meant.")],
    processes: Annotated[
        list[str] | None, typer.Option("--process", "-p", help="Only this process; repeatable.")
    ] = None,
    principals: Annotated[
        list[str] | None,
        typer.Option("--principal", metavar="PROCESS=NAME", help="Who runs a process; else User:headrace-PROCESS."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask Kafka whether this user has the rights of the processes named.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per right.")] = False,
) -> None:
    """Print the least that each process must be allowed in Kafka, as lines for kafka-acls.sh.

    Topics, groups and transactional ids are those that the settings give. Topics are made by whoever has the rights of
    `topics`; nobody else makes any. With --check, exits with 1 where this user lacks one.

    Example: `headrace acls fraud --process worker --principal worker=User:scorer`
    """
    from streams.rights import command, rights

    settings = settings_of(context)
    found = rights(settings, domain)
    chosen = processes or list(found)
    if unknown := sorted(set(chosen) - set(found)):
        msg = f"{domain} has no {', '.join(unknown)}; there are {', '.join(found)}"
        raise typer.BadParameter(msg, param_hint="--process")
    if check:
        _check(context, [right for process, wanted in found.items() if process in chosen for right in wanted])
        return
    names = _principals(principals or [], list(found))
    bootstrap = settings.kafka.bootstrap or "localhost:9092"
    for process, wanted in found.items():
        if process not in chosen:
            continue
        if not as_json:
            typer.echo(f"# {process}")
        for right in wanted:
            if as_json:
                print_json({"process": process, "principal": names[process], **right._asdict()})
            else:
                typer.echo(command(right, names[process], bootstrap))


def _check(context: typer.Context, wanted: list[Right]) -> None:
    from streams.local.allowed import missing_rights
    from streams.local.connection import kafka_config

    missing = missing_rights(kafka_config(settings_of(context)), wanted)
    for right in missing:
        typer.echo(f"missing: {right} ({right.why})")
    if missing:
        raise typer.Exit(1)
    asked = sum(right.resource != "transactional-id" for right in wanted)
    typer.echo(f"all {asked} rights are there; of transactional ids Kafka does not tell")


def _principals(assignments: list[str], processes: list[str]) -> dict[str, str]:
    names = {process: f"User:headrace-{process}" for process in processes}
    for assignment in assignments:
        process, equals, name = assignment.partition("=")
        if not equals or process not in names or not name:
            msg = f"{assignment!r} is no PROCESS=NAME, such as worker=User:scorer; processes are {', '.join(names)}"
            raise typer.BadParameter(msg, param_hint="--principal")
        names[process] = name
    return names
