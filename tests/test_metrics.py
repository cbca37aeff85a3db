"""What a process says of itself: metrics, health, logs."""

from __future__ import annotations

import io
import json
import logging
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
import onnx_models
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import send
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from processors._session import Session
from schemas.envelope import Record, Reject
from streams.local.topics import TopicSpec, ensure_topics
from streams.observe import logs
from streams.observe._collectors import ArrayHistogram
from streams.observe.health import Endpoint, always
from streams.observe.metrics import LATENCY_BUCKETS_S, STAGES, SinkMetrics, WorkerMetrics
from streams.observe.model import MeasuredSession
from streams.observe.queues import watch_consumer, watch_producer
from streams.settings import LogSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RECORD = Record("in", 0, 0, None, None, 0)


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_micro_batch_is_counted() -> None:
    """Events, results and dead letters by reason add up."""
    metrics = WorkerMetrics()

    metrics.observe_batch(10, [Reject(RECORD, "a"), Reject(RECORD, "a"), Reject(RECORD, "b")])
    metrics.observe_batch(2, [])

    own = metrics.registry
    assert (12, 9, 2, 1) == (
        sample(own, "headrace_events_read_total"),
        sample(own, "headrace_results_total"),
        sample(own, "headrace_dead_letters_total", reason="a"),
        sample(own, "headrace_dead_letters_total", reason="b"),
    )
    assert 2 == sample(own, "headrace_micro_batch_events_count")


def test_stages_and_transactions_are_counted() -> None:
    """Every stage has its seconds, every outcome its transactions and events."""
    metrics = WorkerMetrics()

    for stage in STAGES:
        metrics.observe_stage(stage, 0.25)
    metrics.observe_transaction("committed", 100)
    metrics.observe_transaction("aborted", 7)

    own = metrics.registry
    assert [0.25] * len(STAGES) == [sample(own, "headrace_stage_seconds_sum", stage=stage) for stage in STAGES]
    assert (1, 100) == (
        sample(own, "headrace_transactions_total", outcome="committed"),
        sample(own, "headrace_transaction_events_total", outcome="committed"),
    )
    assert 7 == sample(own, "headrace_transaction_events_total", outcome="aborted")


def test_what_is_no_longer_held_is_no_longer_shown() -> None:
    """A partition that went to another worker must not leave its last lag behind for ever."""
    metrics = WorkerMetrics()

    metrics.observe_lag({0: 5, 1: 6})
    metrics.observe_lag({1: 7})
    metrics.observe_restore({1: (5, 10), 2: (0, 0)})
    metrics.observe_counters({"late_events": 3})

    own = metrics.registry
    assert (None, 7) == tuple(sample(own, "headrace_consumer_lag_messages", partition=p) for p in "01")
    assert (0.5, 1.0) == tuple(sample(own, "headrace_restore_progress_ratio", partition=p) for p in "12")
    assert 3 == sample(own, "headrace_processor_events_total", kind="late_events")


def test_the_model_is_shown() -> None:
    """Which model answers, where it runs, and in slices of how many rows."""
    metrics = WorkerMetrics()

    metrics.observe_model("fraud@1", ["CUDA", "CPU"], 256)

    assert 1 == sample(metrics.registry, "headrace_model_info", model="fraud@1", providers="CUDA,CPU")
    assert 256 == sample(metrics.registry, "headrace_model_slice_rows")


