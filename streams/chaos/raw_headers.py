"""Messages whose headers have names of any bytes: confluent-kafka cannot write them, the library below it can."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NoLibraryError", "RawHeadersError", "send_with_header"]

# Of rd_kafka_vtype_t and rd_kafka_type_t (rdkafka.h).
_END, _TOPIC, _VALUE, _KEY, _MSGFLAGS, _HEADERS = 0, 1, 4, 5, 7, 10
_COPY, _PRODUCER = 2, 0


class NoLibraryError(HeadraceError):
    """The library below confluent-kafka is not where wheels for Linux have it."""


class RawHeadersError(HeadraceError):
    """The messages were not written."""


def send_with_header(bootstrap: str, topic: str, name: bytes, messages: Sequence[tuple[bytes, bytes]]) -> None:
    """Writes (key, value) pairs, each with one header of this name.

    Raises:
        NoLibraryError: This cannot be done on this machine.
        RawHeadersError: Kafka did not take them in time.
    """
    library = _library()
    errors = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(ctypes.c_void_p(configuration), b"bootstrap.servers", bootstrap.encode(), errors, 512)
    producer = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, ctypes.c_void_p(configuration), errors, 512))
    failed = 0
    for key, value in messages:
        headers = ctypes.c_void_p(library.rd_kafka_headers_new(1))
        library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"x", ctypes.c_ssize_t(1))
        sized = [(_VALUE, value, ctypes.c_size_t(len(value))), (_KEY, key, ctypes.c_size_t(len(key)))]
        arguments = [_TOPIC, topic.encode(), *sized[0], *sized[1], _MSGFLAGS, _COPY, _HEADERS, headers, _END]
        failed |= library.rd_kafka_producev(producer, *arguments)
    failed |= library.rd_kafka_flush(producer, 30_000)
    library.rd_kafka_destroy(producer)
    if failed:
        raise RawHeadersError(f"{topic}: messages with a header named {name!r} were not written")


def _library() -> ctypes.CDLL:
    """The librdkafka inside of confluent-kafka's wheel."""
    beside = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    found = sorted(beside.glob("librdkafka*"))
    if not found:
        raise NoLibraryError(f"no librdkafka in {beside}: it is where wheels for Linux have it")
    library = ctypes.CDLL(str(found[0]))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_destroy.restype = None
    return library
