"""JSON Schema (draft 2020-12) of each topic's messages, with the sentences of the Structs as descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

from schemas._docs import field_docs
from schemas._nodes import fields_of, node_of
from schemas.dead_letter import HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.topics import TopicType

__all__ = ["components", "header_schema", "message_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

DIRECTION = "x-headrace-direction"
"""Keyword that tells `schema diff` who writes and who reads the topic; validators ignore it."""


def message_schema(topic: TopicType) -> dict[str, Any]:
    """The schema of a topic's value; of the headers where the topic holds dead letters."""
    if topic.direction == "dead-letter":
        schema = header_schema(topic.message)
    else:
        (reference,), definitions = components([topic.message], "#/$defs/{name}")
        schema = {**reference, "$defs": definitions}
    return {"$schema": DIALECT, "$id": f"urn:headrace:topic:{topic.name}", DIRECTION: topic.direction, **schema}


def components(types: list[type[msgspec.Struct]], template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """References to each type, and the definitions of all that they need, by the name that the template takes."""
    structs = list(dict.fromkeys([*types, *(inner for type_ in types for inner in structs_of(type_))]))
    references, definitions = msgspec.json.schema_components(structs, ref_template=template)
    for struct, reference in zip(structs, references, strict=True):
        properties = definitions[reference["$ref"].rpartition("/")[2]]["properties"]
        for name, doc in field_docs(struct).items():
            described = properties[name].get("description")
            properties[name]["description"] = f"{doc} {described}" if described else doc
    return list(references[: len(types)]), definitions


def header_schema(letter: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of a dead letter's headers, all of which are text."""
    docs = field_docs(letter)
    properties = {}
    for field in fields_of(letter):
        header: dict[str, Any] = {"type": "string"}
        if isinstance(field.node.type, inspect.IntType):
            header["pattern"] = "^-?[0-9]+$"
        if field.name in docs:
            header["description"] = docs[field.name]
        properties[HEADERS[field.name]] = header
    return {"type": "object", "properties": properties, "required": list(properties)}


def structs_of(type_: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """A Struct and those inside it."""
    yield type_
    for field in fields_of(type_):
        yield from _structs_in(field.node.type)


def _structs_in(type_: inspect.Type) -> Iterator[type[msgspec.Struct]]:
    match node_of(type_).type:
        case inspect.StructType(cls=cls):
            yield from structs_of(cls)
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            yield from _structs_in(inner)
        case inspect.DictType(value_type=inner):
            yield from _structs_in(inner)
        case inspect.UnionType(types=members):
            for member in members:
                yield from _structs_in(member)
