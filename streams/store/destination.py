"""Records of one topic → batches that ClickHouse takes whole, and rejects for what is no row."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.clickhouse import read_rows, to_arrow
from schemas.envelope import Reject
from streams.store.tables import REJECTS, SinkReject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.clickhouse import Table
    from schemas.codec import Codec
    from schemas.envelope import Records

__all__ = ["Destination", "Piece"]


class Piece(NamedTuple):
    """What goes into ClickHouse with one insert: rows of one table that lie in one partition of it."""

    table: str
    batch: pa.Table
    first: int
    """The least offset in it."""
    last: int

    def token(self, topic: str, partition: int) -> str:
        """What ClickHouse knows the insert by, should it come twice."""
        return f"{self.table}:{topic}:{partition}:{self.first}-{self.last}"

    @property
    def month(self) -> str:
        """The partition of the table, as ClickHouse calls it."""
        return str(self.batch["_timestamp"].to_numpy()[0].astype("datetime64[M]")).replace("-", "")


class Destination:
    """The table of a topic."""

    def __init__(self, table: Table, codec: Codec[Any] | None = None) -> None:
        self.table = table
        self._codec = codec

    def decode(self, records: Records) -> tuple[list[pa.Table], list[Reject]]:
        """Columns of the records, and rejects for those that are no rows.

        One that no check foresaw is found by halving. Raises nothing for what a record holds; only for a schema
        registry that is away (OSError).
        """
        try:
            rows, kept, rejects = read_rows(self.table, records, self._codec)
            return [to_arrow(self.table, rows, kept)] if rows else [], rejects
        except OSError:
            raise
        except Exception as error:
            if len(records) == 1:
                detail = f"The message is no row of {self.table.name}: {type(error).__name__}."
                return [], [Reject(records[0], "unreadable", "", detail)]
        middle = len(records) // 2
        (left, left_rejects), (right, right_rejects) = self.decode(records[:middle]), self.decode(records[middle:])
        return left + right, left_rejects + right_rejects

    def pieces(self, batches: Sequence[pa.Table], rejects: Sequence[Reject]) -> list[Piece]:
        """The inserts that a batch of one Kafka partition takes, of whose records `decode` made this."""
        pieces = list(_split(self.table.name, pa.concat_tables(batches))) if batches else []
        if rejects:
            batch = to_arrow(REJECTS, list(map(_row, rejects)), [reject.record for reject in rejects])
            pieces += _split(REJECTS.name, batch)
        return pieces


def _split(table: str, batch: pa.Table) -> Iterator[Piece]:
    """Cuts a batch at months of Kafka's time, by which the tables are partitioned: an insert is atomic within one."""
    months = batch["_timestamp"].to_numpy().astype("datetime64[M]")
    found = np.unique(months)
    for month in found:
        part = batch if len(found) == 1 else batch.filter(months == month)
        offsets = part["_offset"].to_numpy()
        yield Piece(table, part, int(offsets.min()), int(offsets.max()))


def _row(reject: Reject) -> SinkReject:
    value = reject.record.value
    digest = "" if value is None else hashlib.sha256(value).hexdigest()
    return SinkReject(reject.reason, reject.path[:256], reject.detail, len(value or b""), digest)
