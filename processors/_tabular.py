"""Files to messages: JSON lines, CSV and Parquet, with a mapping from the columns to the fields of a message.

A row always becomes a message. What a mapping cannot make sense of passes as it stands, so that the domain's own
decoder refuses it, with its reason, where all bad messages end; only a file or a mapping that is wrong as a whole
raises. Rows keep the order of the file.
"""

from __future__ import annotations

import csv
import gzip
import json
import tomllib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from processors._cells import age, converter, time_parser, truth
from schemas.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path


__all__ = ["ColumnMapping", "MappingError", "Row", "Truth", "read_mapping", "read_rows"]

# Rows of a Parquet file turned into Python objects at a time.
_PARQUET_ROWS = 10_000
# A cell may be as large as a message that Kafka would refuse; the default of 128 kB would raise out of the reader.
_MAX_CELL = 16 * 1024 * 1024

# The largest message that the embedded broker takes.
_MOST_LINE_BYTES = 16 * 1024 * 1024


class MappingError(ValueError):
    """A mapping that cannot be read or does not fit the file; the message says which and what to do."""


class Row(NamedTuple):
    """One message of a file."""

    key: bytes | None
    value: bytes
    label: bool | None
    """The truth, where the file or the one beside it tells."""


class Truth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A CSV file beside the data that holds the labels."""

    file: str
    id: str
    """Its column with what the mapping's `id` field holds."""
    label: str


class ColumnMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which columns make which fields; TOML in a mapping file.

    A field without an entry takes the column of its own name, where there is one.
    """

    fields: dict[str, str] = {}
    """Field = column."""
    constants: dict[str, Any] = {}
    """Field = value, the same in every row."""
    times: dict[str, str] = {}
    """Field = how its column writes time: `iso`, `s` or `ms` since the epoch, or a pattern of strptime."""
    ages: dict[str, str] = {}
    """Field = column with a date of birth; becomes whole years at the first field of `times`."""
    zone: str = "UTC"
    """Of times that name none."""
    key: str = ""
    """Field that becomes the message's key."""
    id: str = ""
    """Field by which `truth` is looked up."""
    label: str = ""
    """Column with the truth, where the file has it."""
    truth: Truth | None = None
    others: bool = True
    """Whether fields without an entry take the column of their own name."""


def read_mapping(path: Path) -> ColumnMapping:
    """Reads a mapping file; raises `MappingError` where it is none."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), ColumnMapping)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise MappingError(f"Mapping file {path}: {error}") from error


def read_rows(
    path: Path, message: type[msgspec.Struct], mapping: ColumnMapping, *, plain: bool = False
) -> Iterator[Row]:
    """Reads `*.jsonl`, `*.ndjson`, `*.json`, `*.csv` (each also `.gz`) or `*.parquet`.

    Args:
        path: The file.
        message: The type of the messages, which decides between numbers and text.
        mapping: From columns to fields.
        plain: Whether JSON lines already are messages: they then pass byte for byte.

    Raises:
        MappingError: the file's kind is unknown, or it lacks a column that the mapping names.
        OSError: the file cannot be read.
    """
    kind = _kind(path)
    label_of = _labels(path, mapping)
    if kind == "json":
        yield from _json_rows(path, _Mapper(message, mapping), label_of, plain)
        return
    blocks = _csv_blocks(path) if kind == "csv" else _parquet_blocks(path)
    mapper = _Mapper(message, mapping)
    header = next(blocks)
    mapper.require(header, path)
    build = mapper.builder(header)
    for block in blocks:
        for cells in block:
            yield _row(cells, build, mapper, label_of, header)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    kind = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}.get(suffix)
    if kind is None:
        raise MappingError(f"{path.name} is none of .jsonl, .ndjson, .json, .csv (also .gz) or .parquet.")
    return kind


class _Mapper:
    """Knows how each field is written."""

    def __init__(self, message: type[msgspec.Struct], mapping: ColumnMapping) -> None:
        names = [field.encode_name for field in msgspec.structs.fields(message)]
        unknown = {*mapping.fields, *mapping.constants, *mapping.times, *mapping.ages, *filter(None, [mapping.key])}
        if unknown := unknown - set(names):
            raise MappingError(f"The mapping names {sorted(unknown)}, which {message.__name__} lacks; it has {names}.")
        self.mapping = mapping
        self._names = names
        self._required = {field.encode_name for field in msgspec.structs.fields(message) if field.required}
        self._convert = {f.encode_name: converter(f.type) for f in msgspec.inspect.type_info(message).fields}  # type: ignore[attr-defined]
        try:
            self._convert |= {field: time_parser(written, mapping.zone) for field, written in mapping.times.items()}
        except ValueError as error:
            raise MappingError(f"The mapping's times: {error}") from error

    def require(self, header: Sequence[str], path: Path) -> None:
        """Raises where a table lacks a column that the mapping names."""
        made = {*self.mapping.constants, *self.mapping.ages, *self.mapping.fields}
        named = {*self.mapping.fields.values(), *self.mapping.ages.values(), *(self._required - made)}
        if missing := sorted(named - set(header)):
            raise MappingError(
                f"{path.name} has no column {missing}; it has {list(header)}. A preset or a mapping file names columns."
            )

    def builder(self, header: Sequence[str]) -> Callable[[Sequence[Any]], dict[str, Any]]:
        """From the cells of a row to a message's fields; a missing cell or column leaves its field out."""
        columns = {name: name for name in self._names if self.mapping.others and name in header}
        columns |= self.mapping.fields
        columns = {field: column for field, column in columns.items() if field not in self.mapping.constants}
        places = [
            (field, header.index(column), self._convert[field]) for field, column in columns.items() if column in header
        ]
        births = [(field, header.index(column)) for field, column in self.mapping.ages.items() if column in header]
        when = next(iter(self.mapping.times), None)
        constants = self.mapping.constants

        def build(cells: Sequence[Any]) -> dict[str, Any]:
            fields = dict(constants)
            for field, place, convert in places:
                cell = convert(cells[place])
                if cell is not None:
                    fields[field] = cell
            for field, place in births:
                years = age(cells[place], fields.get(when) if when else None)
                if years is not None:
                    fields[field] = years
            return fields

        return build


