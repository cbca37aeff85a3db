"""A worker process put together: its topics, its model, its identity in the group, its metrics and its end."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from processors import DomainError
from processors._contract import ModelError
from processors._tokens import TokenKeyError
from schemas.dead_letter import topic_name as dead_letter_topic
from schemas.topics import domains, events_of
from streams._garbage import calm_garbage_collection
from streams.emitter import AtLeastOnceEmitter, TransactionalEmitter
from streams.errors import SetupError
from streams.grace import Grace
from streams.loading import Opened, open_domain
from streams.local import endpoints
from streams.local.allowed import require_rights
from streams.local.connection import kafka_config
from streams.local.topics import TopicsError, TopicSpec, batch_bytes, ensure_topics, message_limits
from streams.observe.health import Endpoint, progressing
from streams.observe.metrics import WorkerMetrics, process_registry
from streams.observe.model import MeasuredSession
from streams.observe.queues import watch_consumer, watch_producer
from streams.observe.tracing import open_tracing, traced
from streams.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.topics import TopicType
    from streams.emitter import Emitter
    from streams.local.topics import Difference
    from streams.observe._spans import Tracing
    from streams.settings import Settings
    from streams.source import Source

log = logging.getLogger(__name__)

# How long a commit that returns from its broker waits for the loop, which computes. Python's own 5 ms, a few times in
# each commit, were half of what a transaction took; shorter costs the loop nothing, which is asked only then.
_SWITCH_S = 0.0005
_UNFINISHED = "leaving; Kafka aborts the open transaction, and its events are read again"


def group_of(settings: Settings, domain: str) -> str:
    """The consumer group of a domain's workers."""
    return settings.worker.group.format(domain=domain)


def changelog_of(settings: Settings, domain: str) -> str:
    """The changelog topic of a domain's keyed state."""
    return f"{identity_of(settings, domain)}-changelog"


def identity_of(settings: Settings, domain: str) -> str:
    """What a domain's state and workers are named by: domains may share a group, but neither of these."""
    group = group_of(settings, domain)
    return group if "{domain}" in settings.worker.group else f"{group}-{domain}"


def ensure_domain_topics(settings: Settings, domain: str, kafka: Mapping[str, Any]) -> None:
    """Makes the topics of a domain that are missing; the changelog has as many partitions as the input.

    Raises:
        TopicsError: No broker answers, or a topic exists and is not as it must be.
    """
    partitions, replication = settings.kafka.partitions, settings.kafka.replication
    topics = domains().get(domain, ())
    declared = {topic.name: _spec(topic, partitions, replication) for topic in topics}
    found = ensure_topics(kafka, declared)
    for difference in found.differences:
        log.warning("%s", difference)
    others = {d.topic: int(d.found) for d in found.differences if d.what == "partitions"}
    events = events_of(topics).name
    changelog = TopicSpec.compacted(others.get(events, partitions), replication)
    for difference in ensure_topics(kafka, {changelog_of(settings, domain): changelog}).differences:
        raise TopicsError(f"{difference}. {_advice(difference, events)}")


def _advice(difference: Difference, events: str) -> str:
    if difference.what != "partitions":
        return "Set it right, or set another worker.group."
    return (
        f"The changelog needs those that {events} has. Where partitions were added there, add them here too: keys that "
        "have moved to another partition begin there without their state. Otherwise set another worker.group."
    )


def _spec(topic: TopicType, partitions: int, replication: int) -> TopicSpec:
    if topic.compacted:
        return TopicSpec.compacted(partitions, replication)
    if topic.direction == "dead-letter":
        return TopicSpec.dead_letters(partitions, replication)
    return TopicSpec(partitions, replication=replication)


def run_worker(settings: Settings, domain: str, slot: str, workers: int = 1) -> None:
    """Runs a worker until SIGTERM or SIGINT.

    Raises:
        HeadraceError: It cannot start, or must not go on; the message says what to do.
    """
    health = _Health(settings.worker.stall_timeout_s)
    metrics = WorkerMetrics(process_registry("worker", domain=domain, slot=slot))
    host, port = settings.metrics.host, settings.metrics.port
    tracing = open_tracing(settings.tracing, domain, slot)
    with Endpoint(metrics.registry, health.ready, health.live, host, port) as at:
        key = "metrics" if slot == "0" else f"metrics-{slot}"
        endpoints.publish(settings.data, key, at.url)
        try:
            worker = health.worker = _make_worker(settings, domain, slot, workers, metrics, tracing)
            calm_garbage_collection()
            sys.setswitchinterval(_SWITCH_S)
            with Grace(settings.worker.shutdown_grace_s, worker.stop, _UNFINISHED), tracing or nullcontext():
                worker.run()
        finally:
            endpoints.withdraw(settings.data, key)


class _Health:
    """What the endpoint says of a worker, from before there is one: a model may load for minutes."""

    def __init__(self, stall_timeout_s: float) -> None:
        self.worker: Worker | None = None
        self._stall_timeout_s = stall_timeout_s

    def ready(self) -> dict[str, str]:
        if self.worker is None:
            return {"model": "being loaded"}
        return {"model": "", **self.worker.conditions()}

    def live(self) -> dict[str, str]:
        return {} if self.worker is None else progressing(self.worker.stalled_s, self._stall_timeout_s)


def _make_worker(
    settings: Settings, domain: str, slot: str, workers: int, metrics: WorkerMetrics, tracing: Tracing | None
) -> Worker:
    kafka = kafka_config(settings)
    opened = _opened(settings, domain, workers, slot)
    if settings.kafka.security:
        from streams.rights import worker_rights

        require_rights(kafka, worker_rights(settings, domain, opened.processor), f"worker of {domain}")
    ensure_domain_topics(settings, domain, kafka)
    metrics.observe_model(opened.manifest.reference, opened.session.providers, opened.session.slice)
    identity = f"{identity_of(settings, domain)}-{slot}"
    letters, changelog = dead_letter_topic(domain), changelog_of(settings, domain)
    limits = message_limits(kafka, [*opened.processor.output_topics, letters, changelog])
    producing = {**kafka, **watch_producer(metrics), "batch.size": batch_bytes(limits.values())}
    processor, observed, make_emitter = traced(
        tracing,
        opened.processor,
        metrics,
        lambda source: _make_emitter(settings, producing, identity, source),
    )
    worker = Worker(
        processor,
        MeasuredSession(opened.session, metrics),
        settings.worker,
        kafka=kafka,
        group=group_of(settings, domain),
        instance=identity if settings.worker.static_membership else None,
        changelog=changelog,
        dead_letters=letters,
        dead_letter_bytes=limits[letters],
        make_emitter=make_emitter,
        metrics=observed,
        source_settings=watch_consumer(metrics),
    )
    metrics.watch_batcher(lambda: len(worker.waiting), lambda: worker.waiting.size_bytes)
    return worker


def _opened(settings: Settings, domain: str, workers: int, slot: str) -> Opened:
    try:
        return open_domain(settings, domain, workers=workers, slot=slot)
    except (DomainError, ModelError, TokenKeyError) as error:
        raise SetupError(str(error)) from error


def _make_emitter(settings: Settings, kafka: Mapping[str, Any], identity: str, source: Source) -> Emitter:
    if settings.worker.delivery == "at-least-once":
        return AtLeastOnceEmitter(kafka, source.consumer)
    return TransactionalEmitter(kafka, identity, transaction_timeout_ms=settings.worker.transaction_timeout_ms)
