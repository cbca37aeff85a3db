"""Spans of a worker, made by wrapping its processor, its metrics and its emitter; see `streams.observe.tracing`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, cast

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from opentelemetry.trace import Span, SpanContext

    from processors import Prepared, Processor
    from schemas.envelope import Message, Record
    from streams.emitter import Emitter
    from streams.observe.metrics import WorkerMetrics
    from streams.settings import TracingSettings

__all__ = ["Tracing", "exporting"]

_PROPAGATOR = TraceContextTextMapPropagator()
# Not what some library may have made current in this thread.
_NOWHERE = Context()
_FIELDS = frozenset(_PROPAGATOR.fields)
# Between two attempts a collector that is away costs a worker nothing; at its end, this long.
_EXPORT_TIMEOUT_S = 5.0
_BATCH_STAGES = ("prepare", "execute", "interpret", "produce")


def exporting(settings: TracingSettings, domain: str, slot: str) -> TracerProvider:
    """Where spans of a worker go: by OTLP over HTTP, in the background, dropped where the collector is away."""
    given = dict(pair.split("=", 1) for pair in settings.headers.split(",") if "=" in pair)
    exporter = OTLPSpanExporter(
        endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces", headers=given, timeout=_EXPORT_TIMEOUT_S
    )
    about: dict[str, str | int] = {
        "service.name": f"headrace-{domain}",
        "service.instance.id": slot,
        "process.pid": os.getpid(),
    }
    provider = TracerProvider(
        sampler=TraceIdRatioBased(settings.sample),
        resource=Resource.create(about),
        span_limits=SpanLimits(max_links=settings.max_links),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Tracing:
    """The spans of one worker; a context manager that sends what is left at its end.

    Args:
        provider: Where spans go.
        max_links: Events of a micro-batch, or micro-batches of a transaction, that a span names at most.
    """

    def __init__(self, provider: TracerProvider, max_links: int) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("headrace")
        self._max_links = max_links
        self._batch: _Batch | None = None
        self._transaction: list[SpanContext] = []

    def __enter__(self) -> Tracing:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up("the worker ended")
        self._provider.shutdown()

    def processor(self, processor: Processor) -> Processor:
        """The same processor, of which prepare begins a micro-batch."""
        return cast("Processor", _Processor(processor, self))

    def metrics(self, metrics: WorkerMetrics) -> WorkerMetrics:
        """The same metrics, whose stages become spans too."""
        return cast("WorkerMetrics", _Metrics(metrics, self))

    def emitter(self, emitter: Emitter, output_topics: Iterable[str]) -> Emitter:
        """The same emitter, which writes the micro-batch's context into the headers of results."""
        return cast("Emitter", _Emitter(emitter, self, frozenset(output_topics)))

    def begin(self, records: Sequence[Record]) -> None:
        """A micro-batch begins."""
        self.give_up("the micro-batch was not finished")
        span = self._tracer.start_span(
            f"process {records[0].topic}",
            context=_NOWHERE,
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": records[0].topic,
                "messaging.batch.message_count": len(records),
            },
            links=list(self._links(records)),
        )
        self._batch = _Batch(span)
        self._note(span)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage took so long until now."""
        if stage == "commit":
            self._end_transaction(time.time_ns() - _ns(seconds), None)
        elif self._batch is not None and stage in _BATCH_STAGES:
            self._batch.stage(self._tracer, stage, seconds)
            if stage == _BATCH_STAGES[-1]:
                self._batch.span.end()
                self._batch = None

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """What results of the micro-batch in hand carry."""
        return () if self._batch is None else self._batch.headers

    def aborted(self) -> None:
        """The transaction was aborted: its micro-batches will be read again."""
        self.give_up("aborted")
        self._end_transaction(time.time_ns(), "aborted")

    def give_up(self, why: str) -> None:
        """Ends the span of a micro-batch that will not be finished."""
        if self._batch is not None:
            self._batch.span.set_status(Status(StatusCode.ERROR, why))
            self._batch.span.end()
            self._batch = None

    def _links(self, records: Sequence[Record]) -> Iterator[Link]:
        room = self._max_links
        for record in records:
            if not room:
                return
            context = _context_of(record)
            if context is not None:
                room -= 1
                yield Link(
                    context,
                    {
                        "messaging.destination.partition.id": str(record.partition),
                        "messaging.kafka.offset": record.offset,
                    },
                )

    def _note(self, span: Span) -> None:
        if span.is_recording() and len(self._transaction) < self._max_links:
            self._transaction.append(span.get_span_context())

    def _end_transaction(self, began_ns: int, failure: str | None) -> None:
        batches, self._transaction = self._transaction, []
        if not batches:
            return
        span = self._tracer.start_span(
            "commit", context=_NOWHERE, kind=SpanKind.PRODUCER, links=[Link(b) for b in batches], start_time=began_ns
        )
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end()


class _Batch:
    def __init__(self, span: Span) -> None:
        self.span = span
        self._context = set_span_in_context(span)
        self._at_ns = time.time_ns()
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        self.headers = tuple((name, value.encode()) for name, value in carrier.items())

    def stage(self, tracer: Any, name: str, seconds: float) -> None:
        """Stages are told of when they are over, some of them together, in their order and without gaps between."""
        if not self.span.is_recording():
            return
        # Results are sent after a gap, and told of at once.
        began = time.time_ns() - _ns(seconds) if name == _BATCH_STAGES[-1] else self._at_ns
        self._at_ns = began + _ns(seconds)
        tracer.start_span(name, context=self._context, start_time=began).end(self._at_ns)


class _Processor:
    # A stage belongs to the micro-batch that began last.
    prepares_ahead = False

    def __init__(self, processor: Processor, tracing: Tracing) -> None:
        self._processor = processor
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def prepare(self, records: list[Record]) -> Prepared:
        self._tracing.begin(records)
        return self._processor.prepare(records)


class _Metrics:
    def __init__(self, metrics: WorkerMetrics, tracing: Tracing) -> None:
        self._metrics = metrics
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metrics, name)

    def observe_stage(self, stage: str, seconds: float) -> None:
        self._metrics.observe_stage(stage, seconds)
        self._tracing.stage(stage, seconds)

    def observe_transaction(self, outcome: str, events: int) -> None:
        self._metrics.observe_transaction(outcome, events)
        if outcome == "aborted":
            self._tracing.aborted()


class _Emitter:
    # What is sent carries the span of the micro-batch in hand, so none may be sent later than the next one is begun.
    overlaps = False

    def __init__(self, emitter: Emitter, tracing: Tracing, output_topics: frozenset[str]) -> None:
        self._emitter = emitter
        self._tracing = tracing
        self._topics = output_topics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emitter, name)

    def send(self, messages: Iterable[Message]) -> None:
        ours = self._tracing.headers()
        self._emitter.send((self._marked(message, ours) for message in messages) if ours else messages)

    def _marked(self, message: Message, ours: tuple[tuple[str, bytes], ...]) -> Message:
        if message.topic not in self._topics:
            return message
        return msgspec.structs.replace(message, headers=(*message.headers, *ours))


def _context_of(record: Record) -> SpanContext | None:
    """The trace context that an event brought, if it brought one that can be read."""
    carrier = {name: value.decode("ascii", "replace") for name, value in record.headers if name in _FIELDS and value}
    if not carrier:
        return None
    context = get_current_span(_PROPAGATOR.extract(carrier, _NOWHERE)).get_span_context()
    return context if context.is_valid else None


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
