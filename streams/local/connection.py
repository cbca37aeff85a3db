"""How this process reaches Kafka: the user's cluster, or the embedded broker of the data directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, Producer

from streams.errors import HeadraceError, SetupError
from streams.local import endpoints

if TYPE_CHECKING:
    from streams.settings import Settings


# Settings of librdkafka that name a file; it says of a missing one what OpenSSL says.
_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location")


class NoBrokerError(HeadraceError):
    """No cluster is configured and no embedded broker runs."""


def kafka_config(settings: Settings) -> dict[str, str]:
    """Librdkafka's `bootstrap.servers` and security settings.

    Raises:
        NoBrokerError: Neither a configured cluster nor a running embedded broker.
        SetupError: `kafka.security` is nothing that a client can use.
    """
    bootstrap = settings.kafka.bootstrap or endpoints.read(settings.data).get("kafka")
    if not bootstrap:
        raise NoBrokerError(
            "no broker: run `headrace up`, or set HEADRACE_KAFKA=host:9092 "
            f"(no running one is named in {settings.data / endpoints.FILE})"
        )
    config = {**settings.kafka.security, "bootstrap.servers": bootstrap}
    if settings.kafka.security:
        _require_usable(config)
    return config


def _require_usable(config: dict[str, str]) -> None:
    """Says now what the first client would say, in its words, and what OpenSSL would say of a missing file in ours."""
    for name in _FILES:
        path = config.get(name, "")
        if path and path != "probe" and not Path(path).exists():
            raise SetupError(f"kafka.security: {name} names {path}, which is not there")
    try:
        Producer({**config, "log_level": 0})
    except KafkaException as error:
        reason = error.args[0].str().partition(": ")[2] or error.args[0].str()
        unset = "GSSAPI" in reason and not {"sasl.mechanism", "sasl.mechanisms"} & config.keys()
        advice = "; set sasl.mechanism, as in SCRAM-SHA-512" if unset else ""
        raise SetupError(f"kafka.security: {reason}{advice}") from error
