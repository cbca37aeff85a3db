"""The limit of the sink, `python -m scripts.bench.rawinsert JSON`: Arrow blocks that are there, into the engine."""

from __future__ import annotations

import io
import json
import sys
import time

import chdb
import pyarrow as pa


def main() -> None:
    """Prints rows per second."""
    given = json.loads(sys.argv[1])
    session = chdb.connect(given["store"])
    table, copy = given["table"], f"{given['table']}_copy"
    raw = session.query(f"SELECT * FROM {table}", "ArrowStream").bytes()  # noqa: S608 (our own names)
    rows = pa.ipc.open_stream(raw).read_all()
    streams = [_stream(rows.slice(at, given["block"])) for at in range(0, len(rows), given["block"])]
    session.query(f"CREATE TABLE {copy} AS {table}")
    began = time.perf_counter()
    for stream in streams:
        with session.send_insert(f"INSERT INTO {copy}", "ArrowStream") as target:
            target.append(stream)
            target.finish()
    taken = time.perf_counter() - began
    inserted = int(session.query(f"SELECT count() FROM {copy}").bytes())  # noqa: S608 (our own names)
    if inserted != len(rows):
        raise RuntimeError(f"{inserted} of {len(rows)} rows were inserted")
    print(json.dumps({"rows": len(rows), "rows_per_s": len(rows) / taken}))


def _stream(block: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, block.schema) as writer:
        writer.write_table(block.combine_chunks())
    return out.getvalue()


if __name__ == "__main__":
    main()
