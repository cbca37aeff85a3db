"""`headrace dlq`: dead letters, looked at and sent back."""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from streams.cli._letters import Letter

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="""List, show and retry dead letters.

Example: `headrace dlq list fraud`""",
)

# A retry's memory is one string per transaction and partition; so many letters fill about a second.
_PER_TRANSACTION = 10_000

Name = Annotated[str, typer.Argument(metavar="DOMAIN", help="A domain, or the name of its topic of dead letters.")]


@app.command("list")
def list_(
    context: typer.Context,
    name: Name,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="How many of the last ones to show.")] = 10,
    reason: Annotated[str | None, typer.Option("--reason", help="Only those of this reason.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: counts by reason, the last ones.")] = False,
) -> None:
    """Count dead letters by reason and show the last ones.

    Example: `headrace dlq list fraud --reason invalid_json`
    """
    from streams.cli._letters import topic_of, walk
    from streams.local.connection import kafka_config

    topic = topic_of(name)
    reasons: Counter[str] = Counter()
    tail: deque[Letter] = deque(maxlen=last)
    for letter in walk(kafka_config(settings_of(context)), topic):
        why = letter.dead.reason if letter.dead else "not_a_dead_letter"
        if reason is None or why == reason:
            reasons[why] += 1
            tail.append(letter)
    shown = sorted(tail, key=lambda letter: letter.record.timestamp_ms)
    if as_json:
        print_json({"topic": topic, "total": reasons.total(), "reasons": reasons, "last": [_line(a) for a in shown]})
        return
    typer.echo(f"{topic}: {reasons.total()} dead letters")
    for why, count in reasons.most_common():
        typer.echo(f"{count:>8}  {why}")
    for letter in shown:
        line = _line(letter)
        typer.echo(f"{line['at']:<10} {line['rejected_at']}  {line['reason']} {line['path']}  from {line['from']}")


@app.command()
def show(
    context: typer.Context,
    name: Name,
    place: Annotated[
        str,
        typer.Argument(help="PARTITION/OFFSET of the dead letter, or TOPIC/PARTITION/OFFSET of the original."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show one dead letter: why, where it came from, headers, and the original bytes.

    Example: `headrace dlq show fraud 0/12`
    """
    from streams.cli._letters import topic_of, walk
    from streams.local.connection import kafka_config

    topic = topic_of(name)
    source, partition, offset = _coordinates(place)
    config = kafka_config(settings_of(context))
    if source in (None, topic):
        found = next(walk(config, topic, partition, offset), None)
        found = found if found is not None and found.record.offset == offset else None
    else:
        wanted = (source, partition, offset)
        letters = (letter for letter in walk(config, topic) if letter.dead)
        found = next(
            (a for a in letters if (a.original.topic, a.original.partition, a.original.offset) == wanted), None
        )
    if found is None:
        typer.echo(f"no dead letter at {place} of {topic}", err=True)
        raise typer.Exit(1)
    whole = _whole(found)
    if as_json:
        print_json(whole)
        return
    for key, value in whole.items():
        typer.echo(f"{key:<13} {value}")


@app.command()
def retry(
    context: typer.Context,
    name: Name,
    reason: Annotated[list[str] | None, typer.Option("--reason", help="Only those of this reason; repeatable.")] = None,
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="Only those of this partition.")] = None,
    offsets: Annotated[str, typer.Option("--offsets", help="Only these offsets: 7, 7-9, 7- or a list of them.")] = "",
    max_retries: Annotated[int, typer.Option("--max-retries", min=1, help="Leave out what was retried so often.")] = 3,
    again: Annotated[bool, typer.Option("--again", help="Also those that were retried before.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: how many were sent and left out.")] = False,
) -> None:
    """Send the original messages of dead letters back to the topic they came from.

    Bytes, key and headers are the original's; the header headrace-retries counts. What was sent is remembered in the
    same Kafka transaction (as offsets of the group headrace-retry-TOPIC), so nothing is sent twice.

    Example: `headrace dlq retry fraud --reason model_error --dry-run`
    """
    from streams.cli._letters import Choice, Retrying, topic_of
    from streams.cli._ranges import parse_ranges
    from streams.local.connection import kafka_config

    topic = topic_of(name)
    config = kafka_config(settings_of(context))
    try:
        ranges = parse_ranges(offsets)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--offsets") from error
    choice = Choice(frozenset(reason or ()), partition, ranges, max_retries, again)
    sent: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    with Retrying(config, topic) as retrying:
        chosen = islice(retrying.choose(choice, left_out), limit)
        while block := list(islice(chosen, _PER_TRANSACTION)):
            if not dry_run:
                retrying.retry(block)
            sent.update(letter.dead.reason for letter in block if letter.dead)
    _say_retried(topic, sent, left_out, dry_run=dry_run, as_json=as_json)


def _say_retried(topic: str, sent: Counter[str], left_out: Counter[str], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"topic": topic, "dry_run": dry_run, "sent": sent.total(), "reasons": sent, "left_out": left_out})
        return
    typer.echo(f"{topic}: {'would send' if dry_run else 'sent'} {sent.total()}")
    for why, count in sent.most_common():
        typer.echo(f"{count:>8}  {why}")
    for why, count in left_out.most_common():
        typer.echo(f"{count:>8}  left out: {why}")


def _coordinates(place: str) -> tuple[str | None, int, int]:
    parts = place.rsplit("/", 2)
    try:
        return (parts[0] if len(parts) == 3 else None), int(parts[-2]), int(parts[-1])
    except (IndexError, ValueError):
        msg = f"{place!r} is no PARTITION/OFFSET, such as 0/12, and no TOPIC/PARTITION/OFFSET"
        raise typer.BadParameter(msg) from None


def _line(letter: Letter) -> dict[str, Any]:
    """A dead letter in short."""
    from streams.cli._decoding import when

    dead = letter.dead
    return {
        "at": f"{letter.record.partition}/{letter.record.offset}",
        "rejected_at": when(dead.rejected_at if dead else letter.record.timestamp_ms),
        "reason": dead.reason if dead else "not_a_dead_letter",
        "path": dead.path if dead else "",
        "from": f"{dead.topic}/{dead.partition}/{dead.offset}" if dead else "",
    }


def _whole(letter: Letter) -> dict[str, Any]:
    """A dead letter with everything that is known of it."""
    from streams.cli._decoding import text, when
    from streams.cli._letters import retries_of

    original = letter.original
    value = original.value
    return {
        **_line(letter),
        "detail": letter.dead.detail if letter.dead else "",
        "written_at": when(original.timestamp_ms),
        "retries": retries_of(original),
        "key": text(original.key),
        "headers": {name: text(item) for name, item in original.headers},
        "size": len(value or b""),
        "omitted": letter.dead.omitted if letter.dead else 0,
        "value": value.decode("utf-8", "backslashreplace") if value is not None else None,
        "hex": value.hex() if value is not None else None,
    }
