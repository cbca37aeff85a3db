"""ClickHouse's Native format for clients that name a protocol revision.

chDB writes Native of revision 0. A client that sends `client_protocol_version` (clickhouse-go, hence Grafana, and
clickhouse-connect) expects what a server writes then: a block info before every block, and from revision 54454 on a
byte per column that says whether its serialization is a special one. Both are added here, which takes knowing how long
each column is. Format: `src/Formats/NativeWriter.cpp` of ClickHouse; type names and layouts: its documentation of
Native and RowBinary.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["UnframedTypeError", "frame", "header"]

WITH_CUSTOM_SERIALIZATION = 54454
# Field 1: no overflow rows; field 2: bucket -1; end of fields.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"

_WIDTHS = {
    "Bool": 1,
    "Date": 2,
    "Date32": 4,
    "DateTime": 4,
    "DateTime64": 8,
    "Decimal32": 4,
    "Decimal64": 8,
    "Decimal128": 16,
    "Decimal256": 32,
    "Enum8": 1,
    "Enum16": 2,
    "IPv4": 4,
    "IPv6": 16,
    "Nothing": 1,
    "Time": 4,
    "Time64": 8,
    "UUID": 16,
    **{f"{kind}{bits}": bits // 8 for kind in ("Int", "UInt") for bits in (8, 16, 32, 64, 128, 256)},
    **{f"Interval{unit}": 8 for unit in ("Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour")},
    **{f"Interval{unit}": 8 for unit in ("Day", "Week", "Month", "Quarter", "Year")},
    "BFloat16": 2,
    "Float32": 4,
    "Float64": 8,
}
_HAS_KEYS = 1 << 9
_TYPE = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*$", re.DOTALL)
_NAMED = re.compile(r"^\s*(?:`(?:[^`\\]|\\.)*`|\w+)\s+(?=[A-Z])")


class UnframedTypeError(ValueError):
    """A column whose length is not known here."""


def frame(data: bytes, revision: int) -> bytes:
    """Blocks of revision 0 as blocks of a client's revision.

    Raises:
        UnframedTypeError: A column has a type that this does not know; cast it to String.
    """
    if revision <= 0:
        return data
    out: list[bytes] = []
    position = 0
    while position < len(data):
        out.append(_BLOCK_INFO)
        start = position
        columns, position = _number(data, position)
        rows, position = _number(data, position)
        out.append(data[start:position])
        for _ in range(columns):
            start = position
            _, position = _text(data, position)
            type_, position = _text(data, position)
            out.append(data[start:position])
            if revision >= WITH_CUSTOM_SERIALIZATION:
                out.append(b"\x00")
            end = _skip(data, position + 8 * _dictionaries(type_), type_, rows) if rows else position
            out.append(data[position:end])
            position = end
    return b"".join(out)


def header(columns: Iterable[tuple[str, str]]) -> bytes:
    """The block of revision 0 that says only which columns (name, type) an answer without rows has."""
    parts = [text.encode() for column in columns for text in column]
    written = b"".join(_written(len(part)) + part for part in parts)
    return _written(len(parts) // 2) + _written(0) + written


def _skip(data: bytes, position: int, type_: str, rows: int) -> int:
    """Where a column of so many rows ends."""
    name, inner = _split(type_)
    if rows == 0:
        return position
    if name in _WIDTHS:
        return position + rows * _WIDTHS[name]
    match name:
        case "String":
            return _skip_strings(data, position, rows)
        case "FixedString":
            return position + rows * int(inner)
        case "Decimal":
            return position + rows * _decimal_width(inner)
        case "Nullable":
            return _skip(data, position + rows, inner, rows)
        case "SimpleAggregateFunction":
            return _skip(data, position, _parts(inner)[1], rows)
        case "Array" | "Nested" | "Ring" | "LineString" | "Map":
            return _skip_array(data, position, name, inner, rows)
        case "Tuple":
            for part in _parts(inner):
                position = _skip(data, position, _NAMED.sub("", part), rows)
            return position
        case "LowCardinality":
            return _skip_dictionary(data, position, inner, rows)
        case "Point":
            return position + rows * 16
    raise UnframedTypeError(
        f"The type {type_} cannot be sent in the Native format of this client's protocol version: cast it to String."
    )


def _dictionaries(type_: str) -> int:
    """How many LowCardinality there are in a type: each puts its version, eight bytes, before the column."""
    name, inner = _split(type_)
    if name == "LowCardinality":
        return 1
    if name in ("Array", "Map", "Tuple", "Nested", "Nullable"):
        return sum(_dictionaries(_NAMED.sub("", part)) for part in _parts(inner))
    return 0


def _skip_dictionary(data: bytes, position: int, inner: str, rows: int) -> int:
    """A LowCardinality column: flags, its keys, then an index for each row."""
    flags, count = (int(value) for value in np.frombuffer(data, "<u8", 2, position))
    if not flags & _HAS_KEYS:
        raise UnframedTypeError("A LowCardinality column without keys of its own cannot be sent: cast it to String.")
    name, nullable = _split(inner)
    position = _skip(data, position + 16, nullable if name == "Nullable" else inner, count)
    return position + 8 + rows * (1 << (flags & 0xFF))


def _skip_array(data: bytes, position: int, name: str, inner: str, rows: int) -> int:
    """Offsets of each row, then all elements as one column."""
    count = int(np.frombuffer(data, "<u8", rows, position)[-1])
    position += rows * 8
    element = {"Nested": f"Tuple({inner})", "Map": f"Tuple({inner})", "Ring": "Point", "LineString": "Point"}
    return _skip(data, position, element.get(name, inner), count)


def _skip_strings(data: bytes, position: int, rows: int) -> int:
    for _ in range(rows):
        length = data[position]
        position += 1
        if length >= 0x80:
            length, position = _number(data, position - 1)
        position += length
    return position


def _written(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _text(data: bytes, position: int) -> tuple[str, int]:
    length, position = _number(data, position)
    return data[position : position + length].decode(), position + length


def _split(type_: str) -> tuple[str, str]:
    found = _TYPE.match(type_)
    return (found[1], found[2] or "") if found else (type_, "")


def _parts(inner: str) -> list[str]:
    """The arguments of a type, at the outermost level; quotes (enums, named tuples) are respected."""
    parts, depth, start, quote, position = [], 0, 0, "", 0
    while position < len(inner):
        sign = inner[position]
        if quote:
            position += sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'`":
            quote = sign
        elif sign in "()":
            depth += 1 if sign == "(" else -1
        elif sign == "," and depth == 0:
            parts.append(inner[start:position])
            start = position + 1
        position += 1
    return [*parts, inner[start:]]


def _decimal_width(inner: str) -> int:
    precision = int(_parts(inner)[0])
    return 4 if precision <= 9 else 8 if precision <= 18 else 16 if precision <= 38 else 32
