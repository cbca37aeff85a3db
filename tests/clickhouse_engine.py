"""A real ClickHouse engine of its own, in a process of its own: an engine takes one directory a process.

    python tests/clickhouse_engine.py DIRECTORY

Reads one JSON object a line, `{"sql": …}`, and answers each with one line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa


class Engine:
    """The process; statements one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(directory / "engine")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Runs a statement and returns its rows."""
        return self._ask({"sql": sql})

    def insert(self, table: str, rows: pa.Table) -> None:
        """Inserts Arrow rows."""
        file = self._directory / "rows.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        columns = ", ".join(f"`{name}`" for name in rows.column_names)
        self.query(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM file('{file}', Arrow)")

    def columns(self, table: str) -> dict[str, str]:
        """Types of a table's columns, in order."""
        rows = self.query(
            f"SELECT name, type FROM system.columns WHERE database = 'headrace' AND table = '{table}' ORDER BY position"
        )
        return {row["name"]: row["type"] for row in rows}

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return list(answer["rows"])


def serve(directory: str) -> None:
    """Answers until standard input ends."""
    from chdb import session

    engine = session.Session(directory)
    for line in sys.stdin:
        try:
            text = str(engine.query(json.loads(line)["sql"], "JSONEachRow"))
            answer: dict[str, Any] = {"rows": [json.loads(row) for row in text.split("\n") if row]}
        except Exception as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    engine.close()


if __name__ == "__main__":
    serve(sys.argv[1])
