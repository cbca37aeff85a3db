"""`headrace schema`: what lies on each topic, documents made of it, and what a change of it breaks."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from streams.cli._context import settings_of
from streams.cli._install import version
from streams.cli._output import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.evolution import Change
    from schemas.topics import TopicType

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show, export and compare message schemas.")


class Document(StrEnum):
    """What the Structs can be exported as."""

    JSONSCHEMA = "jsonschema"
    ASYNCAPI = "asyncapi"
    CLICKHOUSE = "clickhouse"
    AVRO = "avro"
    PROTOBUF = "protobuf"


class Wire(StrEnum):
    """How a topic's values are written."""

    JSON = "json"
    AVRO = "avro"
    PROTOBUF = "protobuf"


@app.command()
def show(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="All topics where none is named.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Schema instead of a table.")] = False,
) -> None:
    """Show the topics, or the fields of one topic's messages.

    Example: `headrace schema show` and then one of the names it lists
    """
    from schemas.jsonschema import message_schema
    from schemas.topics import topics

    if topic is None:
        chosen = list(topics().values())
        if as_json:
            print_json({declared.name: message_schema(declared) for declared in chosen})
        else:
            _print_topics(chosen)
    elif as_json:
        print_json(message_schema(_find(topic)))
    else:
        _print_fields(_find(topic))


@app.command()
def export(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Where to write; standard output where it is left out.")
    ] = None,
    format_: Annotated[Document | None, typer.Option("--format", "-f", help="One format; all where left out.")] = None,
) -> None:
    """Write JSON Schema, AsyncAPI, ClickHouse DDL, Avro and Protobuf, all made from the same types.

    Example: `headrace schema export schemas-1.2/` or `headrace schema export --format asyncapi`
    """
    from schemas._export import FORMATS, Target

    if directory is None and format_ is None:
        raise typer.BadParameter("Name a directory to write to, or one --format to print.", param_hint="DIR")
    settings = settings_of(context)
    target = Target(version(), settings.clickhouse.database, settings.store.ttl_days)
    files: dict[str, str] = {}
    for name in [format_.value] if format_ else list(FORMATS):
        files |= FORMATS[name](target)
    if directory is None:
        sys.stdout.write("\n".join(files.values()))
        return
    for place, text in files.items():
        path = directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")


