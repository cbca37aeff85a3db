"""Every document that is derived from the Structs, as files by relative path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.topics import topics

if TYPE_CHECKING:
    from collections.abc import Callable


class Target(msgspec.Struct, frozen=True):
    """What the documents are made for."""

    version: str
    """Of headrace."""
    database: str
    ttl_days: int


def json_schemas(target: Target) -> dict[str, str]:
    """JSON Schema of each topic."""
    del target
    from schemas.jsonschema import message_schema

    return {f"jsonschema/{name}.json": _json(message_schema(topic)) for name, topic in topics().items()}


def asyncapi(target: Target) -> dict[str, str]:
    """The AsyncAPI document."""
    from schemas.asyncapi import document

    return {"asyncapi.json": _json(document(target.version))}


def clickhouse(target: Target) -> dict[str, str]:
    """DDL of each table."""
    from schemas.clickhouse import tables

    return {
        f"clickhouse/{table.name}.sql": f"{table.create_sql(target.database, target.ttl_days)};\n" for table in tables()
    }


def avro(target: Target) -> dict[str, str]:
    """Avro schema of each topic whose value has one."""
    del target
    from schemas._avro import avro_schema

    return {f"avro/{name}.avsc": _json(avro_schema(message)) for name, message in _values().items()}


def protobuf(target: Target) -> dict[str, str]:
    """Protobuf source of each topic whose value has one."""
    del target
    from schemas._proto_text import proto_text
    from schemas._protobuf import file_descriptor

    return {f"protobuf/{name}.proto": proto_text(file_descriptor(message)) for name, message in _values().items()}


FORMATS: dict[str, Callable[[Target], dict[str, str]]] = {
    "jsonschema": json_schemas,
    "asyncapi": asyncapi,
    "clickhouse": clickhouse,
    "avro": avro,
    "protobuf": protobuf,
}
"""What makes the files of each format."""


def _values() -> dict[str, Any]:
    return {name: topic.message for name, topic in topics().items() if topic.direction != "dead-letter"}


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
