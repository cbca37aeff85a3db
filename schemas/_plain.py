"""Events as plain dicts, between Structs and the formats that know no Structs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from schemas._nodes import Field, fields_of, node_of
from schemas._refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bound=msgspec.Struct)


class Plain(Generic[T]):
    """Structs of one type to dicts and back, with the same rules as JSON."""

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._cleaners = _cleaners(fields_of(type_))

    def from_event(self, event: T) -> dict[str, Any]:
        """The dict of an event; NaN and infinities become None where a field may be None, as in JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(event, builtin_types=(bytes,))
        for name, clean in self._cleaners:
            if plain.get(name) is not None:
                plain[name] = clean(plain[name])
        return plain

    def to_event(self, plain: dict[str, Any]) -> T:
        """The event of a dict; raises `RefusedError`, or msgspec's ValidationError, where it is none."""
        refuse_not_finite(plain, "$")
        return msgspec.convert(plain, self._type, strict=True)


def refuse_not_finite(value: Any, path: str) -> None:
    """Raises `RefusedError` at the first number that JSON could not have held."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RefusedError("not_finite", path)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, (float, dict, list)):
                # Below a field, names are data and may not be shown.
                refuse_not_finite(inner, f"$.{name}" if path == "$" else f"{path}[...]")
    elif isinstance(value, list):
        for inner in value:
            refuse_not_finite(inner, f"{path}[...]")


def _cleaners(fields: list[Field]) -> list[tuple[str, Callable[[Any], Any]]]:
    """For each field that may hold a NaN where None is allowed: its name and what makes None of it."""
    found = ((field.name, _cleaner(field)) for field in fields)
    return [(name, clean) for name, clean in found if clean is not None]


def _cleaner(field: Field) -> Callable[[Any], Any] | None:
    match field.node.type:
        case inspect.FloatType() if field.node.nullable:
            return _finite_or_none
        case inspect.DictType(value_type=value):
            node = node_of(value)
            if node.nullable and isinstance(node.type, inspect.FloatType):
                return lambda items: {name: _finite_or_none(item) for name, item in items.items()}
        case inspect.ListType(item_type=item):
            node = node_of(item)
            if node.nullable and isinstance(node.type, inspect.FloatType):
                return lambda items: [_finite_or_none(item) for item in items]
    return None


def _finite_or_none(number: float | None) -> float | None:
    return number if number is None or math.isfinite(number) else None
