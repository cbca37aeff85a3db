"""`headrace bench` works and measures what it says; nothing here is timed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import orjson
import pytest

from processors.fraud.features import Columns, FraudFeatures
from processors.fraud.settings import CATEGORIES
from schemas.fraud import Transaction
from scripts.bench import cards, kafka, latency, page, pipeline, report, restore, scale, steady
from scripts.bench.contenders import features as by_hand
from scripts.bench.openloop import due_times, phases_of
from scripts.bench.rounds import alternating, ratios, spread, thinned
from scripts.bench.services import BenchError, Stage
from streams.cli.bench import Bench
from streams.clients import UnreachableError, reach
from streams.local import endpoints

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
EVENTS = 1200


def test_rounds_alternate() -> None:
    """Who is first in one round is last in the next."""
    assert [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")] == list(alternating(["a", "b"], 3))


def test_ratios_are_of_one_round() -> None:
    """Rounds in which one of the two did not run have no ratio; none at all is no spread."""
    found = ratios([2.0, None, 9.0], [1.0, 5.0, 3.0])

    assert [2.0, 3.0] == found
    assert {"median": 2.5, "low": 2.0, "high": 3.0, "rounds": 2} == spread(found)
    assert spread([]) is None


def test_thinned_keeps_the_ends() -> None:
    """A series for a plot is short, and begins and ends where the whole one does."""
    assert [0, 4, 9] == thinned(list(range(10)), 3)
    assert [1, 2] == thinned([1, 2], 3)


def test_speed_leaves_start_and_idling_out() -> None:
    """Measured from the first commit behind a second of work to the last commit, for CPU too."""
    begun = [steady.Sample(10.0, 100, 5.0), steady.Sample(11.2, 1000, 5.5)]
    worked = [steady.Sample(11.2 + at / 10, 1000 + 500 * at, 5.5 + 0.05 * at) for at in range(1, 19)]

    found = steady.speed([*begun, *worked], 10_000)

    assert (9000, 5000) == (found.events, round(found.events_per_s))
    assert 100 == round(found.cpu_us)


def test_speed_of_one_commit_is_none() -> None:
    """Where everything was answered at once there is nothing to measure between."""
    with pytest.raises(BenchError, match="too few"):
        steady.speed([steady.Sample(1.0, 500, 0.1)], 500)


def test_latency_counts_from_when_an_event_was_due() -> None:
    """An event that was sent late counts as late, a warm-up does not count, and what never came is seen."""
    phases = phases_of([10.0, 20.0], seconds=2.0, pause_s=1.0)
    due = due_times(phases)
    arrived = {"numbers": np.arange(len(due) - 1), "times": 100.0 + due[:-1] + 0.25}

    first, second = latency.latencies(arrived, phases, start=100.0, warm_s=1.0)

    assert [0.25] * 10 == first.round(6).tolist()
    assert [0.25] * 19 == second[:-1].round(6).tolist()
    assert np.isnan(second[-1])


def test_features_by_hand_are_ours() -> None:
    """The contenders' plain features equal the product's, event by event: same features everywhere."""
    events = [orjson.loads(value) for _key, value in cards.transactions(EVENTS, cards=40, days=60)]
    typed = [Transaction(**event) for event in events]
    tokens = [event["card"].encode() for event in events]
    times = np.array([event["event_time"] for event in events])
    ours = FraudFeatures().update(Columns.of(typed, tokens, times, np.zeros(EVENTS, np.int64))).inputs
    codes = {name: float(code) for code, name in enumerate(CATEGORIES)}
    known: dict[str, by_hand.Card] = {}

    theirs = [
        by_hand.features(by_hand.Transaction(**event), known.setdefault(event["card"], by_hand.Card()), codes)
        for event in events
    ]

    np.testing.assert_allclose(np.array(theirs, np.float32), ours, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A broker with a small backlog, and every contender started on it; Quix Streams where it can be had."""
    with Stage() as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT)
        kafka.make_topics(stage.bootstrap, *(pipeline.output_of(name) for name in (*pipeline.PEERS, pipeline.SHORT)))
        kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(EVENTS, cards=40, days=60))
        yield stage


@pytest.fixture(scope="module")
def answered(stage: Stage) -> list[str]:
    """The contenders that answered the whole backlog."""
    names = [pipeline.OURS, *pipeline.PEERS, pipeline.SHORT]
    pythons = {}
    try:
        pythons["quix"] = pipeline.environment(stage, "quix")
    except BenchError:  # no registry, and uv's cache does not have it
        names.remove("quix")
    processes = [pipeline.start(stage, name, f"test-{name}", pythons) for name in names]
    deadline = time.monotonic() + 120
    for name, process in zip(names, processes, strict=True):
        output = kafka.Ends(stage.bootstrap, pipeline.output_of(name))
        while output.count() < EVENTS:
            process.require_alive()
            assert time.monotonic() < deadline, f"{name} answered {output.count()} of {EVENTS}:\n{process.tail()}"
            time.sleep(0.1)
        output.close()
        process.stop()
    return names


def test_contenders_give_our_scores(stage: Stage, answered: list[str]) -> None:
    """Who has the history of the card gives the same score to every event; who has none is seen to differ."""
    starts = {name: [0] * kafka.PARTITIONS for name in answered}

    found = pipeline.agreements(stage.bootstrap, answered, starts)

    stateful = {name for name in ("quix", "faust", "one_event") if name in answered}
    assert {name: {"compared": EVENTS, "share": 1.0} for name in stateful} == {name: found[name] for name in stateful}
    for name in ("hand_batched", pipeline.SHORT):
        assert EVENTS == found[name]["compared"]
        assert 0 < found[name]["share"] < 0.9


