"""Typed settings of every room, read once and passed as arguments."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from streams._settings_kinds import Count, Port, Positive, PositiveFloat, Secret, Section, is_http
from streams._settings_load import SettingsError, assemble
from streams._settings_observe import LogSettings, MetricsSettings, TracingSettings
from streams._settings_redact import secrets_of, shown
from streams._settings_schema import Key, Node, dotted, grow
from streams._settings_sources import Problem, from_environment, from_file, from_overrides

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ClickHouseSettings",
    "KafkaSettings",
    "Loaded",
    "LogSettings",
    "MetricsSettings",
    "ModelSettings",
    "MonitorSettings",
    "PrivacySettings",
    "Problem",
    "RegistrySettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "TopicSettings",
    "TracingSettings",
    "WorkerSettings",
    "load_settings",
    "schema",
    "secrets_of",
    "shown",
]

SHORT_NAMES: dict[str, Key] = {
    "HEADRACE_KAFKA": ("kafka", "bootstrap"),
    "HEADRACE_CLICKHOUSE": ("clickhouse", "url"),
    "HEADRACE_DATA": ("data",),
    "HEADRACE_TOKEN_KEY": ("privacy", "token_key"),
}
FILE = Path("headrace.toml")

# What the hot path sets itself: another value would break its guarantees, so they are refused rather than ignored.
_OWN_KAFKA_NAMES = {
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.idempotence",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "transactional.id",
}
_SHORTEST_KEY_BYTES = 16


class KafkaSettings(Section, frozen=True, forbid_unknown_fields=True):
    """Where Kafka is; an empty bootstrap means the embedded broker."""

    bootstrap: str = ""
    security: dict[str, str] = msgspec.field(default_factory=dict)
    """librdkafka's own names: `security.protocol`, `sasl.mechanism`, `sasl.username`, `ssl.ca.location`, …"""
    partitions: Positive = 4
    """Partitions of topics that headrace makes itself."""
    replication: Positive = 1

    def __post_init__(self) -> None:
        if own := sorted(_OWN_KAFKA_NAMES & self.security.keys()):
            msg = f"{', '.join(own)} under kafka.security: headrace sets that itself; remove it"
            raise ValueError(msg)


class ClickHouseSettings(Section, frozen=True, forbid_unknown_fields=True):
    """Where ClickHouse is; an empty URL means the embedded engine in the data directory."""

    url: str = ""
    database: str = "headrace"
    ca_file: str = ""
    """Authority that signed the server's certificate; empty trusts the public ones."""

    def __post_init__(self) -> None:
        if self.url and not is_http(self.url):
            msg = "url must be http:// or https://, as in https://user:password@host:8443/database"
            raise ValueError(msg)


class WorkerSettings(Section, frozen=True, forbid_unknown_fields=True):
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
    max_age_ms: Count = 0
    """From this age on an event is answered without the model, by the domain's fallback; 0: however old it is."""
    shutdown_grace_s: PositiveFloat = 30.0
    """After SIGTERM the micro-batch is finished and committed within it; past it the process ends as it stands."""
    stall_timeout_s: PositiveFloat = 120.0
    """A loop that did not come round for so long is no longer live."""

    def __post_init__(self) -> None:
        if self.transaction_timeout_ms <= self.commit_interval_ms:
            msg = "transaction_timeout_ms must be longer than commit_interval_ms, or every transaction times out"
            raise ValueError(msg)


