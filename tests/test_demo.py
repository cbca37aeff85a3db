"""The main job as a user runs it: `headrace demo` and `headrace up`, with everything they start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pytest
from processes import gone
from rich.console import Console

from processors.fraud.demo import simulate
from streams.demo.run import load_demo
from streams.demo.view import LiveView, Progress
from streams.local import endpoints
from streams.local.supervisor import headrace_command

SUMMARY = {
    "events_in",
    "scored",
    "dead_letters",
    "missing",
    "duplicates",
    "rows_in_clickhouse",
    "p50_ms",
    "p99_ms",
    "events_per_s",
    "fraud_rate",
    "roc_auc",
    "average_precision",
}


def headrace(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        headrace_command(*arguments),
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **(env or {})},
        check=False,
    )


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_cut_off(width: int) -> None:
    """However narrow the terminal, the figures of a run are whole."""
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    progress = Progress(9_876_543)
    progress.sent, progress.answered, progress.dead_letters = 1_234_567, 1_111_111, 22_222
    progress.tick(1.0)

    console.print(LiveView(load_demo("fraud"), console).drawn(progress))

    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert ["1,234,567", "1,111,111", "22,222"] == [n for n in ("1,234,567", "1,111,111", "22,222") if n in shown]


@pytest.mark.slow
def test_the_demo_accounts_for_every_event() -> None:
    """One command starts everything, every event is answered once, and stdout is one JSON object."""
    ran = headrace("demo", "--events", "6000", "--rate", "1500", "--workers", "2", "--json")

    assert 0 == ran.returncode, ran.stderr
    summary = json.loads(ran.stdout)
    assert SUMMARY == set(summary)
    assert (6000, 6000, 0, 0, 0, 6000) == tuple(
        summary[k] for k in ("events_in", "scored", "dead_letters", "missing", "duplicates", "rows_in_clickhouse")
    )
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert summary["roc_auc"] > 0.6


@pytest.mark.slow
def test_the_demo_takes_a_file_with_bad_rows(tmp_path: Path) -> None:
    """A file of one's own: bad rows and a double become dead letters, the others are scored; plain lines by default."""
    file = tmp_path / "transactions.jsonl"
    values = [value for events in simulate(1000, seed=3) for value in events.values]
    file.write_bytes(b"\n".join([*values[:500], b"no JSON", values[7], b'{"event_id": "x"}', *values[500:]]) + b"\n")

    ran = headrace("demo", "--input", str(file), "--rate", "0")

    assert 0 == ran.returncode, ran.stderr
    lines = dict(line.split() for line in ran.stdout.splitlines() if line.startswith("  ") and len(line.split()) == 2)
    assert ("1,003", "1,000", "3", "0", "0", "1,000") == tuple(
        lines[k] for k in ("events_in", "scored", "dead_letters", "missing", "duplicates", "rows_in_clickhouse")
    )
    assert "Every event answered exactly once" in ran.stdout
    assert "\x1b" not in ran.stdout


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_with_what_was_sent() -> None:
    """A run that is stopped accounts for the events it sent, says that it was stopped, and leaves with 130."""
    with _demo("--rate", "200") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("sent") and "answered 0" not in line:
                break
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        code = demo.wait(30)

    assert 130 == code, rest
    assert "Stopped: every event until then answered exactly once" in rest
    assert "Next:" not in rest
    lines = dict(line.split() for line in rest.splitlines() if line.startswith("  ") and len(line.split()) == 2)
    assert 0 < int(lines["events_in"].replace(",", "")) < 5_000
    assert lines["scored"] == lines["rows_in_clickhouse"] == lines["events_in"]


@pytest.mark.slow
def test_ctrl_c_is_heard_while_the_services_start() -> None:
    """Stopped before its broker answers, the demo sends nothing and sums up nothing."""
    with _demo() as demo:
        time.sleep(1.5)
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=30)

    assert 130 == demo.returncode
    assert "answered" not in said


def _demo(*options: str) -> subprocess.Popen[str]:
    command = headrace_command("demo", "--events", "20000", *options)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


@pytest.mark.slow
def test_up_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """`up` runs what `produce`, `consume`, `query` and `dlq` need, names it in endpoints.json, and leaves nothing."""
    data = {"HEADRACE_DATA": str(tmp_path)}
    file = tmp_path / "transactions.jsonl"
    values = [value for events in simulate(200, seed=4) for value in events.values]
    file.write_bytes(b"\n".join([*values, b"no JSON"]) + b"\n")
    with subprocess.Popen(headrace_command("up"), env={**os.environ, **data}, stdout=subprocess.DEVNULL) as up:
        try:
            for key in ("kafka", "clickhouse", "metrics"):
                endpoints.wait_for(tmp_path, key, 60)
            known = json.loads((tmp_path / "endpoints.json").read_text())
            produced = headrace("produce", "fraud", str(file), "--send-invalid", env=data)
            consumed = headrace("consume", "fraud-scores", "--follow", "--count", "200", "--json", env=data)
            counted = await_count(200, data)
            letters = headrace("dlq", "list", "fraud", "--json", env=data)
            began = time.monotonic()
            again = headrace("up", env=data)
            refused_after_s = time.monotonic() - began
        finally:
            up.send_signal(signal.SIGINT)
            code = up.wait(30)

    assert {"kafka", "clickhouse", "metrics"} <= set(known)
    assert 0 == produced.returncode, produced.stderr
    assert 200 == len({json.loads(line)["value"]["event_id"] for line in consumed.stdout.splitlines()})
    assert 200 == counted
    assert "invalid_json" in letters.stdout
    assert (1, True) == (again.returncode, "already runs a broker" in again.stderr)
    assert refused_after_s < 15
    assert code in (0, 130)
    assert all(gone(owner["pid"]) for owner in known["owners"].values())
    assert {} == endpoints.read(tmp_path)


def await_count(count: int, env: Mapping[str, str]) -> int:
    """Rows in `fraud_scores`, once there are that many, or after a while."""
    deadline = time.monotonic() + 30
    found = -1
    while found < count and time.monotonic() < deadline:
        asked = headrace("query", "SELECT count() FROM fraud_scores", "--format", "TabSeparated", env=env)
        found = int(asked.stdout) if asked.returncode == 0 else -1
    return found
