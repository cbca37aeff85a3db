"""The commands as an operator runs them: health from the first second, too old events, `top`, and an orderly end."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import Follower, processes, send

from processors.fraud.demo import simulate
from streams.local import endpoints
from streams.local.broker import Broker
from streams.local.supervisor import headrace_command
from streams.running import ensure_domain_topics
from streams.settings import Settings


def health(url: str, check: str = "ready") -> dict[str, Any]:
    """The body of a health check, whatever its status."""
    try:
        with urllib.request.urlopen(f"{url}/health/{check}", timeout=5) as answer:
            body: dict[str, Any] = json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        body = json.loads(refused.read())
    return body


def await_ready(url: str) -> list[dict[str, Any]]:
    """All that readiness said until it was so."""
    said = [health(url)]
    deadline = time.monotonic() + 60
    while not said[-1]["ready"] and time.monotonic() < deadline:
        time.sleep(0.05)
        said.append(health(url))
    return said


@pytest.mark.slow
def test_a_deployment_tells_how_it_is_and_ends_in_order(tmp_path: Path) -> None:
    """The model is said to load, a backlog gets fallbacks, `top` sees it, and all end with exit code 0."""
    (events,) = simulate(200, seed=3)
    with Broker.start(tmp_path / "broker") as broker, processes() as started, (tmp_path / "log").open("wb") as log:
        options = [f"--set=data={tmp_path}", f"--set=kafka.bootstrap={broker.bootstrap}", "--set=worker.max_age_ms=1"]
        ensure_domain_topics(Settings(data=tmp_path), "fraud", {"bootstrap.servers": broker.bootstrap})
        out = Follower(broker.bootstrap, "fraud-scores")
        send(broker.bootstrap, "transactions", list(zip(events.keys, events.values, strict=True)))
        for command in (["worker", "fraud"], ["store"]):
            started.append(subprocess.Popen(headrace_command(*options, *command), stdout=log, stderr=log))
        said = await_ready(worker := endpoints.wait_for(tmp_path, "metrics", 60))
        stored = await_ready(store := endpoints.wait_for(tmp_path, "store", 60))[-1]
        scores = [msgspec.json.decode(r.value or b"") for r in out.read_until(200, 60)]
        top = subprocess.run(headrace_command(*options, "top", "--once", "--json"), capture_output=True, timeout=60)
        live = [health(url, "live")["live"] for url in (worker, store)]
        for process in started:
            process.terminate()
        codes = [process.wait(40) for process in started]
        out.close()

    assert {"model": "being loaded"} == said[0]["missing"]
    assert {"model", "kafka", "tables", "assignment", "state"} == said[-1]["conditions"].keys()
    assert [True, True, True, True] == [said[-1]["ready"], stored["ready"], *live]
    assert (200, {"fallback"}, {"review"}) == (
        len(scores),
        {s["model"] for s in scores},
        {s["decision"] for s in scores},
    )
    picture = json.loads(top.stdout)
    assert (0, [], 1) == (top.returncode, picture["unreachable"], len(picture["stores"]))
    assert {"fallback": 200} == picture["domains"][0]["too_old"]
    assert [0, 0] == codes
