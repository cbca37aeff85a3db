"""Batches as ClickHouse reads them, and names and values as its SQL does."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["arrow_stream", "column_list", "escaped", "identifier", "literal", "parameters"]


def arrow_stream(batch: pa.Table, *, compress: bool = False) -> bytes:
    """A table as one record batch of Arrow's stream format: one block for ClickHouse."""
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4" if compress else None)
    with pa.ipc.new_stream(buffer, batch.schema, options=options) as writer:
        writer.write_table(batch.combine_chunks())
    return buffer.getvalue()


def column_list(batch: pa.Table) -> str:
    """The names of a batch's columns, as INSERT and SELECT take them."""
    return ", ".join(map(identifier, batch.column_names))


def identifier(name: str) -> str:
    """A name in backquotes."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """A string in quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def parameters(params: Mapping[str, Any] | None) -> dict[str, str]:
    """Values for `{name:Type}` as the engine reads them: as fields of tab-separated text."""
    return {name: escaped(value) for name, value in (params or {}).items()}


def escaped(value: Any) -> str:
    """One field of tab-separated text."""
    text = str(value)
    for plain, shown in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(plain, shown)
    return text
