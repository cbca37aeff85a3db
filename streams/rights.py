"""What each process may do in Kafka, and no more: the list that documents, `headrace acls` and the tests share.

Read, Write, Alter and Delete include Describe in Kafka, so Describe is named only where it stands alone.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from processors import Setup, load, model_reference
from schemas.clickhouse import tables
from schemas.dead_letter import retry_identity
from schemas.dead_letter import topic_name as dead_letter_topic
from schemas.topics import domains
from streams._settings_kinds import database_of
from streams.loading import codecs_of
from streams.monitor import MONITORED
from streams.running import changelog_of, group_of, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processors import Processor
    from streams.settings import Settings

__all__ = [
    "PROCESSES",
    "Process",
    "Right",
    "command",
    "reset_identity",
    "rights",
    "store_rights",
    "worker_rights",
]

Operation = Literal["Read", "Write", "Describe", "DescribeConfigs", "Create"]
Process = Literal["worker", "store", "monitor", "producer", "consumer", "retry", "reset", "observer", "topics"]
PROCESSES: dict[Process, str] = {
    "worker": "`headrace worker`: answers events",
    "store": "`headrace store`: topics into ClickHouse",
    "monitor": "`headrace monitor`: what labels say",
    "producer": "your own producers, and `headrace produce`",
    "consumer": "your own consumers of results, and `headrace consume`",
    "retry": "`headrace dlq`: looks at dead letters and sends them back",
    "reset": "`headrace reset`: lets workers go on elsewhere",
    "observer": "`headrace top`, and autoscalers that look at the lag",
    "topics": "`headrace topics --create`: makes the topics, once",
}

# Processors are made to be asked for their topics alone.
_ANY_KEY = bytes(32)


class Right(NamedTuple):
    """One operation on one resource."""

    operation: Operation
    resource: Literal["topic", "group", "transactional-id"]
    name: str
    why: str
    prefixed: bool = False
    """Whether every name that begins so is meant."""

    def __str__(self) -> str:
        return f"{self.operation} {self.resource} {self.name}{'*' if self.prefixed else ''}"


def rights(settings: Settings, domain: str) -> dict[Process, list[Right]]:
    """Per process what it needs, for the topics and names that these settings give.

    Raises:
        DomainError: No such domain, or its options are wrong.
        UnknownModelError: The domain's model is not known here.
    """
    processor = _processor(settings, domain)
    declared = domains()[domain]
    found: dict[Process, list[Right]] = {
        "worker": worker_rights(settings, domain, processor),
        "store": store_rights(settings, domain),
        "producer": [_right("Write", t.name, "events") for t in declared if t.direction == "input"],
        "consumer": [_right("Read", t.name, "results") for t in declared if t.direction == "output"],
        "retry": _retry(domain, processor),
        "reset": _reset(settings, domain, processor),
        "observer": [
            Right("Describe", "group", group_of(settings, domain), "how far the workers are"),
            _right("Describe", processor.input_topic, "where it ends"),
        ],
        "topics": [
            right for name in (*(t.name for t in declared), changelog_of(settings, domain)) for right in _making(name)
        ],
    }
    if domain in MONITORED:
        from streams.monitor.rights import monitor_rights, monitor_topics

        found["monitor"] = monitor_rights()
        found["topics"] += [right for name in monitor_topics() for right in _making(name)]
    return {process: _shortest(found[process]) for process in PROCESSES if process in found}


def command(right: Right, principal: str, bootstrap: str) -> str:
    """The line of Kafka's own tool that grants a right."""
    words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", principal]
    words += ["--operation", right.operation, f"--{right.resource}", right.name]
    return shlex.join([*words, *(["--resource-pattern-type", "prefixed"] if right.prefixed else [])])


