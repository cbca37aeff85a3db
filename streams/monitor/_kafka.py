"""Librdkafka's settings in the words of aiokafka, which Faust stands on."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import faust

from streams.errors import StopError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MECHANISMS = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}
_FALSE = {"false", "f", "0", "no"}


class UnsupportedSecurityError(StopError):
    """The cluster asks for something that the monitor's client cannot do."""


def brokers(config: Mapping[str, str]) -> list[str]:
    """Addresses as Faust wants them: `kafka://host:9092`."""
    hosts = [host.strip() for host in config["bootstrap.servers"].split(",")]
    return [f"kafka://{host.rpartition('://')[2]}" for host in hosts if host]


def credentials(config: Mapping[str, str]) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Faust's credentials from librdkafka's security settings.

    Raises:
        UnsupportedSecurityError: A protocol or mechanism beyond TLS, PLAIN and SCRAM.
    """
    protocol = config.get("security.protocol", "plaintext").upper().replace("-", "_")
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return faust.SSLCredentials(context=_ssl_context(config))
    if protocol not in {"SASL_PLAINTEXT", "SASL_SSL"}:
        raise UnsupportedSecurityError(
            f"kafka.security: security.protocol is {protocol}; use PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
        )
    mechanism = (config.get("sasl.mechanism") or config.get("sasl.mechanisms") or "GSSAPI").upper()
    if mechanism not in _MECHANISMS:
        raise UnsupportedSecurityError(
            f"kafka.security: the monitor cannot do sasl.mechanism {mechanism};"
            f" give it {', '.join(sorted(_MECHANISMS))}"
        )
    return faust.SASLCredentials(
        username=config.get("sasl.username"),
        password=config.get("sasl.password"),
        mechanism=mechanism,
        ssl_context=_ssl_context(config) if protocol == "SASL_SSL" else None,
    )


def client_settings(config: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a plain aiokafka client."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    servers = [broker.removeprefix("kafka://") for broker in brokers(config)]
    return {"bootstrap_servers": servers, **credentials_to_aiokafka_auth(credentials(config))}


def _ssl_context(config: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.get("ssl.ca.location"), cadata=config.get("ssl.ca.pem"))
    if certificate := config.get("ssl.certificate.location"):
        context.load_cert_chain(certificate, config.get("ssl.key.location"), config.get("ssl.key.password"))
    if config.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if config.get("enable.ssl.certificate.verification", "true").lower() in _FALSE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
