"""Rows of a micro-batch by source partition: as slices where they lie together, which is how Kafka gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processors._regions import Ints

T = TypeVar("T")


def by_partition(partitions: Ints) -> Iterator[tuple[int, slice | Ints]]:
    """Each partition once, in rising order, with its rows in theirs."""
    if not len(partitions):
        return
    starts = np.append(0, np.flatnonzero(partitions[1:] != partitions[:-1]) + 1)
    names = partitions[starts].tolist()
    if len(set(names)) == len(names):
        edges = [*starts.tolist(), len(partitions)]
        for name, at in sorted(zip(names, range(len(names)), strict=True)):
            yield name, slice(edges[at], edges[at + 1])
        return
    for name in sorted(set(names)):
        yield name, np.flatnonzero(partitions == name)


def chosen(column: Sequence[T], rows: slice | Ints) -> Sequence[T]:
    """These rows of a column that is no array."""
    if isinstance(rows, slice):
        return column if rows.stop - rows.start == len(column) else column[rows]
    return [column[row] for row in rows.tolist()]
