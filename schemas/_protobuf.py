"""Protobuf: descriptors from Structs at run time, and values in the registry's wire format.

Field numbers follow the order of declaration, so a new field goes last (`schema diff` watches over it). What proto3
cannot say is wrapped: a union of scalars is a message with a oneof, and a value that may be null inside a list or map
is a message with one optional field. Every scalar is `optional`, so that a missing one is seen to be missing.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from msgspec import inspect

from schemas import _registry
from schemas._framed import FramedCodec
from schemas._nodes import Field, Node, fields_of, node_of
from schemas._refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence


T = TypeVar("T", bound=msgspec.Struct)

Proto: Any = descriptor_pb2.FieldDescriptorProto

_SCALARS: dict[type[inspect.Type], int] = {
    inspect.StrType: Proto.TYPE_STRING,
    inspect.LiteralType: Proto.TYPE_STRING,
    inspect.EnumType: Proto.TYPE_STRING,
    inspect.BytesType: Proto.TYPE_BYTES,
    inspect.BoolType: Proto.TYPE_BOOL,
    inspect.IntType: Proto.TYPE_INT64,
    inspect.FloatType: Proto.TYPE_DOUBLE,
}

_ARMS: dict[type, str] = {str: "text", bytes: "data", bool: "flag", int: "integer", float: "number"}
"""The arm of a union's oneof that holds a value of each Python type."""

_ARM_OF: dict[type[inspect.Type], str] = {
    inspect.StrType: "text",
    inspect.BytesType: "data",
    inspect.BoolType: "flag",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
}

# Where in the schema's file the message is: the first one, which the wire format writes as one zero byte.
_FIRST_MESSAGE = b"\x00"

# Deeper than any file nests its messages; bounds the reading of garbage.
_MOST_INDEXES = 32


def file_descriptor(type_: type[msgspec.Struct]) -> descriptor_pb2.FileDescriptorProto:
    """The file that declares a Struct as its first message."""
    domain = type_.__module__.rpartition(".")[2]
    file = descriptor_pb2.FileDescriptorProto(
        name=f"headrace/{domain}/{type_.__name__}.proto", package=f"headrace.{domain}", syntax="proto3"
    )
    _declare(file.message_type.add(), f".{file.package}", type_)
    return file


class ProtobufCodec(FramedCodec[T]):
    """Protobuf values of one topic; fields are read by number, unknown ones are ignored."""

    def __init__(self, topic: str, type_: type[T], registry: _registry.Registry, max_bytes: int) -> None:
        super().__init__(topic, type_, registry, max_bytes)
        self._fields = fields_of(type_)
        file = file_descriptor(type_)
        self._text = base64.standard_b64encode(file.SerializeToString()).decode()
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        found = pool.FindMessageTypeByName(f"{file.package}.{type_.__name__}")
        self._message: type[Message] = message_factory.GetMessageClass(found)

    def _register(self) -> bytes:
        schema_id = self._registry.register(self._subject, self._text, "PROTOBUF")
        return _registry.frame(schema_id) + _FIRST_MESSAGE

    def _encode(self, event: T) -> bytes:
        message = self._message()
        _fill_fields(message, self._fields, self._plain.from_event(event))
        encoded: bytes = message.SerializeToString()
        return self._frame + encoded

    def _decode(self, value: bytes) -> T:
        schema_id, body = _registry.unframe(value)
        self._registry.schema_of(schema_id, "PROTOBUF")
        message = self._message()
        try:
            message.ParseFromString(_behind_indexes(body))
        except DecodeError:
            raise RefusedError("truncated") from None
        return self._plain.to_event(_read_fields(message, self._fields))


def _behind_indexes(body: bytes) -> bytes:
    """The message behind the list of indexes that says which of the file's messages it is (zigzag varints)."""
    count, position = _varint(body, 0)
    if not 0 <= count <= _MOST_INDEXES:
        raise RefusedError("invalid_framing")
    for _ in range(count):
        _, position = _varint(body, position)
    return body[position:]


def _varint(body: bytes, position: int) -> tuple[int, int]:
    number, shift = 0, 0
    for index in range(position, min(len(body), position + 5)):
        number |= (body[index] & 0x7F) << shift
        if body[index] < 0x80:
            return (number >> 1) ^ -(number & 1), index + 1
        shift += 7
    raise RefusedError("truncated")


# Declaring: a Struct to a descriptor.


def _declare(message: descriptor_pb2.DescriptorProto, scope: str, type_: type[msgspec.Struct]) -> None:
    message.name = type_.__name__
    for number, field in enumerate(fields_of(type_), 1):
        if field.node.nullable and not field.required and field.default is not None:
            raise TypeError(f"{type_.__name__}.{field.name} may be None and has another default: Protobuf has no null.")
        _declare_field(message, f"{scope}.{message.name}", number, field)


def _declare_field(message: descriptor_pb2.DescriptorProto, scope: str, number: int, field: Field) -> None:
    proto = message.field.add(name=field.name, number=number, label=Proto.LABEL_OPTIONAL)
    match field.node.type:
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) if not field.node.nullable:
            proto.label = Proto.LABEL_REPEATED
            _set_type(proto, message, scope, node_of(item), field.name)
        case inspect.DictType(key_type=key, value_type=value) if not field.node.nullable:
            proto.label = Proto.LABEL_REPEATED
            entry = message.nested_type.add(name=f"{_camel(field.name)}Entry")
            entry.options.map_entry = True
            _set_type(_add(entry, "key", 1), message, scope, node_of(key), field.name)
            _set_type(_add(entry, "value", 2), message, scope, node_of(value), field.name)
            proto.type, proto.type_name = Proto.TYPE_MESSAGE, f"{scope}.{entry.name}"
        case _:
            node = Node(field.node.type, False, field.node.kind)
            _set_type(proto, message, scope, node, field.name)
            if proto.type != Proto.TYPE_MESSAGE:
                _make_optional(message, proto)


