"""Processors think about arrays: one domain's prepare and interpret, around a forward pass they do not own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from schemas.envelope import Message, Record, Reject

Arrays = dict[str, np.ndarray]


class Prepared(msgspec.Struct):
    """A micro-batch made ready for the model.

    `inputs` maps the model's input names to arrays of n rows, batch first; `records` are the n records they
    came from, in order; `context` is the processor's own (whatever interpret needs); `rejects` are the records
    of the micro-batch that have no row.
    """

    inputs: Arrays
    records: list[Record]
    context: Any
    rejects: list[Reject]


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
    """One domain: prepare (records to arrays), then the model, then interpret (arrays to messages)."""

    name: str
    input_topic: str
    output_topics: tuple[str, ...]
    """Every topic that interpret or drain writes to; the worker makes sure that they exist."""
    model: str
    """Reference of the model in the registry, `name` or `name@version`."""
    state: KeyedState | None
    tables: Sequence[GlobalTable]

    def prepare(self, records: list[Record]) -> Prepared:
        """Decodes and validates, updates keyed state in the order of the records, and builds the inputs.

        Never raises for what a record holds: a bad record becomes a reject, the others go on.
        """

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> list[Message | Reject]:
        """Turns the model's outputs (n rows) into exactly one result or reject per row, in the order of the rows.

        Rows whose model run failed hold zeros; the caller replaces what is returned for them.
        """

    def drain(self) -> list[Message]:
        """Side messages due with the transaction that is about to commit, such as tallies; once a transaction."""
