"""Endpoints of running services: merged by many processes, shown only while their owners live."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from streams.local import endpoints
from streams.local.connection import NoBrokerError, kafka_config
from streams.settings import KafkaSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_endpoints_of_several_owners_are_merged(tmp_path: Path, other_process: subprocess.Popen[bytes]) -> None:
    """Each owner adds its keys to the one file and leaves the others' alone; scripts read the keys at its top."""
    endpoints.publish(tmp_path, "kafka", "127.0.0.1:1", pid=other_process.pid)
    endpoints.publish(tmp_path, "clickhouse", "http://127.0.0.1:2")
    endpoints.publish(tmp_path, "clickhouse", "http://127.0.0.1:3")
    content = json.loads((tmp_path / "endpoints.json").read_text())

    assert endpoints.read(tmp_path) == {"kafka": "127.0.0.1:1", "clickhouse": "http://127.0.0.1:3"}
    assert (content["kafka"], content["clickhouse"]) == ("127.0.0.1:1", "http://127.0.0.1:3")


def test_an_owner_takes_back_its_own_only(tmp_path: Path, other_process: subprocess.Popen[bytes]) -> None:
    """Withdrawing leaves what belongs to others; the last one takes the file with it."""
    endpoints.publish(tmp_path, "kafka", "a", pid=other_process.pid)
    endpoints.publish(tmp_path, "metrics", "b")
    endpoints.publish(tmp_path, "clickhouse", "c")
    endpoints.withdraw(tmp_path, "kafka", "metrics")
    after_one = endpoints.read(tmp_path)
    endpoints.withdraw(tmp_path)
    after_all = endpoints.read(tmp_path)
    endpoints.withdraw(tmp_path, pid=other_process.pid)

    assert after_one == {"kafka": "a", "clickhouse": "c"}
    assert after_all == {"kafka": "a"}
    assert not (tmp_path / "endpoints.json").exists()


def test_the_dead_have_no_endpoints(tmp_path: Path, other_process: subprocess.Popen[bytes]) -> None:
    """What a killed process left is not shown, not even before it is buried, and goes with the next change."""
    endpoints.publish(tmp_path, "kafka", "gone", pid=other_process.pid)
    other_process.kill()
    subprocess.run(["sleep", "0.1"], check=True)
    shown = endpoints.read(tmp_path)
    endpoints.publish(tmp_path, "metrics", "here")

    assert shown == {}
    assert "kafka" not in json.loads((tmp_path / "endpoints.json").read_text())


def test_an_endpoint_names_its_process(tmp_path: Path, other_process: subprocess.Popen[bytes]) -> None:
    """The process behind an endpoint is known while it lives."""
    endpoints.publish(tmp_path, "kafka", "x", pid=other_process.pid)
    alive = endpoints.owner(tmp_path, "kafka")
    other_process.kill()
    other_process.wait()

    assert (other_process.pid, None, None) == (
        alive,
        endpoints.owner(tmp_path, "kafka"),
        endpoints.owner(tmp_path, "nothing"),
    )


def test_a_process_id_that_came_again_is_no_owner(tmp_path: Path) -> None:
    """An owner is a process id and its start: another process with the same id owns nothing."""
    endpoints.publish(tmp_path, "kafka", "a")
    file = tmp_path / "endpoints.json"
    content = json.loads(file.read_text())
    content["owners"]["kafka"]["started"] = "1"
    file.write_text(json.dumps(content))

    assert endpoints.read(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kafka": "a"}', '{"owners": 3}', "\x00\x00"])
def test_a_broken_file_is_an_empty_one(tmp_path: Path, content: str) -> None:
    """A file that cannot be read shows nothing and is replaced by the next change."""
    (tmp_path / "endpoints.json").write_text(content)
    shown = endpoints.read(tmp_path)
    endpoints.publish(tmp_path, "metrics", "b")

    assert shown == {}
    assert endpoints.read(tmp_path) == {"metrics": "b"}


def test_publishing_at_once_loses_nothing(tmp_path: Path) -> None:
    """Many writers at the same moment: every key is in the file afterwards."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: endpoints.publish(tmp_path, f"metrics.{number}", str(number)), range(64)))

    assert {f"metrics.{number}": str(number) for number in range(64)} == endpoints.read(tmp_path)


def test_waiting_ends_in_time(tmp_path: Path) -> None:
    """Waiting returns a published endpoint at once and names the missing one when the time is over."""
    endpoints.publish(tmp_path, "kafka", "a")

    assert endpoints.wait_for(tmp_path, "kafka", 0.0) == "a"
    with pytest.raises(endpoints.EndpointTimeoutError, match="no 'clickhouse' in"):
        endpoints.wait_for(tmp_path, "clickhouse", 0.1)


def test_a_configured_cluster_comes_first(tmp_path: Path) -> None:
    """With a bootstrap in the settings it is used, with its security, whatever runs embedded."""
    endpoints.publish(tmp_path, "kafka", "127.0.0.1:1")
    security = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "mine",
    }
    settings = Settings(data=tmp_path, kafka=KafkaSettings(bootstrap="cluster:9092", security=security))

    assert {**security, "bootstrap.servers": "cluster:9092"} == kafka_config(settings)


def test_without_a_cluster_the_embedded_broker_is_used(tmp_path: Path) -> None:
    """Without a bootstrap the running broker of the data directory is found; without one the error says what to do."""
    settings = Settings(data=tmp_path)
    with pytest.raises(NoBrokerError, match="run `headrace up`, or set HEADRACE_KAFKA"):
        kafka_config(settings)
    endpoints.publish(tmp_path, "kafka", "127.0.0.1:1")

    assert kafka_config(settings) == {"bootstrap.servers": "127.0.0.1:1"}