@app.command("diff")
def diff_(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="An exported JSON Schema, or a directory of them.")],
    new: Annotated[
        Path | None, typer.Argument(metavar="NEW", help="The same of a newer version; these types where left out.")
    ] = None,
    wire: Annotated[Wire, typer.Option("--format", "-f", help="How the topics are written.")] = Wire.JSON,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Compare exported schemas with newer ones; exit code 1 where a change breaks a reader or a sender.

    Example: `headrace schema diff schemas-1.1/` or `headrace schema diff old/orders.json new/orders.json`
    """
    from schemas.evolution import diff
    from schemas.jsonschema import DIRECTION

    before, after = _read_schemas(old), _read_schemas(new) if new else _own_schemas()
    if old.is_file():
        after = _counterpart(before, after)
    found: list[tuple[str, Change, bool]] = []
    missing = [name for name in before if name not in after]
    for name in before:
        if name in after:
            direction = after[name].get(DIRECTION) or before[name].get(DIRECTION) or "internal"
            changes = diff(before[name], after[name])
            found += [(name, change, change.breaks(direction, wire.value)) for change in changes]
    broken = bool(missing) or any(breaks for _, _, breaks in found)
    added = [name for name in after if name not in before]
    if as_json:
        changes_json = [{"topic": name, **msgspec.to_builtins(c), "breaks": b} for name, c, b in found]
        print_json({"breaks": broken, "changes": changes_json, "topics_gone": missing, "topics_new": added})
    else:
        _print_changes(found, missing, added)
    if broken:
        raise typer.Exit(1)


def _find(topic: str) -> TopicType:
    from schemas.topics import find_topic

    try:
        return find_topic(topic)
    except KeyError as error:
        raise typer.BadParameter(error.args[0], param_hint="TOPIC") from None


def _own_schemas() -> dict[str, dict[str, Any]]:
    from schemas.jsonschema import message_schema
    from schemas.topics import topics

    return {name: message_schema(topic) for name, topic in topics().items()}


def _read_schemas(place: Path) -> dict[str, dict[str, Any]]:
    """Schemas by topic: of a file, or of a directory as `schema export` writes it."""
    if place.is_dir():
        inner = place / "jsonschema"
        paths = sorted((inner if inner.is_dir() else place).glob("*.json"))
        paths = [path for path in paths if path.name != "asyncapi.json"]
        if not paths:
            raise typer.BadParameter(f"{place} holds no JSON Schemas; make some with `headrace schema export {place}`.")
    elif place.is_file():
        paths = [place]
    else:
        raise typer.BadParameter(f"{place} does not exist.")
    return {path.stem: _read_schema(path) for path in paths}


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        schema = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"{path} is no JSON document: {error}.") from None
    if not isinstance(schema, dict) or not {"$ref", "type", "anyOf"} & schema.keys():
        raise typer.BadParameter(f"{path} is no JSON Schema of a message; make one with `headrace schema export`.")
    return schema


def _counterpart(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a single file is compared with: the only schema there is, or the one of the same topic."""
    ((name, schema),) = before.items()
    if len(after) == 1:
        return {name: next(iter(after.values()))}
    same = [other for other in after.values() if other.get("$id") == schema.get("$id") and "$id" in schema]
    return {name: same[0]} if same else {name: after[name]} if name in after else {}


def _print_topics(topics: list[TopicType]) -> None:
    rows = [
        (topic.name, topic.direction, topic.key, topic.table.name if topic.table else "-", topic.description)
        for topic in topics
    ]
    _print_table(("topic", "direction", "key", "table", "what"), rows)


def _print_fields(topic: TopicType) -> None:
    from schemas._docs import summary
    from schemas.evolution import describe
    from schemas.jsonschema import message_schema

    root = message_schema(topic)
    record = root["$defs"][root["$ref"].rpartition("/")[2]] if "$ref" in root else root
    compacted = ", compacted" if topic.compacted else ""
    table = f"\nkept in ClickHouse as {topic.table.name}" if topic.table else ""
    sys.stdout.write(f"{summary(topic.message)}\n{topic.direction}{compacted}, key: {topic.key}{table}\n\n")
    required = set(record.get("required", ()))
    rows = [
        (name, describe(field, root), "required" if name in required else "optional", field.get("description", ""))
        for name, field in record["properties"].items()
    ]
    _print_table(("header" if topic.direction == "dead-letter" else "field", "type", "", "what"), rows)


def _print_changes(found: list[tuple[str, Change, bool]], missing: list[str], added: list[str]) -> None:
    for name in missing:
        sys.stdout.write(f"BREAKS  {name}: the topic is gone\n")
    for name in added:
        sys.stdout.write(f"fine    {name}: the topic is new\n")
    for name, change, breaks in found:
        mark = "BREAKS" if breaks else "fine  "
        sys.stdout.write(f"{mark}  {name} {change.path} {change.what}{_whom(change)}\n")
    if not (missing or added or found):
        sys.stdout.write("No difference.\n")


def _whom(change: Change) -> str:
    hurt = [
        who
        for who, fine in (
            ("new readers of old messages", change.new_reads_old),
            ("old readers of new messages", change.old_reads_new),
            ("Protobuf field numbers", change.keeps_numbers),
        )
        if not fine
    ]
    return f" [not for {', '.join(hurt)}]" if hurt else ""


def _print_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as they need to be, the last one free."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles) - 1)]
    for row in [titles, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]).rstrip() + "\n")
