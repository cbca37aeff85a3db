"""A file descriptor as the `.proto` source that people and protoc read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor_pb2 import FileDescriptorProto

_TYPES = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
}


def proto_text(file: FileDescriptorProto) -> str:
    """The source of a file that `schemas._protobuf` declared."""
    lines = [f'syntax = "{file.syntax}";', "", f"package {file.package};"]
    for message in file.message_type:
        lines += ["", *_message(message)]
    return "\n".join(lines) + "\n"


def _message(message: Any) -> Iterator[str]:
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    yield f"message {message.name} {{"
    for nested in message.nested_type:
        if nested.name not in entries:
            yield from ("  " + line for line in _message(nested))
    for field in message.field:
        if not field.HasField("oneof_index") or field.proto3_optional:
            yield f"  {_label(field)}{_type(field, entries)} {field.name} = {field.number};"
    yield from ("  " + line for line in _oneofs(message))
    yield "}"


def _oneofs(message: Any) -> Iterator[str]:
    for index, oneof in enumerate(message.oneof_decl):
        arms = [f for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
        if not arms[0].proto3_optional:
            yield f"oneof {oneof.name} {{"
            yield from (f"  {_type(arm, {})} {arm.name} = {arm.number};" for arm in arms)
            yield "}"


def _label(field: Any) -> str:
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "" if field.type_name.endswith("Entry") else "repeated "
    return "optional " if field.proto3_optional else ""


def _type(field: Any, entries: dict[str, Any]) -> str:
    if field.type != FieldDescriptorProto.TYPE_MESSAGE:
        return _TYPES[field.type]
    name = field.type_name.rpartition(".")[2]
    if name in entries:
        key, value = entries[name].field
        return f"map<{_type(key, {})}, {_type(value, {})}>"
    return str(name)
