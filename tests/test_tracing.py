"""Traces: from the headers of events to the headers of results, by OTLP, and nothing at all where they are off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import Producer
from counting_worker import make_worker
from doubles import CountingProcessor
from harness import Follower, running
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_receiver import Collector, collector

from schemas.envelope import Message, Record
from streams.errors import AbortError
from streams.observe._spans import Tracing, _context_of, exporting
from streams.observe.metrics import WorkerMetrics
from streams.observe.tracing import open_tracing, traced
from streams.settings import TracingSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"


def parent(number: int) -> str:
    """A `traceparent` of an event's sender."""
    return f"00-{TRACE}-{number:016x}-01"


class KeepingEmitter:
    """Keeps what it is sent; fails where it is told to."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.failing = False

    def send(self, messages: Sequence[Message]) -> None:
        if self.failing:
            raise AbortError("told to")
        self.sent += list(messages)


@pytest.fixture
def otlp() -> Any:
    with collector() as kept:
        yield kept


def open_to(otlp: Collector, **settings: Any) -> Tracing:
    tracing = open_tracing(TracingSettings(endpoint=otlp.url, **settings), "counting", "0")
    assert tracing is not None
    return tracing


def stand_in(tracing: Tracing) -> tuple[Any, Any, KeepingEmitter, Any]:
    """A traced processor, metrics and emitter without Kafka, and the emitter that is wrapped."""
    kept = KeepingEmitter()
    processor, metrics, make = traced(
        tracing,
        CountingProcessor("in", "out"),
        WorkerMetrics(),
        lambda _source: kept,  # type: ignore[arg-type,return-value]
    )
    return processor, metrics, kept, make(None)  # type: ignore[arg-type]


def records(*headers: Sequence[tuple[str, bytes | None]]) -> list[Record]:
    return [Record("in", 0, n, b"k", b"v", 1000, tuple(h)) for n, h in enumerate(headers)]


def test_events_results_and_spans_are_one_story(stage: dict[str, str], otlp: Collector) -> None:
    """Through Kafka: each event's context is linked from a micro-batch, whose context its result carries on."""
    producer = Producer({"bootstrap.servers": stage["bootstrap"]})
    for n in range(1, 41):
        value = b"bad" if n % 20 == 0 else b"%d" % n
        producer.produce(stage["topic"], value, b"k", headers=[("traceparent", parent(n).encode()), ("x", b"y")])
    producer.flush(10)
    tracing = open_to(otlp, headers="Authorization=hush")
    processor, metrics, _ = traced(tracing, CountingProcessor(stage["topic"], stage["output"]), WorkerMetrics(), None)  # type: ignore[arg-type]
    worker = make_worker(
        **stage,
        slot="0",
        processor=processor,
        metrics=metrics,
        wrap=lambda emitter: tracing.emitter(emitter, [stage["output"]]),
    )
    out, dead = (
        Follower(stage["bootstrap"], stage["output"]),
        Follower(stage["bootstrap"], f"{stage['output']}.dead-letters"),
    )
    with tracing, running(worker):
        results = out.read_until(38, 30)
        letters = dead.read_until(2, 10)

    out.close()
    dead.close()
    batches = otlp.named(f"process {stage['topic']}")
    linked = [link for batch in batches for link in batch.links]
    assert {(TRACE, f"{n:016x}") for n in range(1, 41)} == {
        (link.trace_id.hex(), link.span_id.hex()) for link in linked
    }
    assert 40 == len(linked)
    assert {"headrace-counting"} == otlp.services
    assert {"hush"} == otlp.credentials
    carried = {dict(r.headers)["traceparent"].decode() for r in results}  # type: ignore[union-attr]
    assert {f"00-{b.trace_id.hex()}-{b.span_id.hex()}" for b in batches} >= {c.rpartition("-")[0] for c in carried}
    assert {1} == {int(c.rpartition("-")[2], 16) & 1 for c in carried}
    assert {parent(20), parent(40)} == {dict(r.headers)["traceparent"].decode() for r in letters}  # type: ignore[union-attr]
    by_batch = {
        batch.span_id: sorted(s.name for s in otlp.spans if s.parent_span_id == batch.span_id) for batch in batches
    }
    assert {("execute", "interpret", "prepare", "produce")} == {tuple(names) for names in by_batch.values()}
    committed = {link.span_id for span in otlp.named("commit") for link in span.links}
    assert {batch.span_id for batch in batches} == committed


