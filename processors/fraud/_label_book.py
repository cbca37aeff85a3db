"""What became of single transactions, per row (a merchant): the later label of an event holds, whatever came first."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from processors.fraud._hourly import HourlyWindows

MAX_FRAUDS = 50_000
"""Frauds of one row told apart by event id: 20 bytes each keep a record at 1 MB."""
MAX_GENUINE = 64
"""Genuine labels of one row remembered against an older fraud label that arrives after its reversal."""

PACKED = np.dtype([("event", "<u8"), ("labelled_at", "<i8"), ("hour", "<i4")])

Labels = dict[int, tuple[int, int]]
"""Digest of the event id → (labelled_at, hour)."""


class LabelBook:
    """Labels per row, and the frauds among them as sums over sliding windows."""

    def __init__(self, delay_hours: int) -> None:
        self.windows = HourlyWindows(delay_hours)
        self.over_limit = 0
        """Fraud labels that were not taken because their row has too many."""
        self._frauds: dict[int, Labels] = {}
        self._genuine: dict[int, Labels] = {}
        # Rows that were looked through for labels of hours that are over, and the newest hour at that time.
        self._full_at: dict[int, int | None] = {}

    def take(self, row: int, event: int, is_fraud: bool, labelled_at: int, hour: int) -> bool:
        """Takes one label of an event (see `digest`); returns whether anything changed."""
        frauds, genuine = self._frauds.setdefault(row, {}), self._genuine.setdefault(row, {})
        before = _held(frauds, genuine, event)
        if before is not None and (labelled_at, is_fraud, hour) <= before:
            return False
        if is_fraud and event not in frauds and not self._has_room(row, frauds):
            self.over_limit += 1
            return False
        if event in frauds:
            self.windows.bump(row, frauds.pop(event)[1], -1)
        genuine.pop(event, None)
        if is_fraud:
            frauds[event] = (labelled_at, hour)
            self.windows.bump(row, hour, 1)
        else:
            genuine[event] = (labelled_at, hour)
            if len(genuine) > MAX_GENUINE:
                del genuine[min(genuine, key=genuine.__getitem__)]
        return True

    def pack(self, row: int) -> tuple[bytes, bytes]:
        """The row's fraud and genuine labels, as rows of `PACKED`."""
        return self._packed(self._frauds.get(row, {})), self._packed(self._genuine.get(row, {}))

    def restore(self, row: int, frauds: bytes, genuine: bytes) -> None:
        """Takes what `pack` gave."""
        for packed, is_fraud in ((frauds, True), (genuine, False)):
            for event, labelled_at, hour in np.frombuffer(packed, PACKED).tolist():
                if not self.windows.is_over(hour):
                    self.take(row, event, is_fraud, labelled_at, hour)

    def holds(self, row: int) -> bool:
        """Whether the row has a label whose hour is not over."""
        return any(self._drop_old(book.get(row, {})) for book in (self._frauds, self._genuine))

    def forget(self, row: int) -> None:
        """Drops the labels of a row that holds none that matters."""
        self._frauds.pop(row, None)
        self._genuine.pop(row, None)
        self._full_at.pop(row, None)

    def _has_room(self, row: int, frauds: Labels) -> bool:
        if len(frauds) < MAX_FRAUDS:
            return True
        if self._full_at.get(row) == self.windows.head:
            return False  # none can have grown old since: looking through all at each label took 10 ms a label
        self._full_at[row] = self.windows.head
        return len(self._drop_old(frauds)) < MAX_FRAUDS

    def _drop_old(self, labels: Labels) -> Labels:
        """Forgets labels of hours that are over, and returns what is left."""
        for event in [event for event, (_, hour) in labels.items() if self.windows.is_over(hour)]:
            del labels[event]
        return labels

    def _packed(self, labels: Labels) -> bytes:
        young = self._drop_old(labels)
        return np.array([(event, at, hour) for event, (at, hour) in young.items()], PACKED).tobytes()


def digest(event_id: str) -> int:
    """64 bits that stand for an event id: among a row's 50,000 events two are mistaken once in 10 billion rows."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


def _held(frauds: Labels, genuine: Labels, event: int) -> tuple[int, bool, int] | None:
    """(labelled_at, is_fraud, hour) of the label that holds."""
    for labels, is_fraud in ((frauds, True), (genuine, False)):
        if event in labels:
            labelled_at, hour = labels[event]
            return labelled_at, is_fraud, hour
    return None
