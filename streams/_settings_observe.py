"""Settings of what processes say of themselves: metrics, traces, logs."""

from __future__ import annotations

from typing import Literal

from streams._settings_kinds import Port, Positive, Secret, Section, Share, is_http

__all__ = ["LogSettings", "MetricsSettings", "TracingSettings"]


class MetricsSettings(Section, frozen=True, forbid_unknown_fields=True):
    """Prometheus metrics and health of a process."""

    host: str = "127.0.0.1"
    port: Port = 0


class TracingSettings(Section, frozen=True, forbid_unknown_fields=True):
    """OpenTelemetry traces of workers; the extra `tracing` brings what they need."""

    endpoint: str = ""
    """Of a collector that takes OTLP over HTTP, such as http://collector:4318; empty traces nothing."""
    headers: Secret = ""
    """Secret, `name=value,name=value`, sent along."""
    sample: Share = 1.0
    """Share of micro-batches that are traced."""
    max_links: Positive = 128
    """Events that the span of a micro-batch links to, at most."""

    def __post_init__(self) -> None:
        if self.endpoint and not is_http(self.endpoint):
            raise ValueError("endpoint must be http:// or https://, as in http://collector:4318")


class LogSettings(Section, frozen=True, forbid_unknown_fields=True):
    """What processes say, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: readable lines on a terminal, JSON lines elsewhere."""