class ModelSettings(Section, frozen=True, forbid_unknown_fields=True):
    """How models run."""

    providers: tuple[str, ...] = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    require_gpu: bool = False
    threads: Count = 1
    """Intra-op threads of a session; 0 shares the cores among the workers of this machine.

    One, since a worker per core scales better, and since trees summed by several threads give answers that depend on
    the size of the batch (measured: 1.8e-7 with two threads, none with one).
    """
    slice: Count = 0
    """Rows of one run; 0 measures the latency curve at start and picks."""
    cache_dir: str = ""
    """Where pulled models and TensorRT's engines are kept; empty is the user's cache directory."""
    custom_ops: dict[str, str] = msgspec.field(default_factory=dict)
    """Libraries of custom operators by path, each with its sha256: native code that runs as the worker."""
    device_id: Count | Literal["auto"] = "auto"
    """The GPU, where there are several; `auto` gives the workers of a machine one after the other, by their slots."""
    gpu_memory_mb: Count = 0
    """Limit of ONNX Runtime's arena on the GPU; 0 sets none."""
    gpu_arena: Literal["exact", "doubling"] = "exact"
    """How that arena grows; it gives nothing back by itself."""
    precision: Literal["float32", "tf32", "float16"] = "float32"
    """What a GPU may multiply in: CUDA knows the first two, TensorRT `tf32` and `float16`."""
    cuda_graphs: bool = False
    """Whether runs on CUDA are recorded once per size and replayed."""
    overlap: bool = False
    """Whether a GPU is copied to and from while it runs."""


class StoreSettings(Section, frozen=True, forbid_unknown_fields=True):
    """Sink and HTTP endpoint of the store process."""

    host: str = "127.0.0.1"
    port: Port = 0
    """0 takes a free port."""
    token: Secret = ""
    """Password of the HTTP endpoint; empty lets anybody on this machine read."""
    admin_token: Secret = ""
    """Password that may also write through the endpoint; empty lets nobody."""
    tls_certificate: str = ""
    """File (PEM, with the chain) that the endpoint shows: it then speaks https only."""
    tls_key_file: str = ""
    """File of its private key."""
    flush_rows: Positive = 20_000
    flush_interval_ms: PositiveFloat = 500.0
    ttl_days: Positive = 365
    group: str = ""
    """Consumer group of the sinks that share a ClickHouse server; empty is `headrace-sink-{database}`."""
    session_timeout_ms: Positive = 10_000
    """How long a silent member of that group keeps its partitions."""
    on_lost_offsets: Literal["fail", "earliest"] = "fail"
    """What to do where Kafka deleted messages before they were stored."""
    max_queries: Positive = 8
    """Queries of the endpoint that run at once; more wait a moment, then are told to come again."""
    max_query_s: PositiveFloat = 30.0
    max_result_rows: Positive = 1_000_000
    max_result_bytes: Positive = 256_000_000
    max_memory_bytes: Positive = 2_000_000_000
    """Memory of one query."""
    max_body_bytes: Positive = 64_000_000
    """Of a request: SQL, and data where an administrator writes."""
    shutdown_grace_s: PositiveFloat = 30.0
    """After SIGTERM what was read is stored within it; past it the process ends as it stands."""

    def group_of(self, database: str) -> str:
        """The consumer group of the sinks that share this database of a server."""
        return self.group or f"headrace-sink-{database}"


class PrivacySettings(Section, frozen=True, forbid_unknown_fields=True):
    """Keys of the card tokens; an empty key means one made once and kept in the data directory."""

    token_key: Secret = ""
    """Secret, at least 16 bytes as hexadecimal digits."""

    def __post_init__(self) -> None:
        if not self.token_key:
            return
        try:
            length = len(bytes.fromhex(self.token_key))
        except ValueError:
            length = 0
        if length < _SHORTEST_KEY_BYTES:
            need = 2 * _SHORTEST_KEY_BYTES
            msg = f"token_key needs at least {need} hexadecimal digits; `openssl rand -hex 32` makes some"
            raise ValueError(msg)


class TopicSettings(Section, frozen=True, forbid_unknown_fields=True):
    """How the values of one topic are encoded."""

    format: Literal["json", "avro", "protobuf"] = "json"


class RegistrySettings(Section, frozen=True, forbid_unknown_fields=True):
    """The Confluent Schema Registry, needed where a topic is Avro or Protobuf."""

    url: str = ""
    basic_auth: Secret = ""
    """Secret, `user:password`."""


