"""What a Struct's annotations say, taken apart once: the base of DDL, Arrow, Avro and Protobuf."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping


class Node(msgspec.Struct, frozen=True):
    """The type of a value, without its wrappers."""

    type: inspect.Type
    """Never a Metadata, and never a union that holds None."""
    nullable: bool
    kind: str
    """`time`, `word` or empty: the kind that `schemas.fields` gives a type."""


class Field(msgspec.Struct, frozen=True):
    """One field of a Struct."""

    name: str
    node: Node
    required: bool
    default: Any


@cache
def fields_of(type_: type[msgspec.Struct]) -> list[Field]:
    """The fields in the order of their declaration, under the names that they have in a message."""
    info = inspect.type_info(type_)
    assert isinstance(info, inspect.StructType), "This is a bug: only Structs are messages."
    return [Field(f.encode_name, node_of(f.type), f.required, _default_of(f)) for f in info.fields]


def node_of(type_: inspect.Type, extra: Mapping[str, Any] | None = None) -> Node:
    """The node of a type as `msgspec.inspect` gives it."""
    kinds = dict(extra or {})
    while isinstance(type_, inspect.Metadata):
        kinds = {**(type_.extra or {}), **kinds}
        type_ = type_.type
    if isinstance(type_, inspect.UnionType):
        return _node_of_union(type_, kinds)
    return Node(type_, False, str(kinds.get("kind", "")))


def _node_of_union(union: inspect.UnionType, kinds: dict[str, Any]) -> Node:
    others = [member for member in union.types if not isinstance(member, inspect.NoneType)]
    nullable = len(others) < len(union.types)
    if len(others) == 1:
        inner = node_of(others[0], kinds)
        return Node(inner.type, nullable or inner.nullable, inner.kind)
    return Node(inspect.UnionType(tuple(others)), nullable, str(kinds.get("kind", "")))


def _default_of(field: inspect.Field) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default
