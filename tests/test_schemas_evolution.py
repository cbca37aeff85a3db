"""What may change in a message: the rules by name, and the promise behind them on messages made at random."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from schemas.evolution import Change, describe, diff
from schemas.jsonschema import message_schema
from schemas.topics import topics

OLD = {"id": str, "total": float, "note": (str | None, None)}


class Line(msgspec.Struct):
    """A Struct inside another."""

    name: str


class LongLine(msgspec.Struct):
    """The same, with a field more that a sender must give."""

    name: str
    price: float


def schema(**fields: Any) -> dict[str, Any]:
    """The JSON Schema of a message with these fields; a pair is a type and its default."""
    return msgspec.json.schema(message(fields))


def message(fields: dict[str, Any]) -> type[msgspec.Struct]:
    """A Struct with these fields, in this order."""
    pairs = [(name, *type_) if isinstance(type_, tuple) else (name, type_) for name, type_ in fields.items()]
    return msgspec.defstruct("Order", pairs, kw_only=True)


INPUT_BREAKS = ("input", "output")
OUTPUT_BREAKS = ("output",)
FINE: tuple[str, ...] = ()

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str, tuple[str, ...]]] = {
    "new optional field": (OLD, OLD | {"tag": (str, "")}, "$.tag", "is new and optional", FINE),
    "new required field": (OLD, OLD | {"tag": str}, "$.tag", "is new and required", INPUT_BREAKS),
    "optional field removed": ({**OLD, "tag": (str, "")}, OLD, "$.tag", "is gone, was optional", FINE),
    "required field removed": ({**OLD, "tag": str}, OLD, "$.tag", "is gone, was required", OUTPUT_BREAKS),
    "made optional": ({"id": str}, {"id": (str, "")}, "$.id", "is optional now, was required", OUTPUT_BREAKS),
    "made required": ({"id": (str, "")}, {"id": str}, "$.id", "is required now, was optional", INPUT_BREAKS),
    "another type": (
        OLD,
        OLD | {"total": str},
        "$.total",
        "has another type: was number, is string",
        INPUT_BREAKS,
    ),
    "integer to number": ({"n": int}, {"n": float}, "$.n", "takes more: was integer, is number", OUTPUT_BREAKS),
    "number to integer": ({"n": float}, {"n": int}, "$.n", "takes less: was number, is integer", INPUT_BREAKS),
    "null allowed": (
        {"n": int},
        {"n": int | None},
        "$.n",
        "takes more: was integer, is integer or null",
        OUTPUT_BREAKS,
    ),
    "null forbidden": (
        {"n": int | None},
        {"n": int},
        "$.n",
        "takes less: was integer or null, is integer",
        INPUT_BREAKS,
    ),
    "bound narrowed": (
        {"n": Annotated[float, Meta(ge=0)]},
        {"n": Annotated[float, Meta(gt=0)]},
        "$.n",
        "takes less: was number (>= 0), is number (> 0)",
        INPUT_BREAKS,
    ),
    "bound widened": (
        {"s": Annotated[str, Meta(min_length=1, max_length=5)]},
        {"s": Annotated[str, Meta(max_length=9)]},
        "$.s",
        "takes more: was string (length >= 1, length <= 5), is string (length <= 9)",
        OUTPUT_BREAKS,
    ),
    "choice added": (
        {"s": Literal["a", "b"]},
        {"s": Literal["a", "b", "c"]},
        "$.s",
        "takes more: was one of a, b, is one of a, b, c",
        OUTPUT_BREAKS,
    ),
    "choice removed": (
        {"s": Literal["a", "b"]},
        {"s": Literal["a"]},
        "$.s",
        "takes less: was one of a, b, is one of a",
        INPUT_BREAKS,
    ),
    "inside a list": (
        {"lines": list[Line]},
        {"lines": list[LongLine]},
        "$.lines[].price",
        "is new and required",
        INPUT_BREAKS,
    ),
    "inside a map": (
        {"lines": dict[str, int]},
        {"lines": dict[str, float]},
        "$.lines{}",
        "takes more: was integer, is number",
        OUTPUT_BREAKS,
    ),
    "inside what may be null": (
        {"line": Line | None},
        {"line": LongLine | None},
        "$.line.price",
        "is new and required",
        INPUT_BREAKS,
    ),
    "record to list": (
        {"line": Line},
        {"line": list[Line]},
        "$.line",
        "has another type: was Line, is list of Line",
        INPUT_BREAKS,
    ),
    "default changed": ({"s": (str, "a")}, {"s": (str, "b")}, "$.s", 'has another default: was "a", is "b"', FINE),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    """Each kind of change is found where it lies, said in words, and breaks the directions that it should."""
    old, new, path, what, broken = CASES[name]

    (change,) = diff(schema(**old), schema(**new))

    assert (path, what) == (change.path, change.what)
    assert broken == tuple(direction for direction in ("input", "output") if change.breaks(direction))
    assert change.breaks("output") == change.breaks("internal") == change.breaks("dead-letter")


def test_no_difference() -> None:
    """A message compared with itself shows nothing, whatever its description says."""
    for topic in topics().values():
        assert [] == diff(message_schema(topic), message_schema(topic))


def test_field_numbers() -> None:
    """A field that moves, or comes in between, breaks Protobuf alone; one at the end breaks nobody."""
    moved = diff(schema(a=str, b=str), schema(b=str, a=str))
    between = diff(schema(a=str, b=str), schema(a=str, c=(str, ""), b=str))
    last = diff(schema(a=str, b=str), schema(a=str, b=str, c=(str, "")))
    reused = diff(schema(a=str, b=(str, "")), schema(a=str, c=(str, "")))

    assert ["$.a moved from number 1 to 2", "$.b moved from number 2 to 1"] == [f"{c.path} {c.what}" for c in moved]
    for changes in (moved, between, reused):
        assert not [change for change in changes if change.breaks("output")]
        assert [change for change in changes if change.breaks("input", "protobuf")]
    assert not [change for change in last if change.breaks("output", "protobuf")]


def test_several_changes() -> None:
    """All changes are told, in the order of the fields."""
    changes = diff(schema(a=str, b=int, c=float), schema(a=int, c=(float, 0.0), d=str))

    assert ["$.a", "$.b", "$.c", "$.c", "$.d"] == [change.path for change in changes]
    assert Change("$.d", "is new and required", new_reads_old=False, keeps_numbers=False) == changes[-1]


def test_description_in_words() -> None:
    """Types are described in words that need no JSON Schema."""
    root = schema(
        when=str | int, share=Annotated[float, Meta(ge=0, lt=1)], lines=list[Line] | None, named=dict[str, int | None]
    )
    fields = root["$defs"]["Order"]["properties"]

    assert {
        "when": "string or integer",
        "share": "number (>= 0, < 1)",
        "lines": "list of Line or null",
        "named": "map of integer or null",
    } == {name: describe(field, root) for name, field in fields.items()}


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text("abc", max_size=4),
    int: st.integers(-5, 5),
    float: st.floats(-5, 5),
    bool: st.booleans(),
    Annotated[str, Meta(max_length=2)]: st.text("abc", max_size=2),
    Annotated[str, Meta(min_length=1)]: st.text("abc", min_size=1, max_size=4),
    Annotated[int, Meta(ge=0)]: st.integers(0, 5),
    Annotated[int, Meta(gt=0, le=3)]: st.integers(1, 3),
    Annotated[float, Meta(gt=0)]: st.floats(0, 5, exclude_min=True),
    Annotated[float, Meta(ge=-1, lt=1)]: st.floats(-1, 1, exclude_max=True),
    Literal["a", "b"]: st.sampled_from("ab"),
    Literal["a"]: st.just("a"),
}


@st.composite
def kinds(draw: st.DrawFn) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type of a field, and its values."""
    type_, values = draw(st.sampled_from(list(SCALARS.items())))
    match draw(st.sampled_from(["plain", "null", "list", "map", "union"])):
        case "null":
            return type_ | None, st.none() | values
        case "list":
            return list[type_], st.lists(values, max_size=2)  # type: ignore[valid-type]
        case "map":
            return dict[str, type_], st.dictionaries(st.text("ab"), values, max_size=2)  # type: ignore[valid-type]
        case "union" if type_ in (int, float):
            return type_ | str, values | st.text("abc", max_size=4)
    return type_, values


