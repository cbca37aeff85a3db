"""What commands need of a domain, whatever the domain: its input topic and the reader of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.topics import TopicType, domains, find_topic
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from processors._tabular import Row

__all__ = ["UnknownDomainError", "input_topic", "read_file", "rows_in"]


class UnknownDomainError(HeadraceError):
    """No domain of that name, or one without what is asked of it."""


def input_topic(domain: str, topic: str = "") -> TopicType:
    """The topic that takes a domain's events: the first that it declares as input, or the one named.

    Raises:
        UnknownDomainError: No such domain, or no such input of it.
    """
    declared = domains().get(domain)
    if declared is None:
        raise UnknownDomainError(f"no domain {domain!r}; there are {', '.join(sorted(domains()))}")
    inputs = [kind for kind in declared if kind.direction == "input" and topic in ("", kind.name)]
    if not inputs:
        names = ", ".join(kind.name for kind in declared if kind.direction == "input") or "none"
        raise UnknownDomainError(f"{domain} has no input topic {topic!r}; it has {names}")
    return find_topic(inputs[0].name)


def read_file(
    domain: str, topic: TopicType, path: Path, preset: str = "", mapping: Path | None = None
) -> Iterator[Row]:
    """The rows of a file, by the domain's own presets where it has some for this topic.

    Raises:
        UnknownDomainError: A preset was named and the domain has none.
        MappingError: Preset, mapping or kind of file are unknown, or do not fit.
        OSError: The file cannot be read.
    """
    from processors import part_of
    from processors._tabular import ColumnMapping, read_mapping, read_rows

    presets: Any = part_of(domain, "presets")
    if presets is not None and topic.name == input_topic(domain).name:
        rows: Iterator[Row] = presets.read(path, mapping or preset or None)
        return rows
    if preset:
        raise UnknownDomainError(f"{domain} has no presets for {topic.name}; give a mapping file")
    if mapping is not None:
        return read_rows(path, topic.message, read_mapping(mapping))
    return read_rows(path, topic.message, ColumnMapping(), plain=True)


def rows_in(path: Path) -> int | None:
    """How many rows a file has, as far as that can be told without reading it as a reader does; for progress only."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(path).metadata.num_rows)
    if path.suffix.lower() == ".gz":
        return None
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return lines - (path.suffix.lower() == ".csv")
