"""Does one JSON Schema accept all that another accepts? For the vocabulary that msgspec writes.

The answer is sound, not complete: True is a promise, False may be over-careful (bounds split over the members of a
union, patterns that differ and mean the same). Unknown fields are ignored by readers, so a record accepts them.
"""

from __future__ import annotations

import json
import math
from typing import Any

Schema = dict[str, Any]

_LOWER = {"string": "minLength", "array": "minItems", "object": "minProperties"}
_UPPER = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
_SAME_OR_ABSENT = ("pattern", "format", "contentEncoding", "multipleOf")


def resolve(schema: Schema, root: Schema) -> Schema:
    """What a schema is, behind its reference into `$defs`."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def members(schema: Schema, root: Schema) -> list[Schema]:
    """The alternatives of a schema, each with at most one type."""
    schema = resolve(schema, root)
    if "anyOf" in schema:
        return [member for inner in schema["anyOf"] for member in members(inner, root)]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": name} for name in schema["type"]]
    return [schema]


def accepts(wide: Schema, wide_root: Schema, narrow: Schema, narrow_root: Schema) -> bool:
    """Whether every value of `narrow` is one of `wide`; each comes with the document that its references point into."""
    return all(
        any(_member_accepts(to, wide_root, of, narrow_root) for to in members(wide, wide_root))
        for of in members(narrow, narrow_root)
    )


def _member_accepts(wide: Schema, wide_root: Schema, narrow: Schema, narrow_root: Schema) -> bool:
    if "enum" in wide or "const" in wide:
        allowed = _values(wide)
        return ("enum" in narrow or "const" in narrow) and _values(narrow) <= allowed
    kind, wanted = narrow.get("type"), wide.get("type")
    if wanted is None:
        return True
    if "enum" in narrow or "const" in narrow:
        return kind == wanted and not _bounded(wide)
    if kind != wanted and (kind, wanted) != ("integer", "number"):
        return False
    if not _bounds_accept(wide, narrow) or any(
        wide.get(word) not in (None, narrow.get(word)) for word in _SAME_OR_ABSENT
    ):
        return False
    if wanted == "array":
        return _items_accept(wide, wide_root, narrow, narrow_root)
    if wanted == "object":
        return _object_accepts(wide, wide_root, narrow, narrow_root)
    return True


def _values(schema: Schema) -> set[str]:
    return {json.dumps(value) for value in schema.get("enum", [schema.get("const")])}


def _bounded(schema: Schema) -> bool:
    words = {*_LOWER.values(), *_UPPER.values(), *_SAME_OR_ABSENT, "minimum", "maximum"}
    return any(word in schema for word in (*words, "exclusiveMinimum", "exclusiveMaximum"))


def _bounds_accept(wide: Schema, narrow: Schema) -> bool:
    low, narrow_low = _lower(wide), _lower(narrow)
    high, narrow_high = _upper(wide), _upper(narrow)
    return low <= narrow_low and narrow_high <= high


def _lower(schema: Schema) -> tuple[float, int]:
    """The lower bound, and 1 where it lies outside itself, so that tuples compare as the sets do."""
    if "exclusiveMinimum" in schema:
        return (schema["exclusiveMinimum"], 1)
    word = _LOWER.get(schema.get("type", ""), "minimum")
    return (schema.get(word, -math.inf), 0)


def _upper(schema: Schema) -> tuple[float, int]:
    if "exclusiveMaximum" in schema:
        return (schema["exclusiveMaximum"], -1)
    word = _UPPER.get(schema.get("type", ""), "maximum")
    return (schema.get(word, math.inf), 0)


def _items_accept(wide: Schema, wide_root: Schema, narrow: Schema, narrow_root: Schema) -> bool:
    if "prefixItems" in wide or "prefixItems" in narrow:
        return bool(wide == narrow)
    return accepts(_inner(wide, "items"), wide_root, _inner(narrow, "items"), narrow_root)


def _object_accepts(wide: Schema, wide_root: Schema, narrow: Schema, narrow_root: Schema) -> bool:
    if ("properties" in wide) != ("properties" in narrow):
        return False
    if "properties" not in wide:
        names = accepts(
            {"type": "string", **wide.get("propertyNames", {})},
            wide_root,
            {"type": "string", **narrow.get("propertyNames", {})},
            narrow_root,
        )
        word = "additionalProperties"
        return names and accepts(_inner(wide, word), wide_root, _inner(narrow, word), narrow_root)
    known, given = wide["properties"], narrow["properties"]
    if not set(wide.get("required", ())) <= set(narrow.get("required", ())):
        return False
    if wide.get("additionalProperties") is False and not set(given) <= set(known):
        return False
    return all(accepts(known[name], wide_root, given[name], narrow_root) for name in known if name in given)


def _inner(schema: Schema, word: str) -> Schema:
    inner = schema.get(word, {})
    return inner if isinstance(inner, dict) else {}