def test_relay_writes_what_it_read(stage: Stage, answered: list[str]) -> None:
    """The limit does its work too: every message, byte for byte."""
    assert "raw_relay" in answered
    nothing = [0] * kafka.PARTITIONS
    sent = sorted(kafka.values(stage.bootstrap, cards.TOPIC, nothing, EVENTS))

    assert sent == sorted(kafka.values(stage.bootstrap, pipeline.output_of("raw_relay"), nothing, EVENTS))


def test_restore_reads_the_log_of_a_worker(stage: Stage, answered: list[str]) -> None:
    """A worker that starts on a changelog says how many entries it restored, and how long it took."""
    assert pipeline.OURS in answered
    worker = stage.worker(cards.DOMAIN, f"test-{pipeline.OURS}", log__format="json")
    worker.wait_ready()
    worker.stop()

    entries, seconds = restore.restored(worker)

    assert entries > 100
    assert 0 < seconds < 60


def test_perceptron_domain_answers(tmp_path: Path) -> None:
    """The domain of `bench scale` runs in a copy of the packages, beside those that are there."""
    scale.copy_packages(tmp_path)
    (tmp_path / "questions.jsonl").write_text('{"event_id":"a","x":1.5}\n{"event_id":"b","x":-2.0}\n')

    done = headrace(tmp_path, "try", "perceptron", "questions.jsonl")

    assert 0 == done.returncode, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["a", "b"] == [answer["event_id"] for answer in answers]
    assert all(0 < answer["y"] < 1 for answer in answers)


def test_benchmarks_need_a_checkout(tmp_path: Path) -> None:
    """From an installed copy without scripts the command says what to do."""
    for package in ("schemas", "processors", "streams"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    done = headrace(tmp_path, "bench", "pipeline", "--quick")

    assert 2 == done.returncode
    assert "error: benchmarks need a checkout" in done.stderr
    assert "uv run headrace bench" in done.stderr


def test_a_benchmark_that_is_asked_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM to the command reaches the benchmark; its services end, and its scratch folder goes."""
    started = subprocess.Popen(
        [sys.executable, "-m", "streams", "bench", "restore", "--quick", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (found := list(tmp_path.glob("headrace-bench-*/endpoints.json"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        broker = endpoints.read(found[0].parent)["kafka"]
        started.terminate()
        code = started.wait(30)
    finally:
        started.kill()
        said = started.communicate()[1]

    assert 130 == code, said
    assert [] == list(tmp_path.glob("headrace-bench-*"))
    with pytest.raises(UnreachableError):
        reach({"bootstrap.servers": broker}, 0.5)


@pytest.fixture(scope="module")
def model_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The shortest of the benchmarks, as a program calls it."""
    out = tmp_path_factory.mktemp("bench")
    return out, headrace(ROOT, "bench", "model", "--quick", "--rounds", "1", "--json", "--out", str(out))


def test_json_is_all_that_is_printed(model_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """With --json standard output is one JSON value."""
    _, done = model_run

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert {"trees", "mlp", "cnn", "recurrent", "transformer"} == set(found)
    assert all({"slice", "bare_us", "session_us", "ratio"} == set(one) for one in found.values())


def test_a_run_leaves_its_circumstances(model_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The file has machine, versions and time, and the plot is a picture."""
    out, done = model_run
    found = report.read(out, "model")

    assert found is not None
    assert json.loads(done.stdout) == found["result"]
    assert {"cpu", "cores", "memory_gb", "os", "load_before"} == set(found["machine"])
    assert {"headrace", "python", "onnxruntime", "librdkafka", "kafka"} <= set(found["versions"])
    assert found["quick"]
    assert found["started_at"] < "2100"
    assert "{http://www.w3.org/2000/svg}svg" == ElementTree.parse(out / "bench-model.svg").getroot().tag


def test_report_of_nothing(tmp_path: Path) -> None:
    """A folder without results is said to be one, and the page stays as it is."""
    before = page.PAGE.read_bytes()

    with pytest.raises(BenchError, match="there are no results"):
        page.write(tmp_path)

    assert before == page.PAGE.read_bytes()


def test_page_is_what_its_files_say() -> None:
    """docs/benchmarks.md is written from the JSON files beside it: `headrace bench report --out docs/benchmarks`."""
    assert page.page(stored()) == page.PAGE.read_text(encoding="utf-8")


def test_contracts_of_stored_results() -> None:
    """What `--json` prints keeps its shape."""
    found = stored()

    if "pipeline" in found:
        assert {"events_per_s", "ratios"} == set(found["pipeline"]["result"])
        assert set(pipeline.PEERS) == set(found["pipeline"]["result"]["ratios"])
    for point in found.get("latency", {}).get("result", ()):
        assert {"rate", "commit_ms", "p50_ms", "p99_ms", "p999_ms", "load", "delivery"} <= set(point)


def test_every_benchmark_has_a_command() -> None:
    """The command knows what the scripts know."""
    assert {*page.BENCHES, "all", "report"} == {one.value for one in Bench}
    assert set(page.BENCHES) == set(page.TEXTS)


def stored() -> dict[str, dict[str, Any]]:
    """The results that the page was written from."""
    return {name: one for name in page.BENCHES if (one := report.read(page.STORED, name)) is not None}


def headrace(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command on the packages in a folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    return subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder), "HEADRACE_DATA": str(folder / ".headrace")},
        capture_output=True,
        text=True,
        timeout=240,
    )
