"""The limit of the sink, `python -m scripts.bench.rawinsert JSON`: Arrow blocks that are there, into the engine."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import chdb
import pyarrow as pa

from streams.store._embedded import quoted_settings
from streams.store.client import BATCH_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

# As any client inserts, and in the way of the sink's own inserts.
_WAYS: dict[str, Mapping[str, str]] = {"raw": {}, "raw_tuned": BATCH_SETTINGS}


def main() -> None:
    """Prints rows per second of each way; with `turn` odd the second way comes first."""
    given = json.loads(sys.argv[1])
    session = chdb.connect(given["store"])
    raw = session.query(f"SELECT * FROM {given['table']}", "ArrowStream").bytes()  # noqa: S608 (our own names)
    rows = pa.ipc.open_stream(raw).read_all()
    streams = [_stream(rows.slice(at, given["block"])) for at in range(0, len(rows), given["block"])]
    ways = list(_WAYS)[:: -1 if given["turn"] % 2 else 1]
    rates = {way: _rate(session, given["table"], streams, len(rows), _WAYS[way]) for way in ways}
    print(json.dumps({"rows": len(rows), **rates}))


def _rate(session: Any, table: str, streams: list[bytes], rows: int, settings: Mapping[str, str]) -> float:
    copy = f"{table}_copy"
    session.query(f"CREATE TABLE {copy} AS {table}")
    how = f" SETTINGS {quoted_settings(settings)}" if settings else ""
    began = time.perf_counter()
    for stream in streams:
        with session.send_insert(f"INSERT INTO {copy}{how}", "ArrowStream") as target:
            target.append(stream)
            target.finish()
    taken = time.perf_counter() - began
    inserted = int(session.query(f"SELECT count() FROM {copy}").bytes())  # noqa: S608 (our own names)
    if inserted != rows:
        raise RuntimeError(f"{inserted} of {rows} rows were inserted")
    # Its merges must not run beside the next way.
    session.query(f"DROP TABLE {copy} SYNC")
    return rows / taken


def _stream(block: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, block.schema) as writer:
        writer.write_table(block.combine_chunks())
    return out.getvalue()


if __name__ == "__main__":
    main()
