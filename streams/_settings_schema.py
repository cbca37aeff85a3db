"""The keys that a settings type knows, as a tree over its Structs.

Two kinds of table stand in the tree: sections with known names (a Struct) and tables with free names (a mapping to
Structs such as `topics`, or to plain values such as librdkafka's settings, whose names hold dots).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import msgspec

from streams._settings_redact import hints_of, is_secret_name, is_secret_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Key", "Node", "dotted", "grow"]

Key = tuple[str, ...]


class Node(msgspec.Struct):
    """A value or a table of the settings."""

    annotation: Any
    """The type as declared."""
    bare: Any
    """The type without its `Annotated`; `Any` where anything may stand."""
    children: dict[str, Node] | None = None
    """Known names of a section."""
    free: Callable[[str], Node | None] | None = None
    """Gives the node of a free name; None where the name is unknown after all."""
    known: tuple[str, ...] = ()
    """Free names that are known, for suggestions and for showing defaults."""
    secret: bool = False

    @property
    def is_table(self) -> bool:
        """Whether names stand below."""
        return self.children is not None or self.free is not None

    def child(self, name: str) -> Node | None:
        """The node of a name in this table."""
        if self.children is not None:
            return self.children.get(name)
        return self.free(name) if self.free is not None else None

    def find(self, key: Key) -> Node | None:
        """The node that a key leads to; None where it is unknown."""
        node: Node | None = self
        for name in key:
            if node is None or node.bare is Any:
                return node
            node = node.child(name)
        return node

    def spread(self, value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
        """Spreads a nested table into (key, value), down to where a value or an unknown name stands."""
        if not self.is_table or not isinstance(value, dict):
            yield key, value
            return
        for name, item in self._entries(value):
            node = self.child(name)
            yield from [((*key, name), item)] if node is None else node.spread(item, (*key, name))

    def walk(self, key: Key = ()) -> Iterator[tuple[Key, Node]]:
        """Every key that is known with its node, sections included."""
        if key:
            yield key, self
        for name in (*(self.children or ()), *self.known):
            node = self.child(name)
            if node is not None:
                yield from node.walk((*key, name))

    def values(self, value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
        """Every value of settings, and the default of what a section given as a plain table does not hold."""
        if self.children is not None:
            fields = {field.name: field for field in msgspec.structs.fields(self.bare)}
            for name, child in self.children.items():
                yield from child.values(_member(value, fields[name]), (*key, name))
        elif self.free is not None and isinstance(value, dict):
            for name in {**dict.fromkeys(self.known), **value}:
                node = self.child(name)
                if node is not None:
                    yield from node.values(value.get(name, {}), (*key, name))
        else:
            yield key, value

    def nearest(self, key: Key) -> Key | None:
        """The known key that a person most likely meant."""
        known = {dotted(candidate): candidate for candidate, _ in self.walk()}
        close = get_close_matches(dotted(key), known, n=1, cutoff=0.75)
        if not close:
            close = [name for name, candidate in known.items() if candidate[-1] == key[-1]][:1]
        return known[close[0]] if close else None

    def _entries(self, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """The entries of a table; names that TOML split at their dots are joined again where names are free."""
        for name, item in value.items():
            if self.free is not None and isinstance(item, dict):
                yield from _joined(name, item, self.free(name))
            else:
                yield name, item


def _member(value: Any, field: msgspec.structs.FieldInfo) -> Any:
    """A field of a section, which is a Struct or a plain table; None where it has neither value nor default."""
    if isinstance(value, msgspec.Struct):
        return getattr(value, field.name)
    if isinstance(value, dict) and field.name in value:
        return value[field.name]
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default


def dotted(key: Key) -> str:
    """The key as people write it: `worker.max_size`; names with dots are quoted."""
    return ".".join(f'"{name}"' if "." in name else name for name in key)


def grow(annotation: Any, *, secret: bool = False) -> Node:
    """The tree of a type."""
    secret = secret or is_secret_type(annotation)
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        hints = hints_of(bare)
        children = {name: grow(hints[name], secret=secret) for name in bare.__struct_fields__}
        return Node(annotation, bare, children=children, secret=secret)
    if get_origin(bare) is dict:
        item = get_args(bare)[1]
        return Node(
            annotation, bare, free=lambda name: grow(item, secret=secret or is_secret_name(name)), secret=secret
        )
    return Node(annotation, bare, secret=secret)


def _joined(name: str, item: dict[str, Any], node: Node | None) -> Iterator[tuple[str, Any]]:
    """Joins `{"sasl": {"username": x}}` to `sasl.username`, down to where a name of the table's own type stands."""
    inner = node.children if node is not None else None
    free = node is None or node.bare is Any or node.free is not None
    reached = free or (inner is not None and (not item or bool(inner.keys() & item.keys())))
    if reached or (inner is not None and not all(isinstance(value, dict) for value in item.values())):
        yield name, item
        return
    for rest, value in item.items():
        if isinstance(value, dict):
            yield from _joined(f"{name}.{rest}", value, node)
        else:
            yield f"{name}.{rest}", value
