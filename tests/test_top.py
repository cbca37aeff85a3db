"""`headrace top`: figures from two looks, a picture that fits its terminal, and what cannot be reached is named."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from harness import send
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from rich.console import Console

from schemas.envelope import Record, Reject
from streams.cli._app import run
from streams.local.topics import TopicSpec, ensure_topics
from streams.observe.health import Conditions, Endpoint, always
from streams.observe.metrics import MonitorMetrics, SinkMetrics, WorkerMetrics, process_registry
from streams.top.figures import Picture, picture, quantile
from streams.top.offsets import AskedKafka
from streams.top.sight import Offsets, Process, Sight, Unreachable, look, look_at
from streams.top.view import drawn

RECORD = Record("t", 0, 0, None, None, 0)


def worker_metrics(slot: str = "0", domain: str = "fraud") -> WorkerMetrics:
    """A worker that says what it is."""
    metrics = WorkerMetrics(process_registry("worker", domain=domain, slot=slot))
    metrics.observe_model(f"{domain}@1.0.0", ["CPUExecutionProvider"], 128)
    return metrics


def work(metrics: WorkerMetrics, events: int = 1000) -> None:
    """Some micro-batches, a transaction, and all else that is shown."""
    metrics.observe_batch(events, [Reject(RECORD, "invalid_json")] * 10)
    for stage, seconds in (("poll", 0.5), ("prepare", 0.2), ("execute", 0.3), ("commit", 0.1)):
        metrics.observe_stage(stage, seconds)
    metrics.observe_latency(np.full(events, 0.035))
    metrics.observe_run(events, 128, 0.01, 0)
    metrics.observe_transaction("committed", events)
    metrics.observe_transaction("aborted", 0)
    metrics.observe_too_old("fallback", 5)
    metrics.observe_lag({0: 1234567, 3: 12})
    metrics.observe_fetched(5_000_000)


def seen(
    metrics: WorkerMetrics | SinkMetrics | MonitorMetrics, at: float, url: str = "http://w:1", **how: object
) -> Process:
    """The process as a look would see it, at this second."""
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    return Process(url, at, samples, **how)  # type: ignore[arg-type]


@pytest.fixture
def shown() -> Picture:
    """Two looks, two seconds apart, at a deployment that has something to say of everything."""
    worker, sink, monitor = (
        worker_metrics(),
        SinkMetrics(process_registry("store")),
        MonitorMetrics(process_registry("monitor")),
    )
    before = Sight(
        [seen(worker, 0.0), seen(sink, 0.0, "http://s:1"), seen(monitor, 0.0, "http://m:1")],
        {"fraud": Offsets(0.0, {0: 100, 3: 100}, {0: 50})},
    )
    work(worker)
    worker.observe_restore({3: (5, 10)})
    sink.observe_insert("scores", 500, 0.1)
    sink.observe_delay(2000, np.array([1000, 1500]))
    sink.observe_lag({("fraud-scores", 0): 7})
    monitor.observe_read({"tallies": 20}, [])
    after = Sight(
        [
            seen(worker, 2.0),
            seen(
                worker_metrics("1"), 2.0, "http://w:2", missing={"state": "restoring 3 partitions, 1 of 9 offsets read"}
            ),
            seen(sink, 2.0, "http://s:1"),
            seen(monitor, 2.0, "http://m:1", missing={"progress": "none for 40 s"}, live=False),
        ],
        {"fraud": Offsets(2.0, {0: 2100, 3: 100}, {0: 1050, 3: 90})},
        [Unreachable("http://w:3", "Connection refused")],
    )
    return picture(before, after)


def test_figures_are_differences(shown: Picture) -> None:
    """Rates, shares, means and percentiles are those of the time between two looks; totals are totals."""
    [domain], [store], [monitor] = shown.domains, shown.stores, shown.monitors

    assert (1000.0, 545.0, 495.0, 5.0, 0.5) == (
        domain.in_per_s,
        domain.answered_per_s,
        domain.results_per_s,
        domain.dead_letters_per_s,
        domain.committed_per_s,
    )
    assert ({0: 1050, 3: 10}, {3: 0.5}) == (domain.lag, domain.restoring)
    assert {"poll": 0.25, "prepare": 0.1, "execute": 0.15, "commit": 0.05} == {
        stage: pytest.approx(share) for stage, share in domain.stages.items() if share
    }
    assert (35.0, 39.9) == (pytest.approx(domain.p50_ms), pytest.approx(domain.p99_ms))
    assert (1000.0, 10.0, 128.0) == (
        domain.micro_batch_events,
        pytest.approx(domain.model_us_per_row),
        domain.slice_rows,
    )
    assert ({"invalid_json": 10}, {"fallback": 5}, 1) == (domain.dead_letters, domain.too_old, domain.aborted)
    assert (250.0, {"fraud-scores": 7}) == (store.rows_per_s, store.lag)
    assert (500.0, 10.0) == (pytest.approx(store.delay_p50_ms), monitor.messages_per_s)
    assert [True, False] == [member.ready for member in domain.workers]


def test_the_first_look_has_no_rates(shown: Picture) -> None:
    """What is only known by comparing is unknown, and totals are there."""
    metrics = worker_metrics()
    work(metrics)

    [domain] = picture(None, Sight([seen(metrics, 1.0)])).domains

    assert (None, None, None) == (domain.in_per_s, domain.answered_per_s, domain.p99_ms)
    assert ({"invalid_json": 10}, {0: 1234567, 3: 12}) == (domain.dead_letters, domain.lag)


def test_a_process_that_began_anew_counts_from_zero() -> None:
    """A restart between two looks makes no negative rate."""
    old, new = worker_metrics(), worker_metrics()
    work(old, 5000)
    work(new, 1000)
    before, after = seen(old, 0.0), seen(new, 2.0)
    key = ("process_start_time_seconds", frozenset[tuple[str, str]]())
    after.samples[key] = before.samples[key] + 60

    [domain] = picture(Sight([before]), Sight([after])).domains

    assert 495.0 == domain.results_per_s


@given(st.lists(st.floats(0.001, 50.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    """As near as buckets let it be: between the bounds around the value at that rank."""
    bounds = [0.01, 0.1, 1.0, 10.0, 100.0]
    registry = CollectorRegistry()
    histogram = Histogram("h", "H.", buckets=bounds, registry=registry)
    for value in values:
        histogram.observe(value)
    buckets = {bound: registry.get_sample_value("h_bucket", {"le": str(bound)}) or 0.0 for bound in bounds}

    found = quantile(share, buckets)

    true = sorted(values)[max(0, int(np.ceil(share * len(values))) - 1)]
    upper = next(bound for bound in bounds if true <= bound)
    lower = max([0.0, *(bound for bound in bounds if bound < upper)])
    assert found is not None
    assert lower <= found <= upper


def test_a_quantile_of_nothing_is_unknown() -> None:
    """No events, no percentile; beyond the last bound it is that bound."""
    assert (None, None) == (quantile(0.5, {}), quantile(0.5, {1.0: 0.0, float("inf"): 0.0}))
    assert 1.0 == quantile(0.5, {1.0: 0.0, float("inf"): 3.0})


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_picture_fits(shown: Picture, width: int) -> None:
    """At every width each number is whole and no line is longer than the terminal."""
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)

    console.print(drawn(shown, width))

    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for word in (
        "1,000",
        "545",
        "1,060",
        "35 ms",
        "40 ms",
        "10.0 µs/row",
        "3: 50%",
        "250",
        "500 ms",
        "invalid_json 10",
    ):
        assert word in text
    for word in ("fallback 5", "worker 1", "not ready", "stuck", "state: restoring", "not reached", "http://w:3"):
        assert word in text


def test_nothing_at_all_says_what_to_do() -> None:
    """Where nothing runs the picture is a sentence."""
    console = Console(width=80, file=io.StringIO(), record=True)

    console.print(drawn(picture(None, Sight()), 80))

    assert "headrace up" in console.export_text()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts endpoints of processes; returns their URLs."""
    with ExitStack() as stack:

        def start(registry: CollectorRegistry, ready: Conditions = always, live: Conditions = always) -> str:
            return stack.enter_context(Endpoint(registry, ready, live)).url

        yield start


