"""The registry of topics: what lies on each, under which key, and where it is stored.

A domain's module declares its own `TOPICS`; this one finds them, so that adding a domain edits nothing here.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import cache
from typing import TYPE_CHECKING, Literal

import msgspec

import schemas

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MACHINERY", "TableSpec", "TopicType", "domains", "events_of", "find_topic", "topics"]

MACHINERY = frozenset(
    {
        "asyncapi",
        "clickhouse",
        "codec",
        "dead_letter",
        "envelope",
        "evolution",
        "fields",
        "jsonschema",
        "times",
        "topics",
    }
)
"""Modules of this package that are no domain; every other one without an underscore is."""


class TableSpec(msgspec.Struct, frozen=True):
    """How a topic's messages are kept in ClickHouse; the columns come from the row's Struct."""

    name: str
    order_by: tuple[str, ...]
    """Expressions to sort by, the most asked for first; the Kafka coordinates are appended to make it unique."""
    lookups: tuple[str, ...] = ()
    """Columns that single rows are looked up by: each gets a Bloom filter index."""
    row: type[msgspec.Struct] | None = None
    """The Struct of a row where it is not the message's own."""


class TopicType(msgspec.Struct, frozen=True):
    """One topic of a domain."""

    name: str
    message: type[msgspec.Struct]
    """The Struct of the value; of the headers where the direction is `dead-letter`."""
    key: str
    """What the message key means."""
    direction: Literal["input", "output", "internal", "dead-letter"]
    """As seen from headrace: users write to `input`, read from `output` and leave `internal` alone."""
    description: str
    compacted: bool = False
    table: TableSpec | None = None


@cache
def domains() -> dict[str, tuple[TopicType, ...]]:
    """The topics that each domain declares, by the name of its module.

    A domain that cannot be imported is left out with a warning: it must not hurt the others.
    """
    found: dict[str, tuple[TopicType, ...]] = {}
    for module in pkgutil.iter_modules(schemas.__path__):
        if module.name.startswith("_") or module.name in MACHINERY:
            continue
        try:
            found[module.name] = tuple(importlib.import_module(f"schemas.{module.name}").TOPICS)
        except Exception as error:
            warnings.warn(f"Domain {module.name!r} is left out, schemas.{module.name} fails: {error!r}", stacklevel=2)
    return found


@cache
def topics() -> dict[str, TopicType]:
    """Every topic of every domain, by name."""
    return by_name([topic for declared in domains().values() for topic in declared])


def events_of(declared: Sequence[TopicType]) -> TopicType:
    """The topic whose events a domain answers: the first input that it declares; others are the monitor's."""
    return next(topic for topic in declared if topic.direction == "input")


def by_name(declared: Sequence[TopicType]) -> dict[str, TopicType]:
    """Topics by name; two of one name are an error, for one topic has one type."""
    found: dict[str, TopicType] = {}
    for topic in declared:
        if topic.name in found:
            first, second = found[topic.name].message, topic.message
            raise ValueError(
                f"Topic {topic.name!r} is declared twice, as {first.__module__}.{first.__name__}"
                f" and as {second.__module__}.{second.__name__}; give one of them another name."
            )
        found[topic.name] = topic
    return found


def find_topic(name: str) -> TopicType:
    """The topic of that name; a KeyError that lists the known ones where there is none."""
    known = topics()
    if name not in known:
        raise KeyError(f"No topic {name!r} is declared; known are {', '.join(sorted(known))}.")
    return known[name]


if TYPE_CHECKING:
    TOPICS: dict[str, TopicType]
    """The same as `topics()`, as a constant."""


def __getattr__(name: str) -> object:
    """`TOPICS` is collected when first asked for: domains import this module, so it cannot import them up here."""
    if name == "TOPICS":
        return topics()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