def _set_type(proto: Any, message: descriptor_pb2.DescriptorProto, scope: str, node: Node, name: str) -> None:
    """Types a field by a value, declaring inside `message` what the value needs besides."""
    scalar = _SCALARS.get(type(node.type))
    if scalar is not None and not node.nullable:
        proto.type = scalar
        return
    if scalar is not None:
        nested = message.nested_type.add(name=f"{_camel(name)}Value")
        inner = _add(nested, "value", 1)
        inner.type = scalar
        _make_optional(nested, inner)
    elif isinstance(node.type, inspect.UnionType):
        nested = message.nested_type.add(name=f"{_camel(name)}Value")
        nested.oneof_decl.add(name="value")
        for number, member in enumerate(node.type.types, 1):
            arm = _add(nested, _ARM_OF[type(node_of(member).type)], number)
            arm.type, arm.oneof_index = _SCALARS[type(node_of(member).type)], 0
    elif isinstance(node.type, inspect.StructType) and not node.nullable:
        nested = _nested(message, scope, node.type.cls)
    else:
        raise TypeError(f"Field {name} has no Protobuf type; use scalars, Structs, and lists and maps of them.")
    proto.type, proto.type_name = Proto.TYPE_MESSAGE, f"{scope}.{nested.name}"


def _nested(
    message: descriptor_pb2.DescriptorProto, scope: str, type_: type[msgspec.Struct]
) -> descriptor_pb2.DescriptorProto:
    """The declaration of a Struct inside a message, made where it is first needed."""
    for declared in message.nested_type:
        if declared.name == type_.__name__:
            return declared
    nested = message.nested_type.add()
    _declare(nested, scope, type_)
    return nested


def _add(message: descriptor_pb2.DescriptorProto, name: str, number: int) -> Any:
    return message.field.add(name=name, number=number, label=Proto.LABEL_OPTIONAL)


def _make_optional(message: descriptor_pb2.DescriptorProto, proto: Any) -> None:
    """Presence for a scalar of proto3: a oneof of its own (protoc's "synthetic oneof")."""
    proto.proto3_optional = True
    proto.oneof_index = len(message.oneof_decl)
    message.oneof_decl.add(name=f"_{proto.name}")


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


# Moving: plain dicts to messages and back.


def _fill_fields(message: Message, fields: Sequence[Field], plain: dict[str, Any]) -> None:
    for field in fields:
        value = plain.get(field.name)
        if value is None:
            continue
        match field.node.type:
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                _fill_list(getattr(message, field.name), node_of(item), value)
            case inspect.DictType(value_type=inner):
                _fill_map(getattr(message, field.name), node_of(inner), value)
            case inspect.StructType() | inspect.UnionType():
                target = getattr(message, field.name)
                target.SetInParent()
                _fill_message(target, field.node, value)
            case _:
                setattr(message, field.name, value)


def _fill_list(target: Any, node: Node, values: Sequence[Any]) -> None:
    if not _is_message(node):
        target.extend(values)
        return
    for value in values:
        _fill_message(target.add(), node, value)


def _fill_map(target: Any, node: Node, values: dict[Any, Any]) -> None:
    if not _is_message(node):
        target.update(values)
        return
    for key, value in values.items():
        _fill_message(target[key], node, value)


def _fill_message(message: Any, node: Node, value: Any) -> None:
    if value is None:
        return
    match node.type:
        case inspect.StructType(cls=cls):
            _fill_fields(message, fields_of(cls), value)
        case inspect.UnionType():
            setattr(message, _ARMS[type(value)], value)
        case _:
            message.value = value


def _read_fields(message: Message, fields: Sequence[Field]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in fields:
        match field.node.type:
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                plain[field.name] = _read_list(getattr(message, field.name), node_of(item))
            case inspect.DictType(value_type=inner):
                plain[field.name] = _read_map(getattr(message, field.name), node_of(inner))
            case _ if not message.HasField(field.name):
                if field.required and field.node.nullable:
                    plain[field.name] = None
            case inspect.StructType() | inspect.UnionType():
                plain[field.name] = _read_message(getattr(message, field.name), field.node)
            case _:
                plain[field.name] = getattr(message, field.name)
    return plain


def _read_list(source: Any, node: Node) -> list[Any]:
    return [_read_message(item, node) for item in source] if _is_message(node) else list(source)


def _read_map(source: Any, node: Node) -> dict[Any, Any]:
    if not _is_message(node):
        return dict(source)
    return {key: _read_message(item, node) for key, item in source.items()}


def _read_message(message: Any, node: Node) -> Any:
    match node.type:
        case inspect.StructType(cls=cls):
            return _read_fields(message, fields_of(cls))
        case inspect.UnionType():
            arm = message.WhichOneof("value")
            return None if arm is None else getattr(message, arm)
        case _:
            return message.value if message.HasField("value") else None


def _is_message(node: Node) -> bool:
    return node.nullable or isinstance(node.type, inspect.StructType | inspect.UnionType)
