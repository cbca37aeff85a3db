"""The types that cross package borders: what Kafka carried, what was refused, what is to be written.

One at a time (`Record`, `Message`), and many at once as columns (`Records`, `Messages`). Batches of columns are
sequences of the former and equal lists of them; they make one only where somebody looks at it. An object per event and
stage costs more than what a stage does with the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Self, TypeVar, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

Headers = tuple[tuple[str, bytes | None], ...]
Ints = NDArray[np.int64]
T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as it was read from a topic; `timestamp_ms` is Kafka's own (UTC, milliseconds)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers = ()


class Reject(msgspec.Struct, frozen=True):
    """A record that gets no result, and why; it ends as a dead letter with its original bytes."""

    record: Record
    reason: str
    """A stable word to group by, such as `invalid_json`, `invalid_field`, `duplicate_event`, `model_error`."""
    path: str = ""
    """The field at fault, such as `$.amount`; empty where the whole record is."""
    detail: str = ""
    """One sentence for a person; never holds a card number."""
    event_id: str = ""
    """What the sender calls the event, for logs; empty where that could not be read."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """Bytes to be written; `partition` is None where the key decides. A None value is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers = ()


class _Columns(Sequence[T]):
    """What makes columns of equal length a sequence; subclasses say how one item and some items are made."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # equal by content, as lists are

    def _item(self, row: int) -> T:
        raise NotImplementedError

    def _part(self, rows: slice) -> Self:
        raise NotImplementedError

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Self: ...
    def __getitem__(self, at: int | slice) -> T | Self:
        return self._part(at) if isinstance(at, slice) else self._item(at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class Records(_Columns[Record]):
    """Records of one topic as columns of equal length, in the order in which they were read.

    Args:
        topic: Of all of them.
        partitions: One per record, and so on.
        offsets: Likewise.
        keys: Likewise.
        values: Likewise.
        timestamps_ms: Likewise.
        headers: Likewise; None where no record has any.
    """

    __slots__ = ("headers", "keys", "offsets", "partitions", "timestamps_ms", "topic", "values")

    def __init__(
        self,
        topic: str,
        partitions: Ints,
        offsets: Ints,
        keys: list[bytes | None],
        values: list[bytes | None],
        timestamps_ms: Ints,
        headers: list[Headers] | None = None,
    ) -> None:
        self.topic = topic
        self.partitions, self.offsets = partitions, offsets
        self.keys, self.values = keys, values
        self.timestamps_ms = timestamps_ms
        self.headers = headers

    @classmethod
    def of(cls, records: Sequence[Record]) -> Records:
        """The columns of any records of one topic.

        Raises:
            ValueError: They are of several topics.
        """
        if isinstance(records, Records):
            return records
        topics = {record.topic for record in records}
        if len(topics) > 1:
            raise ValueError(f"Records of one micro-batch come from one topic, not from {', '.join(sorted(topics))}.")
        return cls(
            next(iter(topics), ""),
            np.array([record.partition for record in records], np.int64),
            np.array([record.offset for record in records], np.int64),
            [record.key for record in records],
            [record.value for record in records],
            np.array([record.timestamp_ms for record in records], np.int64),
            [record.headers for record in records],
        )

    @classmethod
    def join(cls, parts: Sequence[Records]) -> Records:
        """All records of some batches of one topic, in their order."""
        if len(parts) == 1:
            return parts[0]
        with_headers = any(part.headers for part in parts)
        return cls(
            parts[0].topic,
            np.concatenate([part.partitions for part in parts]),
            np.concatenate([part.offsets for part in parts]),
            [key for part in parts for key in part.keys],
            [value for part in parts for value in part.values],
            np.concatenate([part.timestamps_ms for part in parts]),
            [headers for part in parts for headers in part._all_headers()] if with_headers else None,
        )

    def take(self, rows: Sequence[int]) -> Records:
        """Some of the records."""
        index = np.array(rows, np.int64)
        return Records(
            self.topic,
            self.partitions[index],
            self.offsets[index],
            [self.keys[row] for row in rows],
            [self.values[row] for row in rows],
            self.timestamps_ms[index],
            None if self.headers is None else [self.headers[row] for row in rows],
        )

    def next_offsets(self) -> dict[int, int]:
        """Per partition the offset behind its last record."""
        if not len(self):
            return {}
        last = np.append(np.flatnonzero(self.partitions[1:] != self.partitions[:-1]), len(self) - 1)
        # A partition that comes more than once is set again: the last one counts.
        return dict(zip(self.partitions[last].tolist(), (self.offsets[last] + 1).tolist(), strict=True))

    def by_partition(self) -> list[Records]:
        """The records of each partition in their order; all of them as they are where there is one partition."""
        if not len(self) or (self.partitions == self.partitions[0]).all():
            return [self] if len(self) else []
        return [self.take(np.flatnonzero(self.partitions == one).tolist()) for one in np.unique(self.partitions)]

    def positions(self) -> Iterator[tuple[int, int]]:
        """Partition and offset of each."""
        return zip(self.partitions.tolist(), self.offsets.tolist(), strict=True)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Record]:
        return map(
            Record,
            repeat(self.topic),
            self.partitions.tolist(),
            self.offsets.tolist(),
            self.keys,
            self.values,
            self.timestamps_ms.tolist(),
            self._all_headers(),
        )

    def _all_headers(self) -> Iterable[Headers]:
        return repeat((), len(self)) if self.headers is None else self.headers

    def _item(self, row: int) -> Record:
        return Record(
            self.topic,
            int(self.partitions[row]),
            int(self.offsets[row]),
            self.keys[row],
            self.values[row],
            int(self.timestamps_ms[row]),
            () if self.headers is None else self.headers[row],
        )

    def _part(self, rows: slice) -> Self:
        return type(self)(
            self.topic,
            self.partitions[rows],
            self.offsets[rows],
            self.keys[rows],
            self.values[rows],
            self.timestamps_ms[rows],
            None if self.headers is None else self.headers[rows],
        )


class Messages(_Columns[Message]):
    """Messages to one topic as columns, without headers; `partitions` is None where the keys decide."""

    __slots__ = ("keys", "partitions", "topic", "values")

    def __init__(
        self,
        topic: str,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        partitions: Sequence[int] | None = None,
    ) -> None:
        self.topic = topic
        self.keys, self.values, self.partitions = keys, values, partitions

    def __len__(self) -> int:
        return len(self.values)

    def _item(self, row: int) -> Message:
        partition = None if self.partitions is None else self.partitions[row]
        return Message(self.topic, self.keys[row], self.values[row], partition)

    def _part(self, rows: slice) -> Self:
        partitions = None if self.partitions is None else self.partitions[rows]
        return type(self)(self.topic, self.keys[rows], self.values[rows], partitions)