def _row(
    cells: Sequence[Any],
    build: Callable[[Sequence[Any]], dict[str, Any]],
    mapper: _Mapper,
    label_of: dict[str, bool],
    header: Sequence[str],
) -> Row:
    """A row with too few or too many cells, or text that is not text, passes as it stands."""
    if len(cells) != len(header):
        return Row(None, _as_it_stands(cells), None)
    fields = build(cells)
    mapping = mapper.mapping
    try:
        value = encode([fields])[0]
    except (UnicodeEncodeError, msgspec.EncodeError, TypeError, OverflowError):
        return Row(None, _as_it_stands(cells), None)
    label: bool | None = None
    if mapping.label in header:
        label = truth(cells[header.index(mapping.label)])
    elif label_of:
        label = label_of.get(str(fields.get(mapping.id)))
    return Row(_key(fields.get(mapping.key)), value, label)


def _key(field: Any) -> bytes | None:
    """A text that is UTF-8; nothing else can be a key."""
    try:
        return field.encode() if isinstance(field, str) and field else None
    except UnicodeEncodeError:
        return None


def _as_it_stands(cells: Iterable[Any]) -> bytes:
    return ",".join("" if cell is None else str(cell) for cell in cells).encode("utf-8", "surrogateescape")


def _csv_blocks(path: Path) -> Iterator[Any]:
    """The header, then rows; a line that is no CSV comes as one cell, so that its length gives it away."""
    csv.field_size_limit(_MAX_CELL)
    with _opened(path) as binary:
        lines = (
            line.decode("utf-8", "surrogateescape").replace("\0", "\N{REPLACEMENT CHARACTER}")
            for line in _lines(binary)
        )
        rows = csv.reader(lines)
        header = next(rows, [])
        yield [name.removeprefix("\N{BYTE ORDER MARK}") for name in header]
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield [[f"unreadable CSV near line {rows.line_num}: {error}"]]
                continue
            if row is None:
                return
            if row:
                yield [row]


def _parquet_blocks(path: Path) -> Iterator[Any]:
    """The column names, then rows in blocks; timestamps come as epoch milliseconds, in UTC where they name no zone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def cells(column: Any) -> list[Any]:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
        values: list[Any] = column.to_pylist()
        return values

    try:
        with pq.ParquetFile(path) as file:
            yield file.schema_arrow.names
            for block in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield list(zip(*map(cells, block.columns), strict=True))
    except pa.ArrowInvalid as error:
        raise MappingError(f"{path.name} cannot be read as Parquet: {error}") from error


def _json_rows(path: Path, mapper: _Mapper, label_of: dict[str, bool], plain: bool) -> Iterator[Row]:
    mapping = mapper.mapping
    header: list[str] = []
    build = mapper.builder(header)
    with _opened(path) as file:
        for line in _lines(file):
            value = line.rstrip(b"\r\n")
            try:
                fields = json.loads(value)
            except (ValueError, RecursionError):
                fields = None
            if not isinstance(fields, dict):
                yield Row(None, value, None)
            elif plain:
                yield Row(_key(fields.get(mapping.key)), value, truth(fields.get(mapping.label)))
            else:
                if header != (header := list(fields)):
                    build = mapper.builder(header)
                yield _row(list(fields.values()), build, mapper, label_of, header)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines, of each at most what may be a message: a small archive can hold one of gigabytes."""
    while line := file.readline(_MOST_LINE_BYTES):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(_MOST_LINE_BYTES)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        yield file  # type: ignore[misc]


def _labels(path: Path, mapping: ColumnMapping) -> dict[str, bool]:
    """Truth by id from the file beside; empty where there is none."""
    source = mapping.truth
    if source is None or not (beside := path.with_name(source.file)).exists():
        return {}
    blocks = _csv_blocks(beside)
    header = next(blocks)
    if missing := sorted({source.id, source.label} - set(header)):
        raise MappingError(f"{beside.name} has no column {missing}; it has {header}.")
    place, label = header.index(source.id), header.index(source.label)
    return {row[place]: bool(truth(row[label])) for block in blocks for row in block if len(row) == len(header)}
