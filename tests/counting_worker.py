"""A worker process around `CountingProcessor`, to be killed: `python tests/counting_worker.py JSON`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from doubles import CountingProcessor, EchoingSession, SilentMetrics, SlowSession, StuckSession

from streams.emitter import AtLeastOnceEmitter, TransactionalEmitter
from streams.grace import Grace
from streams.settings import WorkerSettings
from streams.worker import Worker


def make_worker(
    bootstrap: str,
    topic: str,
    output: str,
    group: str,
    slot: str,
    *,
    static: bool = True,
    processor: Any = None,
    session: Any = None,
    metrics: Any = None,
    wrap: Callable[[Any], Any] = lambda emitter: emitter,
    **settings: object,
) -> Worker:
    """A worker on `topic`, whose changelog and dead letters are named after its output topic."""
    kafka = {"bootstrap.servers": bootstrap, "log_level": 2}
    chosen = WorkerSettings(**{"session_timeout_ms": 3000, "commit_interval_ms": 20, **settings})  # type: ignore[arg-type]

    def emitter(source: object) -> TransactionalEmitter | AtLeastOnceEmitter:
        if chosen.delivery == "at-least-once":
            return AtLeastOnceEmitter(kafka, source.consumer)  # type: ignore[attr-defined]
        return TransactionalEmitter(kafka, f"{group}-{slot}", transaction_timeout_ms=10_000, timeout_s=5)

    return Worker(
        processor or CountingProcessor(topic, output),
        session or EchoingSession(),
        chosen,
        kafka=kafka,
        group=group,
        instance=f"{group}-{slot}" if static else None,
        changelog=f"{output}.changelog",
        dead_letters=f"{output}.dead-letters",
        make_emitter=lambda source: wrap(emitter(source)),
        metrics=metrics or SilentMetrics(),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    arguments = json.loads(sys.argv[1])
    stuck, row_us = arguments.pop("stuck", False), arguments.pop("row_us", 0)
    worker = make_worker(**arguments, session=StuckSession() if stuck else SlowSession(row_us) if row_us else None)
    with Grace(arguments.get("shutdown_grace_s", 30.0), worker.stop, "leaving"):
        worker.run()
