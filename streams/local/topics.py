"""Topics that headrace needs: made where they are missing, compared where they are not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from streams.connecting import UnreachableError, explain, metadata
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future
    from typing import Any

_VISIBLE_TIMEOUT_S = 15.0
_POLL_S = 0.05

# A key with a long history is one message; clients raise `message.max.bytes` to the same.
_CHANGELOG_MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# A dead letter is as large as the largest message of the embedded broker, and says why it is one besides.
_DEAD_LETTERS_MAX_MESSAGE_BYTES = _CHANGELOG_MAX_MESSAGE_BYTES + 64 * 1024

# Kafka's default; taken for a topic's limit where the cluster does not tell.
_USUAL_MAX_MESSAGE_BYTES = 1024 * 1024 + 12

# Measured on raw relays: 307k msg/s with batches of 1 MB, 314k with 4 MB, 192k with 16 KB.
_LARGEST_BATCH = 1_000_000
# What the format of a batch, and compressing what cannot be compressed, may add.
_BATCH_OVERHEAD = 4096

# What a compacted topic must have to be read back in little more than its live entries: the cleaner takes closed
# segments only, so they are as small as the largest message allows and closed by time; a fifth of dead entries is
# enough to clean again. Behind what is clean lie 200,000 changes of a partition's fraud state at most: 0.2 s to read.
_COMPACTED = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(_CHANGELOG_MAX_MESSAGE_BYTES),
    "min.cleanable.dirty.ratio": "0.2",
    "segment.bytes": str(_CHANGELOG_MAX_MESSAGE_BYTES),
    "segment.ms": str(10 * 60 * 1000),
    "delete.retention.ms": str(24 * 60 * 60 * 1000),
}


class TopicsError(HeadraceError):
    """A topic cannot be made, or is not as it must be."""


class TopicSpec(NamedTuple):
    """How a topic shall be."""

    partitions: int
    config: Mapping[str, str] = {}
    replication: int = -1
    """-1 is the cluster's default."""

    @classmethod
    def compacted(cls, partitions: int, replication: int = -1, **config: str) -> TopicSpec:
        """A topic that keeps the newest value of each key: changelogs and tables."""
        return cls(partitions, {**_COMPACTED, **config}, replication)

    @classmethod
    def dead_letters(cls, partitions: int, replication: int = -1) -> TopicSpec:
        """A topic that takes whatever the input could bring, and why it got no result."""
        return cls(partitions, {"max.message.bytes": str(_DEAD_LETTERS_MAX_MESSAGE_BYTES)}, replication)


class Difference(NamedTuple):
    """What an existing topic has other than its specification."""

    topic: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.what} is {self.found}, expected {self.expected}"


class Ensured(NamedTuple):
    """What `ensure_topics` did and found."""

    created: tuple[str, ...]
    differences: tuple[Difference, ...]


def ensure_topics(
    config: Mapping[str, Any], topics: Mapping[str, TopicSpec], *, strict: bool = False, timeout_s: float = 15.0
) -> Ensured:
    """Makes the topics that are missing and compares partitions and cleanup policy of the others.

    Safe to call from many processes at once; returns when the new topics can be written to.

    Args:
        config: librdkafka's settings: `bootstrap.servers` and security.
        topics: Name to specification.
        strict: Whether a difference raises instead of being reported.
        timeout_s: Of each request to the broker.

    Raises:
        TopicsError: No broker answers, a topic could not be made, or (strict) one is different.
    """
    causes: list[KafkaError] = []
    # Its own log would repeat the reason twenty times a second; the error says it once.
    ours: dict[str, Any] = {"log_level": 0, "error_cb": causes.append}
    admin = AdminClient({**ours, **config})
    try:
        existing = metadata(admin, config, causes, timeout_s).topics
        created = _create(admin, {name: spec for name, spec in topics.items() if name not in existing}, timeout_s)
        _await_leaders(admin, created, topics, timeout_s)
        _await_seen(admin, set(topics), timeout_s)
        differences = _differences(
            admin, {name: spec for name, spec in topics.items() if name not in created}, timeout_s
        )
    except UnreachableError as error:
        raise TopicsError(str(error)) from error
    except KafkaException as error:
        admin.poll(0)  # hands over what went wrong with the connections
        raise TopicsError(f"topics at {explain(config, error.args[0], causes)}") from error
    if strict and differences:
        raise TopicsError("; ".join(map(str, differences)) + ": make it anew, or choose another name")
    return Ensured(created, differences)