def test_the_sink_is_counted() -> None:
    """Rows, failures and lag of the sink."""
    metrics = SinkMetrics()

    metrics.observe_insert("t", 100, 0.5)
    metrics.observe_failure()
    metrics.observe_unreadable(2)
    metrics.observe_lag({("topic", 3): 9})

    own = metrics.registry
    assert (100, 0.5, 1, 2, 9) == (
        sample(own, "headrace_sink_rows_total", table="t"),
        sample(own, "headrace_sink_insert_seconds_sum", table="t"),
        sample(own, "headrace_sink_failures_total"),
        sample(own, "headrace_sink_unreadable_messages_total"),
        sample(own, "headrace_sink_lag_messages", topic="topic", partition="3"),
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 100))))
def test_an_array_histogram_counts_as_prometheus_does(batches: list[list[float]]) -> None:
    """Whole arrays at once give the same buckets as the client's own histogram gives one by one."""
    from prometheus_client import Histogram

    registry = CollectorRegistry()
    ours = ArrayHistogram("ours", "Ours.", LATENCY_BUCKETS_S, registry)
    theirs = Histogram("theirs", "Theirs.", buckets=LATENCY_BUCKETS_S, registry=registry)

    for batch in batches:
        if batch:
            ours.observe(np.array(batch))
        for value in batch:
            theirs.observe(value)

    bounds = [*map(str, LATENCY_BUCKETS_S), "+Inf"]
    assert [registry.get_sample_value("theirs_bucket", {"le": bound}) for bound in bounds] == [
        registry.get_sample_value("ours_bucket", {"le": bound}) for bound in bounds
    ]
    assert registry.get_sample_value("theirs_sum") == pytest.approx(registry.get_sample_value("ours_sum"))


def test_a_latency_below_zero_counts_as_none() -> None:
    """Clocks of two machines differ; a negative latency must not spoil the sum."""
    metrics = WorkerMetrics()

    metrics.observe_latency([-5.0, 0.03])
    metrics.observe_latency([])

    assert (2, 0.03) == (
        sample(metrics.registry, "headrace_latency_seconds_count"),
        sample(metrics.registry, "headrace_latency_seconds_sum"),
    )


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_endpoint_serves_metrics_and_health() -> None:
    """`/metrics` can be parsed; health follows what the process says; other paths are told what there is."""
    metrics = WorkerMetrics()
    metrics.observe_latency([0.03])
    missing = "being loaded"

    with Endpoint(metrics.registry, lambda: {"model": missing, "state": ""}) as endpoint:
        status, text = fetch(endpoint.url + "/metrics?x=1")
        names = {family.name for family in text_string_to_metric_families(text)}
        answers = [fetch(endpoint.url + path) for path in ("/health/live", "/health/ready", "/nothing")]
        missing = ""
        later = fetch(endpoint.url + "/health/ready")

    assert 200 == status
    assert {"headrace_latency_seconds", "headrace_events_read"} <= names
    assert [
        (200, {"live": True}),
        (
            503,
            {
                "ready": False,
                "conditions": {"model": False, "state": True},
                "missing": {"model": "being loaded"},
            },
        ),
    ] == [(code, json.loads(body)) for code, body in answers[:2]]
    assert (404, True) == (answers[2][0], "/health/ready" in answers[2][1])
    assert (200, {"ready": True, "conditions": {"model": True, "state": True}}) == (later[0], json.loads(later[1]))


def test_a_check_that_fails_is_an_answer() -> None:
    """A check that raises makes the process not ready; the endpoint goes on."""

    def broken() -> dict[str, str]:
        msg = "no broker"
        raise OSError(msg)

    with Endpoint(CollectorRegistry(), broken) as endpoint:
        assert (503, {"check": "OSError: no broker"}) == (
            (answer := fetch(endpoint.url + "/health/ready"))[0],
            json.loads(answer[1])["missing"],
        )
        assert 200 == fetch(endpoint.url + "/health/live")[0]


