"""Rows as Arrow, column by column: what is nested is flattened first, so that no Python object is made per cell.

Words and the names of maps are dictionaries, which ClickHouse takes into its own as they are. The names of a map come
in their order: an object of JSON has none, and so equal maps are equal columns, however they were written.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from msgspec import inspect
from msgspec.structs import astuple

from schemas._nodes import Node, fields_of, node_of
from schemas._rows import PackedMap
from schemas.envelope import Records
from schemas.times import parse_times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from schemas.clickhouse import Column, Table
    from schemas.envelope import Record

# What DateTime64(3) can hold (its documentation): 1900-01-01 to 2299-12-31.
EARLIEST_MS, LATEST_MS = -2_208_988_800_000, 10_413_791_999_999

_TIME = pa.timestamp("ms", tz="UTC")
_WORD = pa.dictionary(pa.int32(), pa.string())


_COORDINATES: dict[str, tuple[pa.DataType, Callable[[Records], pa.Array]]] = {
    "_topic": (
        _WORD,
        lambda records: pa.DictionaryArray.from_arrays(np.zeros(len(records), np.int32), [records.topic]),
    ),
    "_partition": (pa.uint32(), lambda records: pa.array(records.partitions, pa.uint32())),
    "_offset": (pa.uint64(), lambda records: pa.array(records.offsets, pa.uint64())),
    "_timestamp": (_TIME, lambda records: _clipped(records.timestamps_ms)),
}


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema of a table's rows, coordinates included."""
    return pa.schema([pa.field(column.name, _type_of(column)) for column in table.columns])


def to_arrow(table: Table, rows: Sequence[Any], records: Sequence[Record]) -> pa.Table:
    """Rows of a table with the record that each came from, ready to be inserted.

    Times of senders must have gone through `read_rows`, which refuses what is none. Our own times are cut to what
    ClickHouse can hold.
    """
    if len(rows) != len(records):
        raise ValueError(f"{len(rows)} rows and {len(records)} records for table {table.name}.")
    origins = Records.of(records)
    arrays = [
        _COORDINATES[column.name][1](origins)
        if column.node is None
        else _array(column.node, list(map(attrgetter(column.name), rows)))
        for column in table.columns
    ]
    return pa.table(arrays, names=[column.name for column in table.columns])


def _type_of(column: Column) -> pa.DataType:
    return _COORDINATES[column.name][0] if column.node is None else arrow_type(column.node)


def arrow_type(node: Node) -> pa.DataType:
    """The Arrow type of a value."""
    if node.kind == "time":
        return _TIME
    if node.kind == "word":
        return _WORD
    match node.type:
        case inspect.StrType() | inspect.LiteralType() | inspect.EnumType():
            return pa.string()
        case inspect.BytesType():
            return pa.binary()
        case inspect.BoolType():
            return pa.bool_()
        case inspect.IntType(ge=ge):
            return pa.int64() if ge is None or ge < 0 else pa.uint64()
        case inspect.FloatType():
            return pa.float64()
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return pa.list_(arrow_type(node_of(item)))
        case inspect.DictType(key_type=key, value_type=value):
            return pa.map_(arrow_type(node_of(key)), arrow_type(node_of(value)))
        case inspect.StructType(cls=cls):
            return pa.struct([pa.field(field.name, arrow_type(field.node)) for field in fields_of(cls)])
    raise TypeError(f"{node.type} has no Arrow type.")


def _array(node: Node, values: list[Any]) -> pa.Array:
    if node.kind == "time":
        return _times(values if isinstance(node.type, inspect.IntType) else _parsed(values))
    match node.type:
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return pa.ListArray.from_arrays(_offsets(values), _array(node_of(item), list(chain.from_iterable(values))))
        case inspect.DictType(key_type=key, value_type=value):
            return _map_array(node_of(key), node_of(value), values)
        case inspect.StructType(cls=cls):
            names = [field.name for field in fields_of(cls)]
            columns = [_array(field.node, [getattr(v, field.name) for v in values]) for field in fields_of(cls)]
            return pa.StructArray.from_arrays(columns, names=names)
    return pa.array(values, arrow_type(node))


def _map_array(key: Node, value: Node, maps: list[Any]) -> pa.Array:
    kinds = set(map(type, maps))
    if len(kinds) == 1 and issubclass(kind := kinds.pop(), PackedMap):
        count = len(kind.names)
        names = np.tile(np.arange(count, dtype=np.int32), len(maps))
        keys = pa.DictionaryArray.from_arrays(names, pa.array(kind.names, pa.string())).cast(arrow_type(key))
        offsets = pa.array(np.arange(len(maps) + 1, dtype=np.int32) * count)
        return pa.MapArray.from_arrays(offsets, keys, _array(value, list(chain.from_iterable(map(astuple, maps)))))
    plain = [dict(zip(m.names, astuple(m), strict=True)) if isinstance(m, PackedMap) else m for m in maps]
    orders = [_in_order(tuple(m)) for m in plain]
    items = list(chain.from_iterable(map(m.__getitem__, order) for m, order in zip(plain, orders, strict=True)))
    return pa.MapArray.from_arrays(
        _offsets(plain), _array(key, list(chain.from_iterable(orders))), _array(value, items)
    )


@lru_cache(maxsize=256)
def _in_order(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """The names of a map as they are stored; few sets of them are in use at a time."""
    return tuple(sorted(names))


def _offsets(values: Sequence[Any]) -> pa.Array:
    return pa.array(list(accumulate(map(len, values), initial=0)), pa.int32())


def _times(values: list[int] | list[int | None]) -> pa.Array:
    """Milliseconds as timestamps, cut to what ClickHouse can hold; None stays null."""
    if None not in values:
        return _clipped(np.array(values, dtype=np.int64))
    missing = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
    return _clipped(np.array([value or 0 for value in values], dtype=np.int64), missing)


def _same_word(word: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([word], pa.string()))


def _clipped(times: NDArray[np.int64], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    return pa.array(np.clip(times, EARLIEST_MS, LATEST_MS), mask=missing).cast(_TIME)


def _parsed(values: list[Any]) -> list[int | None]:
    times, reasons = parse_times([0 if value is None else value for value in values])
    assert not reasons, "This is a bug: read_rows lets no such time through."
    return [None if value is None else time for value, time in zip(values, times.tolist(), strict=True)]
