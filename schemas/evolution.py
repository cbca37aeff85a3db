"""How a message may change: what differs between two of its JSON Schemas, and whom that breaks.

Three promises can break, and a topic's direction says which of them count:

- new readers read old messages: what lies on the topic when headrace is upgraded, and what senders still send;
- old readers read new messages: subscribers, and workers not upgraded yet;
- field numbers stay: only Protobuf writes them, in the order of declaration.

Senders write input topics, so there the first counts. Output, internal and dead-letter topics are read by others and
by headrace itself, so there the first two do. The third counts where the topic is Protobuf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from schemas._accepts import Schema, accepts, members

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Change", "describe", "diff"]


class Change(msgspec.Struct, frozen=True):
    """One difference between two schemas of a message."""

    path: str
    """The field, such as `$.reasons[].feature`."""
    what: str
    """One sentence."""
    new_reads_old: bool = True
    old_reads_new: bool = True
    keeps_numbers: bool = True

    def breaks(self, direction: str, format_: str = "json") -> bool:
        """Whether the change breaks somebody on a topic of that direction and format."""
        if format_ == "protobuf" and not self.keeps_numbers:
            return True
        return not self.new_reads_old or (direction != "input" and not self.old_reads_new)


def diff(old: Schema, new: Schema) -> list[Change]:
    """Every difference that matters to who writes or reads, in the order of the fields; empty where there is none."""
    return list(_differences("$", old, old, new, new))


def describe(schema: Schema, root: Schema) -> str:
    """A schema in a few words, such as `string (length 1 to 256) or null`."""
    return " or ".join(dict.fromkeys(_describe_member(member, root) for member in members(schema, root)))


def _differences(path: str, old: Schema, old_root: Schema, new: Schema, new_root: Schema) -> Iterator[Change]:
    """Descends as long as both sides have one shape, so that a change is reported where it lies."""
    before, after = _without_null(old, old_root), _without_null(new, new_root)
    same_nulls = _takes_null(old, old_root) == _takes_null(new, new_root)
    if before is not None and after is not None and same_nulls:
        for word, step in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(before.get(word), dict) and isinstance(after.get(word), dict):
                yield from _differences(path + step, before[word], old_root, after[word], new_root)
                before, after = {**before, word: None}, {**after, word: None}
        if "properties" in before and "properties" in after:
            yield from _record_differences(path, before, old_root, after, new_root)
            before, after = _without_fields(before), _without_fields(after)
        old, new = before, after
    yield from _type_difference(path, old, old_root, new, new_root)


def _type_difference(path: str, old: Schema, old_root: Schema, new: Schema, new_root: Schema) -> Iterator[Change]:
    new_reads_old, old_reads_new = accepts(new, new_root, old, old_root), accepts(old, old_root, new, new_root)
    if new_reads_old and old_reads_new:
        return
    word = "takes more" if new_reads_old else "takes less" if old_reads_new else "has another type"
    sentence = f"{word}: was {describe(old, old_root)}, is {describe(new, new_root)}"
    yield Change(path, sentence, new_reads_old, old_reads_new)


def _record_differences(path: str, old: Schema, old_root: Schema, new: Schema, new_root: Schema) -> Iterator[Change]:
    before, after = old["properties"], new["properties"]
    needed, needs = set(old.get("required", ())), set(new.get("required", ()))
    numbers, moved_to = {name: n for n, name in enumerate(before, 1)}, {name: n for n, name in enumerate(after, 1)}
    for name in before:
        where = f"{path}.{name}"
        if name not in after:
            was = "required" if name in needed else "optional"
            yield Change(where, f"is gone, was {was}", old_reads_new=name not in needed)
            continue
        if name in needs and name not in needed:
            yield Change(where, "is required now, was optional", new_reads_old=False)
        if name in needed and name not in needs:
            yield Change(where, "is optional now, was required", old_reads_new=False)
        yield from _differences(where, before[name], old_root, after[name], new_root)
        if _default(before[name]) != _default(after[name]) and name not in needs | needed:
            yield Change(where, f"has another default: was {_default(before[name])}, is {_default(after[name])}")
        if numbers[name] != moved_to[name]:
            yield Change(where, f"moved from number {numbers[name]} to {moved_to[name]}", keeps_numbers=False)
    for name in after:
        if name not in before:
            free = moved_to[name] > len(before)
            what = "is new and required" if name in needs else "is new and optional"
            yield Change(f"{path}.{name}", what, new_reads_old=name not in needs, keeps_numbers=free)


def _default(schema: Schema) -> Any:
    return msgspec.json.encode(schema.get("default")).decode()


def _without_null(schema: Schema, root: Schema) -> Schema | None:
    """The one member of a schema besides null; None where there are more."""
    others = [member for member in members(schema, root) if member.get("type") != "null"]
    return others[0] if len(others) == 1 else None


def _takes_null(schema: Schema, root: Schema) -> bool:
    return any(member.get("type") == "null" for member in members(schema, root))


def _without_fields(record: Schema) -> Schema:
    return {**record, "properties": {}, "required": []}


def _describe_member(schema: Schema, root: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {describe(schema.get('items') or {}, root)}"
    if kind == "object":
        if "properties" in schema:
            return str(schema.get("title", "object"))
        return f"map of {describe(schema.get('additionalProperties') or {}, root)}"
    bounds = _describe_bounds(schema)
    return f"{kind} ({bounds})" if bounds else kind


def _describe_bounds(schema: Schema) -> str:
    signs = {
        "minLength": "length >=",
        "maxLength": "length <=",
        "minimum": ">=",
        "maximum": "<=",
        "exclusiveMinimum": ">",
        "exclusiveMaximum": "<",
        "pattern": "like",
        "format": "a",
        "multipleOf": "a multiple of",
    }
    # The whole range of 64 bits is no bound that anybody needs to read.
    said = [
        f"{sign} {schema[word]}" for word, sign in signs.items() if word in schema and _is_worth_telling(schema[word])
    ]
    return ", ".join(said)


def _is_worth_telling(bound: Any) -> bool:
    """Whether a bound is worth telling."""
    return not isinstance(bound, int) or abs(bound) < 2**63 - 1