def message_limits(config: Mapping[str, Any], topics: Iterable[str], timeout_s: float = 15.0) -> dict[str, int]:
    """Bytes of the largest message, or batch, that existing topics take; Kafka's default where we may not ask."""
    admin = AdminClient({"log_level": 3, **config})
    asked = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    limits = {}
    for resource, future in admin.describe_configs(asked, request_timeout=timeout_s).items():
        try:
            limits[resource.name] = int(future.result()["max.message.bytes"].value)
        except KafkaException:
            limits[resource.name] = _USUAL_MAX_MESSAGE_BYTES
    return limits


def batch_bytes(limits: Iterable[int]) -> int:
    """The most that a batch may have before compression where topics take so much.

    A broker measures whole batches, and refuses one that is too large however small its messages are; librdkafka does
    not cut it in two as Java's client does, so every try would end the same way.
    """
    least = min(limits)
    return min(_LARGEST_BATCH, max(least - _BATCH_OVERHEAD, least // 2))


def _create(admin: AdminClient, missing: Mapping[str, TopicSpec], timeout_s: float) -> tuple[str, ...]:
    """The names of those that were made here; a topic that somebody else made just now counts as existing."""
    if not missing:
        return ()
    wanted = [
        NewTopic(name, spec.partitions, spec.replication, config=dict(spec.config)) for name, spec in missing.items()
    ]
    futures: dict[str, Future[None]] = admin.create_topics(wanted, request_timeout=timeout_s)
    created = []
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            raise TopicsError(_not_made(name, error.args[0])) from error
        created.append(name)
    return tuple(created)


def _not_made(name: str, error: KafkaError) -> str:
    if error.code() not in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return f"topic {name} could not be made: {error.str()}"
    return (
        f"topic {name} is not there, or this user may not see it, and it may not make it: have `headrace topics"
        " --create` run by somebody who may, or grant the rights that `headrace acls` lists"
    )


def _await_leaders(
    admin: AdminClient, created: tuple[str, ...], topics: Mapping[str, TopicSpec], timeout_s: float
) -> None:
    deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
    waiting = set(created)
    while waiting:
        seen = admin.list_topics(timeout=timeout_s).topics
        for name in list(waiting):
            partitions = seen[name].partitions.values() if name in seen else ()
            if len(partitions) == topics[name].partitions and all(partition.leader >= 0 for partition in partitions):
                waiting.discard(name)
        if waiting and time.monotonic() > deadline:
            raise TopicsError(f"topics {', '.join(sorted(waiting))} were made but have no leader yet")
        if waiting:
            time.sleep(_POLL_S)


def _await_seen(admin: AdminClient, names: set[str], timeout_s: float) -> None:
    """What another process made a moment ago is not known to every broker at once."""
    deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
    while missing := names - {name for name, t in admin.list_topics(timeout=timeout_s).topics.items() if t.partitions}:
        if time.monotonic() > deadline:
            raise TopicsError(f"topics {', '.join(sorted(missing))} exist, but the cluster does not show them")
        time.sleep(_POLL_S)


def _differences(admin: AdminClient, existing: Mapping[str, TopicSpec], timeout_s: float) -> tuple[Difference, ...]:
    if not existing:
        return ()
    seen = admin.list_topics(timeout=timeout_s).topics
    policies = _cleanup_policies(
        admin, [name for name, spec in existing.items() if "cleanup.policy" in spec.config], timeout_s
    )
    found = []
    for name, spec in existing.items():
        partitions = len(seen[name].partitions) if name in seen else 0
        if partitions != spec.partitions:
            found.append(Difference(name, "partitions", str(spec.partitions), str(partitions)))
        if name in policies and policies[name] != spec.config["cleanup.policy"]:
            found.append(Difference(name, "cleanup.policy", spec.config["cleanup.policy"], policies[name]))
    return tuple(found)


def _cleanup_policies(admin: AdminClient, names: list[str], timeout_s: float) -> dict[str, str]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
    while True:
        futures = admin.describe_configs(resources, request_timeout=timeout_s)
        try:
            return {resource.name: future.result()["cleanup.policy"].value for resource, future in futures.items()}
        except KafkaException as error:
            new = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if not new or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
