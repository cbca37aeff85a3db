"""Store processes as tests handle them: started, asked, stopped, killed; and input for them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import Producer
from store_process import Reading

from schemas.envelope import Records
from streams.local.topics import TopicSpec, ensure_topics
from streams.store._waiting import Waiting
from streams.store.asking import ask_over_http
from streams.store.client import StoreError
from streams.store.status import fetch_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from schemas.envelope import Record
    from streams.chaos.disk import SmallDisk
    from streams.store.destination import Destination, Piece

SCRIPT = Path(__file__).with_name("store_process.py")
# The same on a small disk: a process joins its namespaces before anything starts a thread.
INSIDE = f"""
import runpy, sys
sys.path[:0] = [{str(SCRIPT.parents[1])!r}, {str(SCRIPT.parent)!r}]
from streams.chaos.disk import join
join(int(sys.argv.pop()))
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
START_S = 60.0
TOKEN = "write-for-tests"
ADMIN = {"admin_token": TOKEN, "max_body_bytes": 64_000_000}
COUNTS = "SELECT count(), uniqExact(number), uniqExact(_partition, _offset) FROM readings"


class StoreProcess:
    """One run of `store_process.py`; everything it prints besides its URL is in `log`."""

    def __init__(
        self, data: Path, kafka: str, topic: str = "none", disk: SmallDisk | None = None, **options: Any
    ) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.log = data / "store.log"
        arguments = {"data": str(data), "kafka": kafka, "topic": topic, **options}
        command = [sys.executable, str(SCRIPT), json.dumps(arguments)]
        if disk is not None:
            command = [sys.executable, "-c", INSIDE, json.dumps(arguments), disk.options[1]]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.token = options.get("store", {}).get("admin_token", "")
        self.url = self._await_url()

    def _await_url(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline().decode().strip() if readable else ""
        if not line:
            self.process.kill()
            raise AssertionError(f"the store did not start: {self.log.read_text()[-3000:]}")
        return line

    def ask(self, sql: str, **params: str) -> list[list[Any]]:
        """Rows of an answer."""
        answer = ask_over_http(self.url, self.token, "headrace", sql, "JSONCompactEachRow", params)
        return [json.loads(line) for line in answer.body.splitlines()]

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        return fetch_status(self.url, self.token, timeout_s=30)

    def get(self, path: str) -> tuple[int, str]:
        """The status and text of a page of its endpoint."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def signal(self, number: int) -> None:
        """Sends it a signal: SIGSTOP, SIGCONT."""
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kills it as -9 does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ends it in order; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> StoreProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


def counts(store: StoreProcess) -> list[int]:
    """Rows, different numbers, different offsets: all equal where each message is one row."""
    return [int(count) for count in store.ask(COUNTS)[0]]


def server_url(server: StoreProcess) -> str:
    """Its address with the administrator's password."""
    return server.url.replace("http://", f"http://default:{TOKEN}@") + "/headrace"


def wait_until(check: Callable[[], bool], timeout_s: float = 60.0, what: str = "what the test waits for") -> None:
    """Returns when the check holds; a store that does not answer just now does not count against it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if check():
                return
        except StoreError:
            pass
        assert time.monotonic() < deadline, f"{what} did not come in {timeout_s:.0f} s"
        time.sleep(0.05)


def value(number: int) -> bytes:
    """The message of a number."""
    return msgspec.json.encode(
        Reading(number, f"s{number % 7}", number / 3, ["a", "b"][: number % 3], 1_790_000_000_000)
    )


def pieces_of(destination: Destination, records: Sequence[Record]) -> tuple[list[Piece], int]:
    """The inserts that records of one partition take at once, and how many of them are no rows."""
    waiting = Waiting(destination)
    waiting.add(Records.of(records))
    return waiting.pieces()


class Input:
    """A topic and a transactional producer to it."""

    def __init__(self, kafka: str, topic: str, partitions: int = 3) -> None:
        self.topic = topic
        self.partitions = partitions
        config = {"bootstrap.servers": kafka}
        ensure_topics(config, {topic: TopicSpec(partitions)})
        self.producer = Producer({**config, "transactional.id": f"{topic}-tx", "linger.ms": 1})
        self.producer.init_transactions(30)

    def commit(self, numbers: Iterable[int], **options: Any) -> None:
        """One committed transaction."""
        self._transaction(map(value, numbers), **options)
        self.producer.commit_transaction(30)

    def abort(self, numbers: Iterable[int]) -> None:
        """One aborted transaction, whose messages really are in the log."""
        self._transaction(map(value, numbers))
        self.producer.flush(30)
        self.producer.abort_transaction(30)

    def commit_raw(self, values: Iterable[bytes | None], **options: Any) -> None:
        """Committed messages of any bytes."""
        self._transaction(values, **options)
        self.producer.commit_transaction(30)

    def _transaction(self, values: Iterable[bytes | None], partition: int = -1, timestamps: Sequence[int] = ()) -> None:
        self.producer.begin_transaction()
        for at, content in enumerate(values):
            where = at % self.partitions if partition < 0 else partition
            self.producer.produce(self.topic, content, partition=where, timestamp=timestamps[at] if timestamps else 0)
