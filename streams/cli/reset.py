"""`headrace reset`: lets a domain's workers go on elsewhere, with or without what they remember."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.cli._moves import Move, Target

app = typer.Typer(add_completion=False)

_WIDTH = 14


@app.command()
def reset(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain whose workers shall go on elsewhere.")],
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[PARTITION=]WHERE",
            help="earliest, latest, a time (2026-01-31T12:00:00Z), or an offset of one partition (3=1200); repeatable.",
        ),
    ] = None,
    state: Annotated[bool, typer.Option("--state", help="Drop the keyed state of these partitions too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object; asks nothing, so it needs --yes.")] = False,
) -> None:
    """Let the workers of a domain go on elsewhere: move their consumer group, and drop their keyed state if asked to.

    Says first what that means for each partition. All workers of the group must have ended. Offsets and state change
    in one Kafka transaction, so both do or neither. Without --to the offsets stay as they are.

    Example: `headrace reset fraud --to earliest --state --dry-run`
    """
    from streams.cli._domain import input_topic
    from streams.cli._moves import moves, parse_target
    from streams.groups import Group, state_keys
    from streams.local.connection import kafka_config
    from streams.rights import reset_identity
    from streams.running import changelog_of, group_of

    targets = _targets(to or [], parse_target)
    if not targets and not state:
        msg = "say where to go on with --to, or --state to drop the keyed state"
        raise typer.BadParameter(msg, param_hint="--to")
    settings = settings_of(context)
    config, changelog = kafka_config(settings), changelog_of(settings, domain)
    with Group(config, group_of(settings, domain), input_topic(domain).name) as group:
        try:
            found = moves(group.places(), targets, group.offsets_at)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--to") from error
        keys = state_keys(config, changelog, [move.partition for move in found]) if state else {}
        found = [msgspec.structs.replace(move, state_entries=_count(keys, move.partition)) for move in found]
        told = {"domain": domain, "group": group.name, "topic": group.topic, "changelog": changelog}
        if not as_json:
            _show(told, found, domain)
        if not dry_run:
            group.require_nobody()
        done = not dry_run and (yes or _confirmed(as_json=as_json))
        if done:
            offsets = {move.partition: move.to for move in found if move.to is not None}
            group.move(offsets, reset_identity(settings, domain), changelog, keys)
    _end(told, found, domain, done=done, dry_run=dry_run, as_json=as_json)
    if not (done or dry_run):
        raise typer.Exit(1)


def _targets(texts: Sequence[str], parse: Any) -> list[Target]:
    try:
        return [parse(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from error


def _count(keys: Mapping[int, Sequence[bytes]], partition: int) -> int | None:
    return len(keys[partition]) if partition in keys else None


def _confirmed(*, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        return False
    return typer.confirm("Do this?", err=True)


def _show(told: Mapping[str, str], found: Sequence[Move], domain: str) -> None:
    typer.echo(f"group {told['group']} on {told['topic']}; the counts are offsets, so events are as many at most")
    heads = ["partition", "has", "committed", "to", "again", "passed over", "gone", "state entries"]
    typer.echo("".join(f"{head:>{_WIDTH}}" for head in heads))
    for move in found:
        cells = [
            str(move.partition),
            f"{move.begin}..{move.end}",
            _text(move.committed, "none"),
            _text(move.to, "none"),
            _text(move.again, "unknown"),
            str(move.passed_over),
            str(move.gone),
            _text(move.state_entries, "kept"),
        ]
        typer.echo("".join(f"{cell:>{_WIDTH}}" for cell in cells))
    for note in _notes(found, domain):
        typer.echo(note)


def _text(value: int | None, instead: str) -> str:
    return instead if value is None else str(value)


def _notes(found: Sequence[Move], domain: str) -> list[str]:
    """What follows from it, for whoever did not think of it."""
    from schemas.topics import domains

    again = any(move.again != 0 for move in found)
    state = any(move.state_entries is not None for move in found)
    notes = []
    if again:
        results = [topic for topic in domains()[domain] if topic.direction == "output"]
        tables = [topic.table.name for topic in results if topic.table is not None]
        names = ", ".join(topic.name for topic in results)
        where = f", and a second row in {', '.join(tables)} (the newer one has the greater _offset)" if tables else ""
        notes.append(f"What is answered again has a second result on {names}{where}.")
    if again and not state:
        notes.append(
            "The keyed state has taken in what is answered again: it counts twice, or is refused as sent twice. "
            "--state begins without it."
        )
    if state:
        notes.append("Keyed state is made anew of the events read from then on: it knows of none before.")
    return notes


def _end(
    told: Mapping[str, str], found: Sequence[Move], domain: str, *, done: bool, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        lines = [
            {**msgspec.structs.asdict(move), "again": move.again, "passed_over": move.passed_over, "gone": move.gone}
            for move in found
        ]
        print_json({**told, "done": done, "dry_run": dry_run, "partitions": lines, "notes": _notes(found, domain)})
        return
    if done:
        typer.echo("done; the next worker goes on there")
    elif dry_run:
        typer.echo("nothing was changed")
    else:
        typer.echo("nothing was changed: give --yes, or answer yes on a terminal", err=True)