def test_stages_lie_inside_their_micro_batch(otlp: Collector) -> None:
    """Children follow each other within the parent, and last as long as was measured."""
    tracing = open_to(otlp)
    processor, metrics, kept, emitter = stand_in(tracing)
    with tracing:
        processor.prepare(records([], []))
        for stage, seconds in (("prepare", 0.001), ("execute", 0.002), ("interpret", 0.003)):
            metrics.observe_stage(stage, seconds)
        emitter.send([Message("out", b"k", b"v", None, (("own", b"1"),)), Message("other", b"k", b"v")])
        metrics.observe_stage("produce", 0.0)
        emitter.send([Message("out", b"k", b"side")])

    [batch] = otlp.named("process in")
    children = [otlp.named(name)[0] for name in ("prepare", "execute", "interpret")]
    assert [1_000_000, 2_000_000, 3_000_000] == [c.end_time_unix_nano - c.start_time_unix_nano for c in children]
    assert children[0].end_time_unix_nano == children[1].start_time_unix_nano
    assert Span.SPAN_KIND_CONSUMER == batch.kind
    assert [["own", "traceparent"], [], []] == [[name for name, _ in m.headers] for m in kept.sent]


def test_what_is_aborted_is_an_error(otlp: Collector) -> None:
    """The micro-batch that failed, and the transaction with those before it, say so."""
    tracing = open_to(otlp)
    processor, metrics, kept, emitter = stand_in(tracing)
    with tracing:
        for failing in (False, True):
            kept.failing = failing
            processor.prepare(records([]))
            try:
                emitter.send([Message("out", b"k", b"v")])
            except AbortError:
                metrics.observe_transaction("aborted", 2)
            else:
                metrics.observe_stage("produce", 0.0)

    first, second = otlp.named("process in")
    [commit] = otlp.named("commit")
    assert [Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR] == [first.status.code, second.status.code]
    assert ("aborted", {first.span_id, second.span_id}) == (
        commit.status.message,
        {link.span_id for link in commit.links},
    )


def test_links_are_bounded(otlp: Collector) -> None:
    """A micro-batch of thousands does not make a span of thousands of links."""
    tracing = open_to(otlp, max_links=3)
    processor, metrics, _, _ = stand_in(tracing)
    with tracing:
        processor.prepare(records(*([("traceparent", parent(n + 1).encode())] for n in range(50))))
        metrics.observe_stage("produce", 0.0)

    assert 3 == len(otlp.named("process in")[0].links)


def test_what_is_not_sampled_is_not_sent_but_carried_on(otlp: Collector) -> None:
    """Results carry a context that says so, and no collector hears of it."""
    tracing = open_to(otlp, sample=0.0)
    processor, metrics, kept, emitter = stand_in(tracing)
    with tracing:
        processor.prepare(records([]))
        emitter.send([Message("out", b"k", b"v")])
        metrics.observe_stage("produce", 0.0)
        metrics.observe_stage("commit", 0.0)

    assert [] == otlp.spans
    assert 0 == int((dict(kept.sent[0].headers)["traceparent"] or b"").rpartition(b"-")[2], 16) & 1


def test_a_collector_that_is_away_does_no_harm() -> None:
    """Spans are dropped, and the end does not wait for long."""
    tracing = Tracing(exporting(TracingSettings(endpoint="http://127.0.0.1:1"), "counting", "0"), 8)
    processor, metrics, kept, emitter = stand_in(tracing)
    with tracing:
        processor.prepare(records([]))
        emitter.send([Message("out", b"k", b"v")])
        metrics.observe_stage("produce", 0.0)

    assert 1 == len(kept.sent)


@given(
    st.lists(
        st.tuples(st.sampled_from(["traceparent", "tracestate", "x"]), st.none() | st.binary(max_size=60)), max_size=4
    )
)
def test_headers_of_strangers_are_no_matter(headers: list[tuple[str, bytes | None]]) -> None:
    """Whatever a sender calls its trace context, reading it raises nothing."""
    assert _context_of(records(headers)[0]) is None


def test_off_means_nothing_is_imported() -> None:
    """Without an endpoint a worker's code does not load OpenTelemetry, and nothing is wrapped."""
    code = (
        "import sys, streams.running, streams.settings as s; from streams.observe.tracing import open_tracing, traced;"
        "assert open_tracing(s.TracingSettings(), 'd', '0') is None; a = object();"
        "assert traced(None, a, a, a) == (a, a, a);"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert ("[]\n", "") == (done.stdout, done.stderr)
