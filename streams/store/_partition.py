"""One Kafka partition on its way into a table. Pure: the clock is an argument."""

from __future__ import annotations

import msgspec
import numpy as np

from schemas.envelope import Records
from streams.store._progress import Claim, Resume
from streams.store._reader import Place
from streams.store._waiting import Waiting, value_bytes
from streams.store.destination import Destination

__all__ = ["Partition"]


class Partition(msgspec.Struct):
    """What the sink holds of a partition: where it is, and what was read but is not stored yet."""

    place: Place
    destination: Destination
    claim: Claim | None = None
    flowing: bool = False
    """Whether the tables were asked where to go on, and it is being read from there."""
    read_next: int = 0
    """The next offset to read."""
    stored_next: int = 0
    """The offset behind the last one stored."""
    seen: frozenset[int] = frozenset()
    waiting: Waiting = msgspec.UNSET  # type: ignore[assignment]  # `__post_init__` makes it
    behind: list[Records] = []
    """What was read behind a batch that is completed or stored once more: it waits for that batch's end."""
    storing: bool = False
    """Whether a batch of it is on its way into the tables."""
    again: int = -1
    """Last offset of a batch that is completed or stored once more, at once, before anything else; -1 is none."""
    since: float = 0.0
    """When the oldest waiting record came."""
    end: int = 0
    """Where the partition was last seen to end, behind markers, since when, and which end the store was told."""
    end_since: float = 0.0
    end_told: int = 0
    rows: int = 0
    """Stored since this process began."""
    rejects: int = 0

    def __post_init__(self) -> None:
        self.drop()

    def begin(self, claim: Claim | None, resume: Resume, offset: int) -> None:
        """Flows from an offset that the tables, or where they know nothing Kafka, gave."""
        self.claim, self.seen = claim, resume.seen
        self.read_next = offset
        self.again = resume.again
        self.stored_next = offset if resume.offset is None else max(offset, max(resume.seen, default=0) + 1)
        self.drop()
        self.flowing = True

    def doubt(self) -> None:
        """Forgets what is not stored: the tables will say where to go on, Kafka still has it."""
        self.flowing = self.storing = False
        self.drop()

    def drop(self) -> None:
        """Empties the buffer."""
        self.waiting, self.behind = Waiting(self.destination), []

    def add(self, records: Records, now: float) -> None:
        """Takes the next records; those that are stored already are passed over.

        Raises:
            OSError: The registry of their schemas is away.
        """
        self.read_next = int(records.offsets[-1]) + 1
        if self.seen:
            records = records.take([row for row, at in enumerate(records.offsets.tolist()) if at not in self.seen])
        if len(records) and not self.waiting.count and not self.behind:
            self.since = now
        cut = len(records) if self.again < 0 else int(np.searchsorted(records.offsets, self.again, "right"))
        self.waiting.add(records[:cut])
        if cut < len(records):
            self.behind.append(records[cut:])
        if 0 <= self.again < self.read_next and not self.waiting.count:
            self._go_on()  # all of it is there

    def due(self, now: float, rows: int, size: int, age_s: float) -> bool:
        """Whether what waits is to be stored now."""
        if not self.waiting.count:
            return False
        if self.again >= 0:
            return self.read_next > self.again
        return self.waiting.count >= rows or self.waiting.bytes >= size or now - self.since >= age_s

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the values of all that waits."""
        return self.waiting.bytes + sum(map(value_bytes, self.behind))

    @property
    def idle(self) -> bool:
        """Whether all that was read is stored."""
        return not self.waiting.count and not self.storing and self.again < 0

    def send(self) -> Waiting:
        """What waits is on its way from now on; returns it."""
        sent, self.waiting = self.waiting, Waiting(self.destination)
        self.storing = True
        self._go_on()
        return sent

    def rests(self, end: int, now: float, for_s: float) -> bool:
        """Whether everything before this end is stored, has been for so long, and the store was not told yet."""
        if not self.flowing or not self.idle or end <= max(self.stored_next, self.end_told):
            return False
        if end != self.end:
            self.end, self.end_since = end, now
        return now - self.end_since >= for_s

    def stored(self, last: int, rows: int, rejects: int) -> None:
        """What was on its way is in the tables; where to go on is asked of them if there was a doubt meanwhile."""
        if self.storing:
            self.stored_next = last + 1
        self.storing = False
        self.rows += rows
        self.rejects += rejects

    def _go_on(self) -> None:
        """The batch that was to be completed or stored once more is dealt with: what was read behind it is next."""
        self.again = -1
        behind, self.behind = self.behind, []
        for records in behind:
            self.waiting.add(records)
