"""Every document that is derived from the Structs, as files by relative path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from schemas.topics import topics

if TYPE_CHECKING:
    from collections.abc import Callable

# Where `headrace.clickhouse.database` and `store.ttl_days` are not given: the defaults of the settings.
_DATABASE, _TTL_DAYS = "headrace", 365


def json_schemas(version: str) -> dict[str, str]:
    """JSON Schema of each topic."""
    del version
    from schemas.jsonschema import message_schema

    return {f"jsonschema/{name}.json": _json(message_schema(topic)) for name, topic in topics().items()}


def asyncapi(version: str) -> dict[str, str]:
    """The AsyncAPI document."""
    from schemas.asyncapi import document

    return {"asyncapi.json": _json(document(version))}


def clickhouse(version: str) -> dict[str, str]:
    """DDL of each table."""
    del version
    from schemas.clickhouse import tables

    return {f"clickhouse/{table.name}.sql": f"{table.create_sql(_DATABASE, _TTL_DAYS)};\n" for table in tables()}


def avro(version: str) -> dict[str, str]:
    """Avro schema of each topic whose value has one."""
    del version
    from schemas._avro import avro_schema

    return {f"avro/{name}.avsc": _json(avro_schema(message)) for name, message in _values().items()}


def protobuf(version: str) -> dict[str, str]:
    """Protobuf source of each topic whose value has one."""
    del version
    from schemas._proto_text import proto_text
    from schemas._protobuf import file_descriptor

    return {f"protobuf/{name}.proto": proto_text(file_descriptor(message)) for name, message in _values().items()}


FORMATS: dict[str, Callable[[str], dict[str, str]]] = {
    "jsonschema": json_schemas,
    "asyncapi": asyncapi,
    "clickhouse": clickhouse,
    "avro": avro,
    "protobuf": protobuf,
}
"""What makes the files of each format; called with headrace's version."""


def _values() -> dict[str, Any]:
    return {name: topic.message for name, topic in topics().items() if topic.direction != "dead-letter"}


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
