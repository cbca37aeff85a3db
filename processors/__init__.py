"""Processors think about arrays: one domain's prepare and interpret, around a forward pass they do not own."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import numpy as np

from processors._models import Manifest
from schemas.codec import codec_for
from schemas.envelope import Record, Reject

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from processors._contract import Contract
    from schemas.envelope import Message

__all__ = [
    "Arrays",
    "DomainError",
    "GlobalTable",
    "KeyedState",
    "Prepared",
    "Processor",
    "Setup",
    "load",
    "model_reference",
    "names",
    "part_of",
    "read_options",
    "settings_type",
]

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


class Prepared(msgspec.Struct):
    """A micro-batch made ready for the model.

    `inputs` maps the model's input names to arrays of n rows, batch first; `records` are the n records they
    came from, in order; `context` is the processor's own (whatever interpret needs); `rejects` are the records
    of the micro-batch that have no row; `event_ids` name the rows in the log where they become dead letters.
    """

    inputs: Arrays
    records: Sequence[Record]
    context: Any
    rejects: list[Reject]
    event_ids: Sequence[str] = ()

    def event_id(self, row: int) -> str:
        """The id of a row's event; empty where the processor told none."""
        return self.event_ids[row] if self.event_ids else ""


class KeyedState(Protocol):
    """State of a processor per source partition, whose every change goes to a compacted changelog topic."""

    def restore(self, partition: int, entries: Mapping[bytes, bytes]) -> None:
        """Takes over a partition: all live changelog entries of it, in no particular order; may be empty."""

    def drop(self, partition: int) -> None:
        """Forgets a partition that went to another worker, or whose transaction was aborted."""

    def changes(self) -> Iterable[tuple[int, bytes, bytes | None]]:
        """Drains (partition, key, value or tombstone) of what changed since the last call: once a transaction."""


class GlobalTable(Protocol):
    """A compacted topic that every worker reads to its end before it scores, then follows."""

    topic: str

    def update(self, key: bytes, value: bytes | None) -> None:
        """Applies one record of the topic; None is a tombstone. A record that cannot be read is skipped and counted."""


class Processor(Protocol):
    """One domain: prepare (records to arrays), then the model, then interpret (arrays to messages).

    Optional besides, for whoever has it: `retract(prepared, rows)`, see interpret; `counters()`, a mapping of what the
    processor counts; `max_age_ms`, the domain's own deadline over `worker.max_age_ms`; and
    `fallback(prepared, rows, now_ms)`, which gives exactly one result or reject for each of the rows that are too old
    for the model, in their order. Prepare saw them all the same: keyed state does not know how an event was answered.
    State that is made of the model's outputs finds zeros in these rows, as in rows that failed. Without a fallback they
    become dead letters, reason `too_old`.

    And `prepares_ahead`: true where prepare may see the next micro-batch before interpret and retract have seen this
    one. The model then runs meanwhile, on another thread. It is not for whoever's prepare needs what the model said.
    """

    name: str
    input_topic: str
    output_topics: tuple[str, ...]
    """Every topic that interpret or drain writes to; the worker makes sure that they exist."""
    model: str
    """Reference of the model in the registry, `name` or `name@version`."""
    contract: Contract
    """What the model must take and give."""
    state: KeyedState | None
    tables: Sequence[GlobalTable]

    def attach(self, metadata: Mapping[str, str]) -> None:
        """Takes the metadata of the loaded model's file; called once, before the first prepare."""

    def prepare(self, records: Sequence[Record]) -> Prepared:
        """Decodes and validates, updates keyed state in the order of the records, and builds the inputs.

        The records are a sequence, as a list of them is; whoever wants columns takes `Records.of(records)`.

        Never raises for what a record holds: a bad record becomes a reject, the others go on.
        """

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> Sequence[Message | Reject]:
        """Turns the model's outputs (n rows) into exactly one result or reject per row, in the order of the rows.

        A list of them, or `schemas.envelope.Messages` where all are results for one topic: that spares an object each.

        Rows whose model run failed hold zeros; the caller replaces what is returned for them, and calls
        `retract(prepared, rows)` afterwards where a processor has it: what keeps these from being sent again is
        undone.
        """

    def drain(self) -> list[Message]:
        """Side messages due with the transaction that is about to commit, such as tallies; once a transaction."""


class DomainError(ValueError):
    """A domain that does not exist, cannot be imported, or is set up wrongly; the message says which and what to do."""


class Setup(msgspec.Struct, frozen=True):
    """What a processor is made from. A domain takes what it needs of it."""

    options: Mapping[str, Any] = {}
    """The domain's own settings, `[domains.<name>]`."""
    manifest: Manifest | None = None
    """Of the model that will run; its settings are the defaults of the options."""
    token_key: bytes = b""
    """Secret of the tokens that stand for identifying fields (`processors._tokens.key_from`)."""
    codecs: Callable[[str, type[Any]], Any] = codec_for
    """(topic, type of its messages) -> `schemas.codec.Codec`; JSON everywhere unless given."""


def names() -> list[str]:
    """Every domain: a module or folder beside this file whose name has no underscore in front. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str, setup: Setup | None = None) -> Processor:
    """The processor of a domain, made by its `create(setup)`; the other domains are not touched.

    Raises:
        DomainError: There is no such domain, its code cannot be imported, or its options are wrong.
    """
    known = names()
    if name not in known:
        raise DomainError(f"There is no domain {name!r}; known: {', '.join(known)}.")
    try:
        module = import_module(f"{__name__}.{name}")
    except Exception as error:
        raise DomainError(f"The domain {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, "create"):
        raise DomainError(f"The domain {name!r} has no create(setup) that returns its processor.")
    processor: Processor = module.create(setup or Setup())
    return processor


def part_of(name: str, part: str) -> ModuleType | None:
    """The module that a domain may bring beside its processor, such as its `demo`; None where it brings none.

    Raises:
        Exception: Whatever the module raises when it is imported.
    """
    spec = find_spec(f"{__name__}.{name}")
    if spec is None or not spec.submodule_search_locations or find_spec(f"{__name__}.{name}.{part}") is None:
        return None
    return import_module(f"{__name__}.{name}.{part}")


def model_reference(name: str, options: Mapping[str, Any]) -> str:
    """The model of a domain, `name` or `name@version`: what its options say, or the one with the domain's name."""
    return str(options.get("model", name))


def settings_type(name: str) -> type[msgspec.Struct] | None:
    """The Struct of a domain's settings: the one named `…Settings` in its module; None where it has none.

    Raises:
        Exception: Whatever the domain raises when it is imported.
    """
    module = import_module(f"{__name__}.{name}")
    for attribute, value in vars(module).items():
        if attribute.endswith("Settings") and isinstance(value, type) and issubclass(value, msgspec.Struct):
            return value
    return None


def read_options(name: str, type_: type[T], options: Mapping[str, Any], defaults: Mapping[str, Any]) -> T:
    """A domain's settings: its options over the defaults that the model's manifest brings.

    Raises:
        DomainError: A key is unknown or a value is wrong; the message has the key's path.
    """
    known = {field.name for field in msgspec.structs.fields(type_)}  # type: ignore[arg-type]  # a Struct type
    for key in {**defaults, **options}:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise DomainError(f"[domains.{name}] has no key {key!r}; {hint}")
    try:
        return msgspec.convert({**defaults, **options}, type_)
    except msgspec.ValidationError as error:
        raise DomainError(f"[domains.{name}]: {error}") from error