class MonitorSettings(Section, frozen=True, forbid_unknown_fields=True):
    """The Faust app beside the hot path."""

    label_delay_days: PositiveFloat = 7.0
    prior_weight: PositiveFloat = 10.0
    """Transactions that the overall fraud rate weighs against a merchant's own."""
    keep_interval_s: PositiveFloat = 10.0
    """What was read in this time is kept together: one record per key, however often it occurs."""
    emit_interval_s: PositiveFloat = 1.0
    """Figures are told at most this often."""
    stall_timeout_s: PositiveFloat = 60.0
    """Without progress for this long while there is something to read, the monitor leaves, to be started again."""
    web_port: Port = 0
    shutdown_grace_s: PositiveFloat = 30.0
    """After SIGTERM what was read is kept within it; past it the process ends as it stands."""


class Settings(Section, frozen=True, forbid_unknown_fields=True):
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
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()
    topics: dict[str, TopicSettings] = msgspec.field(default_factory=dict)
    domains: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Per domain, validated by the domain's own settings type: `[domains.fraud]`."""


class Loaded(msgspec.Struct, frozen=True):
    """Settings, and where each value came from."""

    settings: Settings
    origins: dict[str, str]
    """Per key (`worker.max_size`): `default`, the file, the variable's name or `command line`."""
    tree: Node

    def effective(self) -> list[tuple[str, Any, str]]:
        """Key, value as it may be shown (secrets are stars), and origin of every setting."""
        rows = []
        for key, value in self.tree.values(self.settings):
            node = self.tree.find(key)
            visible = shown(value, key[-1], secret=node is not None and node.secret)
            # What a model's manifest brings is known when the model is.
            unset = "default or model" if key[0] == "domains" else "default"
            origin = self.origins.get(dotted(key), "default")
            rows.append((dotted(key), visible, unset if origin == "default" else origin))
        return rows


def load_settings(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    domain_types: Mapping[str, type[msgspec.Struct] | None] | None = None,
) -> Loaded:
    """Reads defaults, then the file, then the environment, then the command line; later ones win.

    Args:
        path: the file; else HEADRACE_CONFIG names it, else `headrace.toml` in the working directory, if there.
        env: the environment; nothing of it is read where None.
        overrides: values by their dotted keys, as text.
        domain_types: settings types of the domains; asked from `processors` where None.

    Raises:
        SettingsError: holds everything that is wrong, not only the first.
    """
    environment = env or {}
    tree = schema(domain_types)
    file = path or _file_of(environment)
    entries = chain(
        from_file(file, tree) if path or "HEADRACE_CONFIG" in environment or file.is_file() else (),
        from_environment(environment, tree, SHORT_NAMES),
        from_overrides(overrides or {}, tree),
    )
    settings, chosen, problems = assemble(Settings, tree, entries)
    if problems:
        raise SettingsError(problems)
    origins = {dotted(key): "default" for key, node in tree.walk() if not node.is_table}
    return Loaded(settings, origins | {dotted(key): entry.origin for key, entry in chosen.items()}, tree)


def schema(domain_types: Mapping[str, type[msgspec.Struct] | None] | None = None) -> Node:
    """The tree of keys, the domains' own included."""
    tree = grow(Settings)
    assert tree.children is not None, "Settings is a section"
    types = _known_domains() if domain_types is None else domain_types
    domains = tree.children["domains"]
    domains.known = tuple(types)
    domains.free = partial(_domain, types)
    return tree


def _domain(types: Mapping[str, type[msgspec.Struct] | None], name: str) -> Node | None:
    if name not in types:
        return None
    kind = types[name]
    return grow(dict[str, Any] if kind is None else kind)


def _known_domains() -> dict[str, type[msgspec.Struct] | None]:
    """Settings types of the domains here; a domain that fails to import takes any settings, so others still run."""
    from processors import names, settings_type

    types: dict[str, type[msgspec.Struct] | None] = {}
    for name in names():
        try:
            types[name] = settings_type(name)
        except Exception:  # whatever a domain does at import is its own matter; loading it will say so
            types[name] = None
    return types


def _file_of(env: Mapping[str, str]) -> Path:
    return Path(env.get("HEADRACE_CONFIG") or FILE)