def test_a_process_is_looked_at(serve: Callable[..., str]) -> None:
    """Metrics and what is missing of its health; a URL that is none, or answers nothing, is a finding."""
    url = serve(worker_metrics().registry, lambda: {"state": "restoring", "model": ""}, lambda: {"progress": "stuck"})

    process = look_at(url + "/")

    assert isinstance(process, Process)
    assert ({"state": "restoring", "progress": "stuck"}, False) == (process.missing, process.live)
    assert 128.0 == process.value("headrace_model_slice_rows")
    assert Unreachable("http://127.0.0.1:1", "Connection refused") == look_at("http://127.0.0.1:1")
    assert "is no http:// or https:// address" in look_at("nonsense").why  # type: ignore[union-attr]


def test_kafka_that_is_away_hides_nothing_else(serve: Callable[..., str]) -> None:
    """The processes are shown, and Kafka is named among what was not reached."""
    asked = AskedKafka({"bootstrap.servers": "127.0.0.1:1"}, {"fraud": ("transactions", "group")})

    found = look([serve(worker_metrics().registry)], asked.ask)

    assert 1 == len(found.processes)
    assert ["Kafka"] == [one.what for one in found.unreachable]


def commit(consumer: Consumer, position: TopicPartition) -> None:
    """Commits; a broker that has just started does not take it at once."""
    for _ in range(100):
        try:
            consumer.commit(offsets=[position], asynchronous=False)
        except KafkaException:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the broker takes no offsets")


def test_offsets_come_from_kafka(kafka: str, topic_name: Callable[..., str]) -> None:
    """Ends and committed offsets of a group that nobody has to be in; a topic that is not there is left out."""
    topic, group = topic_name("in"), topic_name("group")
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(2)})
    send(kafka, topic, [(b"k", b"v")] * 30)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in (0, 1)]
    busy = ends.index(30)
    commit(consumer, TopicPartition(topic, busy, 12))
    consumer.close()

    found = AskedKafka({"bootstrap.servers": kafka}, {"a": (topic, group), "b": (topic_name("no"), group)}).ask()

    assert ["a"] == list(found)
    assert ({busy: 30, 1 - busy: 0}, {busy: 12}) == (found["a"].end, found["a"].committed)


def test_the_command_prints_json_for_scripts(
    serve: Callable[..., str], kafka: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """One object; exit code 0 where all is well, 1 where something is not reached."""
    monkeypatch.setenv("HEADRACE_KAFKA", kafka)
    monkeypatch.setenv("HEADRACE_DATA", os.devnull)
    url = serve(worker_metrics().registry)
    command = ["top", "fraud", "--url", url, "--interval", "0.2", "--once", "--json"]

    codes = [run(command), run([*command, "--url", "http://127.0.0.1:1"])]

    fine, poor = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [0, 1] == codes
    assert (["fraud"], ["worker 0"]) == (
        [domain["name"] for domain in fine["domains"]],
        [worker["name"] for worker in fine["domains"][0]["workers"]],
    )
    assert [{"what": "http://127.0.0.1:1", "why": "Connection refused"}] == poor["unreachable"]
