"""What `docker-compose.yml` and `deploy/` say, read as the programs read it that use them."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from streams.observe._gpu import GpuMemory
from streams.observe.metrics import MonitorMetrics, SinkMetrics, WorkerMetrics, process_registry
from streams.settings import Loaded, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"

SECRETS = {
    "token_key": "ab" * 32,
    "clickhouse_url": "http://headrace:hush@clickhouse:8123",
    "clickhouse_users": "<clickhouse/>",
    "clickhouse_reader_password": "read",
}
"""What deploy/make-secrets would write; the names are those of the files."""


def interpolated(text: str, given: dict[str, str]) -> str:
    """The text as Compose reads it: `${NAME}`, `${NAME:-default}`, `${NAME:?why}`, the inner ones first."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        assert kind != ":?" or given.get(name), f"{name}: {rest}"
        return given.get(name) or (rest if kind == ":-" else "")

    while (after := re.sub(r"\$\{(\w+)(?:(:[-?])([^${}]*))?\}", value, text)) != text:
        text = after
    return text


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text(), {}))
SERVICES: dict[str, Any] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("headrace")}

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"(^|\n)\s*#[^\n]*", "", DOCKERFILE).replace("\\\n", " ").splitlines()
    if line.strip()
]
IMAGE_ENVIRONMENT = dict(
    pair.split("=", 1) for word, rest in INSTRUCTIONS if word == "ENV" for pair in rest.split() if "HEADRACE_" in pair
)


def instruction(word: str) -> str:
    """What the Dockerfile says after the one such word that it has."""
    [rest] = [rest for found, rest in INSTRUCTIONS if found == word]
    return rest


def settings_of(environment: dict[str, Any], secrets: Path) -> Loaded:
    """The settings of a container with these variables, over those of the image.

    Args:
        environment: Of the container.
        secrets: A folder that is filled with SECRETS; whatever names a file below /run/secrets or /etc/headrace finds
            one of the same name there.
    """
    secrets.mkdir(exist_ok=True)
    for name, content in {**SECRETS, "url": SECRETS["clickhouse_url"], "password": "hush", "ca.crt": "-"}.items():
        (secrets / name).write_text(content + "\n")
    mounted = re.compile(r"^(/run/secrets|/etc/headrace/[\w-]+)(?=/)")
    variables = {**IMAGE_ENVIRONMENT, **environment}
    return load_settings(env={name: mounted.sub(str(secrets), str(value)) for name, value in variables.items()})


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    """The manifests in deploy/kubernetes."""
    return manifests((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())


def manifests(text: str) -> tuple[dict[str, Any], ...]:
    """The objects in some YAML."""
    return tuple(one for one in yaml.safe_load_all(text) if one)


@cache
def metric_names() -> dict[str, frozenset[str]]:
    """Every series that our processes show, by the name that Prometheus stores it under, with its labels."""
    shown: list[CollectorRegistry] = [
        WorkerMetrics().registry,
        SinkMetrics().registry,
        MonitorMetrics().registry,
        process_registry("worker"),
    ]
    found: dict[str, frozenset[str]] = {}
    for registry in shown:
        labels = {name: names for collector in registry._collector_to_names for name, names in _labels_of(collector)}
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", generate_latest(registry).decode(), re.M):
            parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            plain = name.removesuffix("_total")
            found |= {f"{name}{part}": labels.get(plain, frozenset()) for part in parts}
    return found | {gauge.name: frozenset({"device"}) for gauge in GpuMemory(None).describe()}


def _labels_of(collector: Any) -> Iterator[tuple[str, frozenset[str]]]:
    names = getattr(collector, "_labelnames", None) or filter(None, [getattr(collector, "_label", "")])
    if name := getattr(collector, "_name", ""):
        yield name, frozenset(names)


def dashboard() -> dict[str, Any]:
    """Grafana's dashboard."""
    found: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text())
    return found


def alerts() -> list[dict[str, Any]]:
    """Prometheus's alerts."""
    groups = yaml.safe_load((CHART / "files" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def sha256(text: str | None) -> str:
    """As the program of that name prints it."""
    return hashlib.sha256((text or "").encode()).hexdigest()
