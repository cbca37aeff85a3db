"""A wall clock that can be put forward and back, for processes that were started with it.

Python's `time.time` and `time.time_ns` are replaced before anything else is imported; each call adds the offset that
stands in a small file which the owner changes. The monotonic clock is left alone, as a real step leaves it. What asks
the kernel by itself (the broker's JVM, timestamps of Kafka messages by librdkafka) sees no step: to have that, the
machine's own clock would have to be set, which takes root and disturbs everybody.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Clock", "install"]

_NUMBER = struct.Struct("<q")


class Clock:
    """The offset of one process, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_NUMBER.pack(0))

    def step(self, offset_s: float) -> None:
        """Puts the clock that far from the true time; 0 puts it right."""
        with self.path.open("r+b") as file:
            file.write(_NUMBER.pack(round(offset_s * 1e9)))


def install(path: Path) -> None:
    """Makes this process read the clock; for its whole life."""
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), _NUMBER.size, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(_NUMBER.unpack_from(offset)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