def with_default(type_: Any, default: Any) -> tuple[Any, Any]:
    """A field whose default may be a list that must not be shared."""
    return type_, msgspec.field(default_factory=lambda: default)


@st.composite
def messages(draw: st.DrawFn) -> tuple[type[msgspec.Struct], st.SearchStrategy[Any]]:
    """A message of up to two fields, some with a default, and its values."""
    fields, values = {}, {}
    for name in draw(st.lists(st.sampled_from("pq"), max_size=2, unique=True)):
        type_, of_type = draw(kinds())
        fields[name] = (type_, draw(of_type)) if draw(st.booleans()) else type_
        values[name] = of_type
    made = message({name: with_default(*t) if isinstance(t, tuple) else t for name, t in fields.items()})
    return made, st.builds(made, **values)


@settings(max_examples=600, deadline=None)
@given(messages(), messages(), st.data())
def test_what_is_called_fine_is_fine(
    before: tuple[type[msgspec.Struct], st.SearchStrategy[Any]],
    after: tuple[type[msgspec.Struct], st.SearchStrategy[Any]],
    data: st.DataObject,
) -> None:
    """Where no change breaks a direction, every message of the one side is read by the other."""
    (old, old_values), (new, new_values) = before, after
    changes = diff(msgspec.json.schema(old), msgspec.json.schema(new))

    if all(change.new_reads_old for change in changes):
        msgspec.json.decode(msgspec.json.encode(data.draw(old_values)), type=new)
    if all(change.old_reads_new for change in changes):
        msgspec.json.decode(msgspec.json.encode(data.draw(new_values)), type=old)
    if not changes:
        assert {f.name: f.required for f in msgspec.structs.fields(old)} == {
            f.name: f.required for f in msgspec.structs.fields(new)
        }
