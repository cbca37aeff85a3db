"""First contact with a Kafka cluster: its metadata soon, or one sentence on why not and what to do."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["UnreachableError", "explain", "is_refusal", "metadata", "once_coordinated", "with_advice"]

T = TypeVar("T")

# One try waits so long, the next twice as long: a wrong password is known at once, and a slow broker gets its time.
_FIRST_TRY_S = 0.5
_PROBE_S = 2.0
_REFUSALS = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}
_VAGUE = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT}
# Of groups: what a cluster says that is new, or is moving their coordinator.
_UNCOORDINATED = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}
_ASK_AGAIN_S = 0.2
_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the consumer group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the cluster",
}
_LOGIN = "check sasl.username, sasl.password and sasl.mechanism under kafka.security, and that the user exists"
_AUTHORITY = "set ssl.ca.location under kafka.security to the file of the authority that signed the brokers' own"


class UnreachableError(HeadraceError):
    """No broker answered, or it refused us."""


def metadata(client: Any, config: Mapping[str, Any], causes: Sequence[KafkaError], timeout_s: float) -> Any:
    """The cluster's metadata.

    Args:
        client: An AdminClient or Consumer.
        config: What it was made with, for the message.
        causes: Filled by the client's `error_cb`.
        timeout_s: How long a broker may take to answer; a refusal ends the waiting.

    Raises:
        UnreachableError: It says why, and what to do.
    """
    deadline = time.monotonic() + timeout_s
    patience = _FIRST_TRY_S
    while True:
        try:
            return client.list_topics(timeout=max(0.01, min(patience, deadline - time.monotonic())))
        except KafkaException as error:
            client.poll(0)  # hands over what went wrong with the connections
            patience *= 2
            passing = error.args[0].code() in _VAGUE and not any(map(is_refusal, causes)) and not _wants_tls(config)
            if not passing or time.monotonic() >= deadline:
                raise UnreachableError(explain(config, error.args[0], causes)) from error


def once_coordinated(ask: Callable[[], T], timeout_s: float) -> T:
    """Asks something of a group, again while the cluster has nobody who could answer.

    Raises:
        KafkaException: It still has none, or the answer is another error.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _UNCOORDINATED or time.monotonic() > deadline:
                raise
            time.sleep(_ASK_AGAIN_S)


def with_advice(error: KafkaError) -> str:
    """What Kafka says, and where it says that we may not, where to look what we should be allowed."""
    denied = _DENIED.get(error.code())
    return f"{error.str()} This user lacks a right on {denied}: see `headrace acls`" if denied else error.str()


def is_refusal(cause: KafkaError) -> bool:
    """Whether a broker answered, and would not have us."""
    return cause.code() in _REFUSALS


def explain(config: Mapping[str, Any], error: KafkaError, causes: Sequence[KafkaError] = ()) -> str:
    """Why a cluster cannot be reached, and what to do; asks the port itself where the client could not tell."""
    address = config.get("bootstrap.servers")
    refusal = next(filter(is_refusal, causes), None)
    if refusal is not None and refusal.code() == KafkaError._SSL:
        return f"TLS with {address} fails: {_words(refusal)}; {_AUTHORITY}, or give it a certificate for that name"
    if refusal is not None:
        return f"{address} refuses the login: {_words(refusal)}; {_LOGIN}"
    if error.code() not in _VAGUE:
        return f"{address}: {with_advice(error)}"
    cause = next((cause for cause in causes if cause.code() != KafkaError._ALL_BROKERS_DOWN), error)
    if advice := _mismatch(config):
        return f"{address} does not speak as expected: {advice}"
    return f"no broker answers at {address}: {_words(cause)}. Is it running, and HEADRACE_KAFKA right?"


def _words(error: KafkaError) -> str:
    """Without the client's own name of the connection, and how long it took."""
    return error.str().partition("/bootstrap: ")[2].rpartition(" (after")[0] or error.str()


def _mismatch(config: Mapping[str, Any]) -> str:
    """Says where client and broker differ about TLS, or a user is missing; empty where the first broker is away."""
    protocol = _protocol(config)
    if _wants_tls(config):
        return f"it wants TLS; set security.protocol under kafka.security to SSL or SASL_SSL instead of {protocol}"
    answers = _speaks_tls(config)
    if answers is None:
        return ""
    if not answers and protocol.endswith("SSL"):
        return "it seems to speak no TLS; is security.protocol under kafka.security PLAINTEXT or SASL_PLAINTEXT there?"
    if not protocol.startswith("SASL"):
        return f"it says nothing to {protocol}; if it asks for a user, set security.protocol to SASL_{protocol}"
    return ""


def _wants_tls(config: Mapping[str, Any]) -> bool:
    return _protocol(config).endswith("PLAINTEXT") and _speaks_tls(config) is True


def _protocol(config: Mapping[str, Any]) -> str:
    return str(config.get("security.protocol", "plaintext")).upper().replace("-", "_")


def _speaks_tls(config: Mapping[str, Any]) -> bool | None:
    """Whether the first broker does; None where nobody is there, or says nothing in time."""
    first = str(config.get("bootstrap.servers", "")).split(",")[0].rpartition("://")[2]
    host, _, port = first.rpartition(":")
    # Only whether a handshake is possible is asked; nothing is sent, so nobody needs to be trusted.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[] "), int(port)), _PROBE_S) as plain:
            context.wrap_socket(plain).close()
            return True
    except (TimeoutError, ConnectionRefusedError, socket.gaierror, ValueError):
        return None
    except OSError:  # ssl.SSLError is one
        return False
