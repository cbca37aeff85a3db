"""The users that `docker-compose.yml` gives ClickHouse may do their work and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from deployments import (
    DEPLOY,
    ROOT,
    sha256,
)

if TYPE_CHECKING:
    from pathlib import Path


class TestUsers:
    """The users of ClickHouse, on a real engine: each may do its work and nothing else."""

    QUESTIONS = (
        "SELECT n FROM headrace.t SETTINGS max_threads = 1",
        "INSERT INTO headrace.t VALUES (9)",
        "DROP TABLE headrace.t",
        "CREATE TABLE headrace.u (n UInt8) ENGINE Memory",
        "SELECT n FROM other.t",
    )
    ASK = """
import sys, chdb
connection = chdb.connect(sys.argv[1])
for sql in sys.argv[2:]:
    try:
        print(connection.query(sql, "TabSeparated").bytes().decode().strip() or "done")
    except Exception as error:
        print("refused" if "Code: 497" in str(error) or "Code: 164" in str(error) else error)
"""
    WORK = """
import json, sys, chdb
from schemas.clickhouse import tables
from streams.store.tables import ensure_tables

class Engine:
    database = "headrace"
    def __init__(self):
        self.connection = chdb.connect(sys.argv[1])
    def rows(self, sql, params=None):
        text = self.connection.query(sql, "JSONCompactEachRow", params=params or {}).bytes().decode()
        return [json.loads(line) for line in text.splitlines()]
    def execute(self, sql, params=None):
        self.connection.query(sql, "TabSeparated", params=params or {})

engine = Engine()
for days in (365, 30):
    print(len(ensure_tables(engine, tables(), days)))
print(engine.rows("SELECT count() FROM system.processes WHERE startsWith(query, 'INSERT INTO')")[0][0])
"""

    @staticmethod
    def run(script: str, *arguments: str) -> list[str]:
        """What a script prints in a process of its own: an engine is one per process."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, env=environment
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout.splitlines()

    @staticmethod
    def as_user(name: str, folder: Path) -> str:
        """Where to connect to be this user: an embedded engine has no other but `default`."""
        (folder / "secret").write_text(
            f"<clickhouse><headrace_sha256>{sha256('')}</headrace_sha256>"
            f"<reader_sha256>{sha256('')}</reader_sha256></clickhouse>"
        )
        root = ElementTree.parse(DEPLOY / "clickhouse-users.xml").getroot()
        users, profiles, include = root.find("users"), root.find("profiles"), root.find("include_from")
        assert users is not None
        assert profiles is not None
        assert include is not None
        include.text = str(folder / "secret")
        users.remove(next(user for user in users if user.tag == "default"))
        next(user for user in users if user.tag == name).tag = "default"
        ElementTree.SubElement(profiles, "default")
        ElementTree.SubElement(ElementTree.SubElement(root, "quotas"), "default")
        path = folder / f"{name}.xml"
        ElementTree.ElementTree(root).write(path)
        config = folder / f"{name}-config.xml"
        config.write_text(
            f"<clickhouse><user_directories><users_xml><path>{path}</path></users_xml></user_directories>"
            f"<users_config>{path}</users_config></clickhouse>"
        )
        return f"{folder / 'db'}?config-file={config}"

    def test_the_reader_reads_and_changes_nothing(self, tmp_path: Path) -> None:
        """Under the reader's profile and grants a question is answered and everything else refused."""
        made = (
            f"CREATE DATABASE {name}; CREATE TABLE {name}.t ENGINE MergeTree ORDER BY n AS SELECT 7 AS n"
            for name in ("headrace", "other")
        )
        self.run(self.ASK, str(tmp_path / "db"), *[sql for one in made for sql in one.split("; ")])
        answers = self.run(self.ASK, self.as_user("reader", tmp_path), *self.QUESTIONS)

        assert ["7", *["refused"] * (len(self.QUESTIONS) - 1)] == answers

    def test_the_store_can_work_and_nothing_else(self, tmp_path: Path) -> None:
        """Under the store's grants all tables are made and changed; another database, or dropping one, is refused."""
        place = self.as_user("headrace", tmp_path)
        made, changed, running = self.run(self.WORK, place)
        answers = self.run(
            self.ASK,
            place,
            "INSERT INTO headrace._sink_owners (topic, partition, epoch, owner) VALUES ('t', 0, 1, 'me')",
            "SELECT max(epoch) FROM headrace._sink_owners",
            "DROP TABLE headrace.fraud_scores",
            "CREATE DATABASE other",
            "SELECT * FROM url('http://127.0.0.1:9', CSV, 'n UInt8')",
        )

        assert int(made) > int(changed) > 0
        assert "0" == running
        assert ["done", "1", "refused", "refused", "refused"] == answers
