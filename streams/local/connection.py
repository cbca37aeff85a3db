"""How this process reaches Kafka: the user's cluster, or the embedded broker of the data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.errors import HeadraceError
from streams.local import endpoints

if TYPE_CHECKING:
    from streams.settings import Settings


class NoBrokerError(HeadraceError):
    """No cluster is configured and no embedded broker runs."""


def kafka_config(settings: Settings) -> dict[str, str]:
    """Librdkafka's `bootstrap.servers` and security settings.

    Raises:
        NoBrokerError: Neither a configured cluster nor a running embedded broker.
    """
    bootstrap = settings.kafka.bootstrap or endpoints.read(settings.data).get("kafka")
    if not bootstrap:
        raise NoBrokerError(
            "no broker: run `headrace up`, or set HEADRACE_KAFKA=host:9092 "
            f"(no running one is named in {settings.data / endpoints.FILE})"
        )
    return {**settings.kafka.security, "bootstrap.servers": bootstrap}
