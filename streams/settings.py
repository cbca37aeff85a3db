"""Typed settings of every room, read once and passed as arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(gt=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]


class KafkaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Kafka is; an empty bootstrap means the embedded broker."""

    bootstrap: str = ""
    security: dict[str, str] = {}
    """librdkafka's own names: `security.protocol`, `sasl.mechanism`, `sasl.username`, `ssl.ca.location`, …"""
    partitions: Positive = 4
    """Partitions of topics that headrace makes itself."""
    replication: Positive = 1


class ClickHouseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where ClickHouse is; an empty URL means the embedded engine in the data directory."""

    url: str = ""
    database: str = "headrace"


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Micro-batches, transactions and membership of a worker."""

    group: str = "headrace-{domain}"
    max_size: Positive = 2048
    max_bytes: Positive = 8_000_000
    max_wait_ms: PositiveFloat = 5.0
    commit_interval_ms: PositiveFloat = 50.0
    commit_max_events: Positive = 20_000
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    static_membership: bool = True
    session_timeout_ms: Positive = 10_000
    transaction_timeout_ms: Positive = 30_000
    start: Literal["earliest", "latest"] = "earliest"
    """Where a group without committed offsets begins."""
    on_lost_offsets: Literal["fail", "earliest", "latest"] = "fail"
    """What to do where the committed offset is no longer retained on the topic."""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How models run."""

    providers: tuple[str, ...] = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    require_gpu: bool = False
    threads: int = 0
    """Intra-op threads of a session; 0 shares the cores among the workers of this machine."""
    slice: int = 0
    """Rows of one run; 0 measures the latency curve at start and picks."""
    cache_dir: str = ""


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sink and HTTP endpoint of the store process."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free port."""
    token: str = ""
    flush_rows: Positive = 20_000
    flush_interval_ms: PositiveFloat = 500.0
    ttl_days: Positive = 365


class PrivacySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of the card tokens; an empty key means one made once and kept in the data directory."""

    token_key: str = ""
    """Secret, at least 16 bytes as hexadecimal digits."""


class TopicSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the values of one topic are encoded."""

    format: Literal["json", "avro", "protobuf"] = "json"


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Confluent Schema Registry, needed where a topic is Avro or Protobuf."""

    url: str = ""
    basic_auth: str = ""
    """Secret, `user:password`."""


class MonitorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Faust app beside the hot path."""

    label_delay_days: PositiveFloat = 7.0
    emit_interval_s: PositiveFloat = 1.0
    web_port: int = 0


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prometheus metrics and health of a process."""

    host: str = "127.0.0.1"
    port: int = 0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything in `headrace.toml`."""

    data: Path = Path(".headrace")
    kafka: KafkaSettings = KafkaSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    worker: WorkerSettings = WorkerSettings()
    model: ModelSettings = ModelSettings()
    store: StoreSettings = StoreSettings()
    privacy: PrivacySettings = PrivacySettings()
    registry: RegistrySettings = RegistrySettings()
    monitor: MonitorSettings = MonitorSettings()
    metrics: MetricsSettings = MetricsSettings()
    topics: dict[str, TopicSettings] = {}
    domains: dict[str, dict[str, Any]] = {}
    """Per domain, validated by the domain's own settings type: `[domains.fraud]`."""
