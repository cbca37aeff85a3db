"""Traces of a worker, off unless configured: from the headers of events, to the headers of results.

One span per micro-batch, with a link to the context of each event that brought one (W3C `traceparent`), and a child
for each stage; one span per transaction that links to its micro-batches. A result's header `traceparent` names the
span of its micro-batch, so that whoever reads it goes on from there. Dead letters keep the original's headers as they
are.

Nothing here is part of the hot path: what the worker is made of is wrapped where tracing is on, and left alone where
it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from processors import Processor
    from streams.emitter import Emitter
    from streams.observe._spans import Tracing
    from streams.observe.metrics import WorkerMetrics
    from streams.settings import TracingSettings
    from streams.source import Source

__all__ = ["open_tracing", "traced"]


def open_tracing(settings: TracingSettings, domain: str, slot: str) -> Tracing | None:
    """What traces a worker; None where no endpoint is set, and then nothing of OpenTelemetry is imported.

    Raises:
        SetupError: OpenTelemetry is not installed.
    """
    if not settings.endpoint:
        return None
    try:
        from streams.observe._spans import Tracing, exporting
    except ImportError as error:
        raise SetupError(
            f"tracing.endpoint is set, but OpenTelemetry is not installed ({error}): `uv sync --extra tracing`, or"
            " `pip install 'headrace[tracing]'`"
        ) from error
    return Tracing(exporting(settings, domain, slot), settings.max_links)


def traced(
    tracing: Tracing | None,
    processor: Processor,
    metrics: WorkerMetrics,
    make_emitter: Callable[[Source], Emitter],
) -> tuple[Processor, WorkerMetrics, Callable[[Source], Emitter]]:
    """What a worker is made of, wrapped where it is traced."""
    if tracing is None:
        return processor, metrics, make_emitter
    return (
        tracing.processor(processor),
        tracing.metrics(metrics),
        lambda source: tracing.emitter(make_emitter(source), processor.output_topics),
    )
