"""TLS between clients, ClickHouse and the store's own endpoint: whom to trust, and what to do where that fails."""

from __future__ import annotations

import ssl
from pathlib import Path

from streams.errors import SetupError

__all__ = ["advice", "serving", "trusting"]


def trusting(ca_file: str) -> ssl.SSLContext:
    """For clients: certificates of the given authority alone, or of those that the system knows.

    Raises:
        SetupError: The file is not there, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise SetupError(f"clickhouse.ca_file: {ca_file} cannot be used: {error.strerror or error}") from error


def serving(certificate: str, key_file: str) -> None:
    """Checks what a server is to show; what is wrong would otherwise be said on a thread that nobody hears.

    Raises:
        SetupError: A file is missing, or they do not belong together.
    """
    if not certificate or not key_file:
        raise SetupError("store.tls_certificate and store.tls_key_file belong together: set both, or neither")
    for name, path in (("tls_certificate", certificate), ("tls_key_file", key_file)):
        if not Path(path).is_file():
            raise SetupError(f"store.{name} names {path}, which is not there")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key_file)
    except OSError as error:  # ssl.SSLError is one
        raise SetupError(f"store.tls_certificate and store.tls_key_file cannot be used together: {error}") from error


def advice(text: str) -> str:
    """What to do about an error of TLS; empty where it is none, or nothing is known."""
    if "certificate verify failed" in text.lower().replace("_", " "):
        return "; set clickhouse.ca_file to the file of the authority that signed its certificate, or ask by its name"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
        return "; it seems to speak no TLS: write http:// there, or name the port that does"
    return ""