def _shortest(wanted: list[Right]) -> list[Right]:
    """Each once, and no Describe of what may be read or written."""
    seen = {(right.resource, right.name) for right in wanted if right.operation in ("Read", "Write")}
    needed = [right for right in wanted if right.operation != "Describe" or (right.resource, right.name) not in seen]
    return list({str(right): right for right in needed}.values())


def _processor(settings: Settings, domain: str) -> Processor:
    """The domain's processor, for what it says of its topics; its model is neither loaded nor needed."""
    from processors._models import Registry

    options = settings.domains.get(domain, {})
    cache = Path(settings.model.cache_dir) if settings.model.cache_dir else None
    manifest = Registry(settings.data, cache).find(model_reference(domain, options)).manifest
    return load(domain, Setup(options, manifest, _ANY_KEY, codecs_of(settings)))


def worker_rights(settings: Settings, domain: str, processor: Processor) -> list[Right]:
    """Of a worker whose processor is at hand."""
    changelog, letters = changelog_of(settings, domain), dead_letter_topic(domain)
    wanted = [
        _right("Read", processor.input_topic, "events"),
        Right("Read", "group", group_of(settings, domain), "its place among the workers, and their offsets"),
        Right(
            "Write",
            "transactional-id",
            f"{identity_of(settings, domain)}-",
            "transactions, one id a slot",
            prefixed=True,
        ),
        *(_right("Write", topic, "results") for topic in processor.output_topics),
        *(_right("DescribeConfigs", topic, "how large a batch may be") for topic in processor.output_topics),
        _right("Write", letters, "dead letters"),
        _right("DescribeConfigs", letters, "how large a dead letter, or a batch of them, may be"),
        _right("Read", changelog, "state, when it takes a partition over"),
        _right("Write", changelog, "changes of the state"),
        _right("DescribeConfigs", changelog, "whether it is compacted"),
        *(_right("Read", table.topic, "a table that it looks things up in") for table in processor.tables),
        *(_right("DescribeConfigs", t.name, "whether it is compacted") for t in domains()[domain] if t.compacted),
        *(_right("Describe", t.name, "whether it is there") for t in domains()[domain]),
    ]
    return _shortest(wanted)


def store_rights(settings: Settings, domain: str | None = None) -> list[Right]:
    """Of a store, for the topics of one domain or of all."""
    reads = [_right("Read", table.topic, "rows") for table in tables(domain)]
    url = settings.clickhouse.url
    if not url:
        return reads
    database = database_of(url, settings.clickhouse.database)
    return [
        *reads,
        Right("Read", "group", settings.store.group_of(database), "its place among the sinks of one server"),
    ]


def _retry(domain: str, processor: Processor) -> list[Right]:
    letters = dead_letter_topic(domain)
    own = retry_identity(letters)
    return [
        _right("Read", letters, "dead letters"),
        _right("Write", processor.input_topic, "events again"),
        Right("Read", "group", own, "what was sent already"),
        Right("Write", "transactional-id", own, "both at once"),
    ]


def reset_identity(settings: Settings, domain: str) -> str:
    """The transactional id of whoever moves a domain's workers: two at once would undo each other."""
    return f"{identity_of(settings, domain)}-reset"


def _reset(settings: Settings, domain: str, processor: Processor) -> list[Right]:
    changelog = changelog_of(settings, domain)
    return [
        Right("Read", "group", group_of(settings, domain), "who is in it, where it is, and setting that"),
        _right("Read", processor.input_topic, "setting offsets of it"),
        _right("Read", changelog, "what state there is"),
        _right("Write", changelog, "dropping it"),
        Right("Write", "transactional-id", reset_identity(settings, domain), "both at once"),
    ]


def _making(topic: str) -> Iterator[Right]:
    yield _right("Create", topic, "makes it")
    yield _right("Describe", topic, "whether it is there")
    yield _right("DescribeConfigs", topic, "whether it is as it must be")


def _right(operation: Operation, topic: str, why: str) -> Right:
    return Right(operation, "topic", topic, why)
