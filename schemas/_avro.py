"""Avro: schemas from Structs, and values in the registry's wire format."""

from __future__ import annotations

import io
import json
from typing import Any, TypeVar

import fastavro
import msgspec
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException
from msgspec import inspect

from schemas import _registry
from schemas._docs import field_docs, summary
from schemas._framed import FramedCodec
from schemas._nodes import Field, Node, fields_of, node_of
from schemas._refusal import RefusedError

T = TypeVar("T", bound=msgspec.Struct)


def avro_schema(type_: type[msgspec.Struct]) -> dict[str, Any]:
    """The Avro schema of a Struct; a field with a default has it there too, so that older writers can be read."""
    namespace = f"headrace.{type_.__module__.rpartition('.')[2]}"
    return {"namespace": namespace, **_record(type_, set())}


class AvroCodec(FramedCodec[T]):
    """Avro values of one topic; what was written with another schema is resolved to ours by Avro's rules."""

    def __init__(self, topic: str, type_: type[T], registry: _registry.Registry, max_bytes: int) -> None:
        super().__init__(topic, type_, registry, max_bytes)
        self._text = json.dumps(avro_schema(type_))
        self._reader = fastavro.parse_schema(json.loads(self._text), named_schemas={})
        self._writers: dict[int, Any] = {}

    def _register(self) -> bytes:
        return _registry.frame(self._registry.register(self._subject, self._text, "AVRO"))

    def _encode(self, event: T) -> bytes:
        stream = io.BytesIO()
        stream.write(self._frame)
        fastavro.schemaless_writer(stream, self._reader, self._plain.from_event(event))
        return stream.getvalue()

    def _decode(self, value: bytes) -> T:
        schema_id, body = _registry.unframe(value)
        writer = self._writers.get(schema_id)
        if writer is None:
            writer = self._writers[schema_id] = self._writer_of(schema_id)
        stream = io.BytesIO(body)
        try:
            plain = fastavro.schemaless_reader(stream, writer, self._reader)
        except SchemaResolutionError:
            raise RefusedError("incompatible_schema") from None
        except (UnicodeDecodeError, RecursionError):
            raise
        except Exception:
            raise RefusedError("truncated") from None
        if stream.tell() != len(body) or not isinstance(plain, dict):
            raise RefusedError("truncated", detail="The message goes on behind its last field.")
        return self._plain.to_event(plain)

    def _writer_of(self, schema_id: int) -> Any:
        try:
            return fastavro.parse_schema(json.loads(self._registry.schema_of(schema_id, "AVRO")), named_schemas={})
        except (SchemaParseException, json.JSONDecodeError):
            raise RefusedError("incompatible_schema") from None


def _record(type_: type[msgspec.Struct], declared: set[str]) -> dict[str, Any]:
    docs = field_docs(type_)
    declared.add(type_.__name__)
    fields = [_with_doc(_field(field, declared), docs.get(field.name)) for field in fields_of(type_)]
    return _with_doc({"type": "record", "name": type_.__name__, "fields": fields}, summary(type_))


def _with_doc(schema: dict[str, Any], doc: str | None) -> dict[str, Any]:
    return {**schema, "doc": doc} if doc else schema


def _field(field: Field, declared: set[str]) -> dict[str, Any]:
    schema = {"name": field.name, "type": _type(field.node, declared)}
    return schema if field.required else {**schema, "default": msgspec.to_builtins(field.default)}


def _type(node: Node, declared: set[str]) -> Any:
    """The Avro type of a value; null comes first in a union, so that it can be the default."""
    name = _bare_type(node, declared)
    if not node.nullable:
        return name
    return ["null", *name] if isinstance(name, list) else ["null", name]


def _bare_type(node: Node, declared: set[str]) -> Any:
    match node.type:
        case inspect.StrType() | inspect.LiteralType() | inspect.EnumType():
            return "string"
        case inspect.BytesType():
            return "bytes"
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return "long"
        case inspect.FloatType():
            return "double"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": _type(node_of(item), declared)}
        case inspect.DictType(value_type=value):
            return {"type": "map", "values": _type(node_of(value), declared)}
        case inspect.StructType(cls=cls):
            return cls.__name__ if cls.__name__ in declared else _record(cls, declared)
        case inspect.UnionType(types=types):
            return [_bare_type(node_of(member), declared) for member in types]
    raise TypeError(f"{node.type} has no Avro type; use numbers, strings, lists, maps or Structs of them.")
