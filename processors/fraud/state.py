"""Keyed state of the fraud domain per source partition: histories of cards and event ids seen lately."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from processors import _windows_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from processors._recent_ids import RecentIds
    from processors._windows import KeyedWindows


class FraudState:
    """One changelog for both: their entries differ in the first byte of the key (a `KeyedState`)."""

    def __init__(self, windows: KeyedWindows, recent_ids: RecentIds) -> None:
        self.windows = windows
        self.recent_ids = recent_ids

    def restore(self, partition: int, entries: Mapping[bytes, bytes]) -> None:
        """Takes over a partition: all live entries of it, in no particular order; may be empty."""
        _windows_log.restore(self.windows, partition, entries)
        self.recent_ids.restore(partition, entries)

    def drop(self, partition: int) -> None:
        """Forgets a partition that went to another worker, or whose transaction was aborted."""
        self.windows.drop(partition)
        self.recent_ids.drop(partition)

    def changes(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Drains (partition, key, value or tombstone) of what changed since the last call."""
        return chain(_windows_log.changes(self.windows), self.recent_ids.changes())

    def dump(self, partition: int) -> dict[bytes, bytes]:
        """Every live entry of a partition: what its compacted changelog holds once the changes are written."""
        return _windows_log.dump(self.windows, partition) | self.recent_ids.dump(partition)
