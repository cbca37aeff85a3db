"""Messages of death: what can be no event of any domain, and must not stop, confuse or outlive a worker."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from streams.chaos.raw_headers import NoLibraryError, RawHeadersError, send_with_header

if TYPE_CHECKING:
    import random

__all__ = ["Unnameable", "is_unnameable", "messages"]

_DEPTH = 20_000
_LARGE_BYTES = 3_000_000
_UNNAMEABLE = (b"no event under a name that is none", b"nor this")


def messages(chance: random.Random) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values, none of which is an event."""
    noise = chance.randbytes(chance.randrange(1, 2_000))
    return [
        (None, None),
        (b"", b""),
        (b"tombstone", None),
        (noise[:100], noise),
        (b"\xff\xfe", b"\xff\xfe{}"),
        (b"zeros", bytes(1_000)),
        (b"deep", b"[" * _DEPTH + b"]" * _DEPTH),
        (b"deeper", b'{"a":' * _DEPTH + b"1" + b"}" * _DEPTH),
        (b"open", b'{"event_id":"' + b"x" * 1_000),
        (b"large", chance.randbytes(_LARGE_BYTES)),
        (b"large text", b'"' + b"x" * _LARGE_BYTES + b'"'),
        (b"number", b"1" * 10_000),
        (b"null", b"null"),
        (b"k" * 100_000, b"{}"),
    ]


def is_unnameable(value: bytes | None) -> bool:
    """Whether a message is one of those whose coordinates nobody was told."""
    return value in _UNNAMEABLE


class Unnameable:
    """Messages with headers whose names are no UTF-8, sent from a thread: the broker may be away at the time."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._thread = threading.Thread(target=self._send, args=(bootstrap, topic), name="poison", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether they are sent, or cannot be."""
        return not self._thread.is_alive()

    def _send(self, bootstrap: str, topic: str) -> None:
        with contextlib.suppress(NoLibraryError, RawHeadersError):
            send_with_header(bootstrap, topic, b"\xff\xfe\x00", [(b"unnameable", value) for value in _UNNAMEABLE])