def test_a_closed_endpoint_frees_its_port() -> None:
    """Another process can take the port at once."""
    with Endpoint(CollectorRegistry(), always) as first:
        port = int(first.url.rpartition(":")[2])
    with Endpoint(CollectorRegistry(), always, port=port) as second:
        assert first.url == second.url
        with pytest.raises(OSError, match="in use"):
            Endpoint(CollectorRegistry(), always, port=port)


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """Where the root logger writes during a test; afterwards it is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_logs_are_json_lines_away_from_a_terminal(log_stream: io.StringIO) -> None:
    """Each line is one JSON object with time, level, who speaks, and what was given besides."""
    logs.configure(LogSettings(), process="worker-1", stream=log_stream)

    logging.getLogger("streams.x").info("read %d\nrows", 3, extra={"partition": 2, "what": {"a": 1}})
    logging.getLogger("streams.x").debug("not this")

    [line] = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    assert line.pop("time").endswith("Z")
    assert {
        "level": "info",
        "logger": "streams.x",
        "message": "read 3\nrows",
        "process": "worker-1",
        "partition": 2,
        "what": "{'a': 1}",
    } == line


@pytest.mark.parametrize("style", ["json", "text"])
def test_secrets_reach_no_log(log_stream: io.StringIO, style: str) -> None:
    """Neither messages, nor what is given besides, nor tracebacks show a secret."""
    logs.configure(LogSettings(format=style), secrets=frozenset({"hunter22"}), stream=log_stream)  # type: ignore[arg-type]

    try:
        raise ValueError("the password is hunter22")
    except ValueError:
        logging.getLogger("x").exception("at https://me:pw@host with %s", "hunter22", extra={"url": "hunter22"})

    text = log_stream.getvalue()
    assert "hunter22" not in text
    assert "me:pw@" not in text
    assert "ValueError: the password is ****" in text


def test_text_lines_are_readable(log_stream: io.StringIO) -> None:
    """Text away from a terminal has no colours; libraries that chat are heard from `warning` on."""
    logs.configure(LogSettings(level="debug", format="text"), process="store", stream=log_stream)

    logging.getLogger("streams.x").debug("hello")
    logging.getLogger("faust").info("chat")
    logging.getLogger("faust").warning("news")

    assert ["debug   store hello", "warning store news"] == [
        line.split(" ", 1)[1] for line in log_stream.getvalue().splitlines()
    ]


def test_runs_of_the_model_are_counted(tmp_path: Path) -> None:
    """Whole slices, the rest, seconds, runs that raised and rows that failed alone; the answers are the session's."""
    session = Session.open(onnx_models.table(tmp_path / "table.onnx"), slice=4)
    metrics = WorkerMetrics()
    inputs = {"index": np.array([0, 1, 5000, 2, 0, 1], np.int64)}
    expected, failed = session.run(inputs)

    outputs, failed_too = MeasuredSession(session, metrics).run(inputs)

    own = metrics.registry
    assert failed.keys() == failed_too.keys() == {2}
    assert expected["square"].tolist() == outputs["square"].tolist()
    assert (1, 1, 2, 6) == (
        sample(own, "headrace_model_seconds_count"),
        sample(own, "headrace_model_failed_rows_total"),
        sample(own, "headrace_model_run_rows_count"),
        sample(own, "headrace_model_run_rows_sum"),
    )
    assert (sample(own, "headrace_model_failed_runs_total") or 0) >= 2


def test_the_producers_queue_is_shown() -> None:
    """What no broker has acknowledged is counted in bytes by the client itself."""
    metrics = WorkerMetrics()
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, **watch_producer(metrics)})
    producer.produce("topic", b"x" * 100_000)

    shown = wait_for_sample(metrics, "headrace_producer_queue_bytes", lambda: producer.poll(0.1))

    assert shown >= 100_000
    producer.purge()


def test_what_was_read_ahead_is_shown(kafka: str, topic_name: Callable[..., str]) -> None:
    """The client reads on while one message is taken at a time."""
    metrics, topic = WorkerMetrics(), topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    send(kafka, topic, [(b"k", b"x" * 1000)] * 500)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic, **watch_consumer(metrics)})
    consumer.assign([TopicPartition(topic, 0, 0)])

    shown = wait_for_sample(metrics, "headrace_fetch_queue_bytes", lambda: (consumer.consume(1, 0.1), time.sleep(0.05)))

    consumer.close()
    assert 100_000 < shown <= 500 * 1100


def wait_for_sample(metrics: WorkerMetrics, name: str, turn: Callable[[], object]) -> float:
    """The first value above zero of a gauge, while something is done again and again."""
    deadline = time.monotonic() + 20
    while not (value := sample(metrics.registry, name)) and time.monotonic() < deadline:
        turn()
    return value or 0.0
