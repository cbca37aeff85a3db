"""Topics → ClickHouse, each message exactly one row, in one loop.

Rules that everything here serves:

- The tables are the only memory. A partition is read from behind what they hold; whenever that is in doubt (a new
  assignment, a failed insert, a pause of this process) what is not stored is forgotten and the tables are asked again.
- One insert holds rows of one Kafka partition that lie in one partition of the table, in one block: all or nothing.
- While ClickHouse is away nothing is read: Kafka holds the data, and the loop asks again with a growing, random delay.
- A message that is no row is kept in `sink_rejects` and the others go on.
- One batch is on its way into the tables while what comes next is read and decoded, and never more than one: before the
  tables are asked anything it has arrived or failed. What is due meanwhile waits for its turn and grows: the slower the
  tables, the larger and cheaper the inserts. Only where the bounds of memory are reached does reading wait, too.
"""

from __future__ import annotations

import logging
import random
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from streams.errors import StopError, WorldError
from streams.store._partition import Partition
from streams.store._progress import Progress, Resume
from streams.store._reader import LostOffsetsError, Place
from streams.store._writer import Batch, Writer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping

    from schemas.envelope import Records
    from streams.observe.metrics import SinkMetrics
    from streams.settings import StoreSettings
    from streams.store._reader import Reader
    from streams.store.client import Store
    from streams.store.destination import Destination

__all__ = ["Sink"]

log = logging.getLogger(__name__)

# Small reads stay in the processor's cache: 1.2 µs a message against 1.6 at 10,000.
_READ_MOST = 2_000
_READ_TIMEOUT_S = 0.05
# Below ClickHouse's max_insert_block_size (1,048,449 rows): a batch must stay one block to be atomic.
_MOST_ROWS = 500_000
# Bounds memory where messages are big (rows alone would allow 20,000 of 1 MB), and where partitions are many.
_MOST_BYTES = 32_000_000
_MOST_BYTES_TOGETHER = 64_000_000
# How much longer the messages of a partition that is a whole batch behind may wait until theirs is full: they are late
# already, and ten batches of a tenth cost the engine twice as much.
_PATIENCE = 10
# Share of the session time-out: a member that was still for less cannot have lost its partitions to another.
_PAUSE = 0.8
# After a pause, or a lost claim, Kafka gets this long to tell this member that its partitions went elsewhere.
_HESITATE_S = 2.0
# A partition that rests for so long has its end told to the store, once: a store that is killed sooner and then rests
# for longer than Kafka keeps messages would take the markers behind the last row for lost messages.
_REST_S = 2.0
# How old the lag that is shown may be.
_ENDS_S = 0.2
_BACKOFF_S, _BACKOFF_MOST_S = 0.2, 15.0


class Sink:
    """Stores what the reader brings; `run` returns when told to stop.

    Args:
        store: Used by the loop's thread alone.
        reader: Likewise.
        destinations: By topic.
        settings: Flush sizes, and what to do where Kafka lost what comes next.
        metrics: Counts.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        reader: Reader,
        destinations: Mapping[str, Destination],
        settings: StoreSettings,
        metrics: SinkMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reader = reader
        self._destinations = destinations
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._progress = Progress(store)
        self._writer = Writer(store, self._progress, metrics)
        self._partitions: dict[Place, Partition] = {}
        self._generation = -1
        self._looked = clock()
        self._ask_at = 0.0
        self._failures = 0
        self._away = ""
        # For `positions`, which other threads call: a consumer may be asked by its own thread alone.
        self._ends: dict[Place, int] = {}
        self._ends_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """The loop, until told to stop; what was read by then is stored if ClickHouse is there.

        Raises:
            StopError: Going on would lose or double something; the message says what to do.
            StoreRefusedError: ClickHouse will not take what it is given.
        """
        try:
            while not stop.is_set():
                self.step()
            self._store_due(self._clock(), everything=True)
            self._finish()
            self._tell_ends(self._clock(), 0.0)
        finally:
            self._writer.close()

    def step(self) -> None:
        """One round: notice changes, find out where to go on, read, store what is due."""
        self._notice()
        self._resume(self._clock())
        try:
            records = self._reader.read(_READ_MOST, _READ_TIMEOUT_S)
        except LostOffsetsError as error:
            self._doubt(str(error))
            self._ask_at = self._clock() + _BACKOFF_S
            return
        if self._generation == self._reader.generation:
            self._take(records)
            self._store_due(self._clock())
            if self._writer.done:
                self._finish()
            self._tell_ends(self._clock(), _REST_S)
            self._look_at_ends(self._clock())

    @property
    def ready(self) -> bool:
        """Whether the store answers and everything assigned is flowing."""
        partitions = list(self._partitions.values())
        return not self._away and bool(partitions) and all(partition.flowing for partition in partitions)

    @property
    def away(self) -> str:
        """Why ClickHouse cannot be written to; empty where it can."""
        return self._away

    @property
    def looked(self) -> float:
        """When the loop last came round, by its clock."""
        return self._looked

    def positions(self) -> list[dict[str, Any]]:
        """How far each partition is, as `/status` shows it."""
        return [self._position(partition) for partition in list(self._partitions.values())]

    def _position(self, partition: Partition) -> dict[str, Any]:
        place, next_offset = partition.place, self._stored_until(partition)
        end = self._ends.get(place) if partition.flowing else None
        return {
            "topic": place.topic,
            "partition": place.partition,
            "table": partition.destination.table.name,
            "flowing": partition.flowing,
            "next_offset": next_offset,
            "end_offset": end,
            "lag": None if end is None else max(0, end - next_offset),
            "rows": partition.rows,
            "rejects": partition.rejects,
        }

    def _stored_until(self, partition: Partition) -> int:
        """Everything below is stored: at the end of a partition that counts the markers behind the last message."""
        end = self._reader.ends.get(partition.place, -1)
        return max(partition.stored_next, end) if partition.flowing and partition.idle else partition.stored_next

    def _look_at_ends(self, now: float) -> None:
        if now < self._ends_at:
            return
        self._ends_at = now + _ENDS_S
        known = {place: self._reader.known_end(place) for place in self._partitions}
        self._ends = {place: end for place, end in known.items() if end is not None}

    def _notice(self) -> None:
        now = self._clock()
        paused, self._looked = now - self._looked, now
        if self._generation != self._reader.generation:
            self._generation = self._reader.generation
            self._partitions = {
                place: self._partitions.get(place) or Partition(place, self._destinations[place.topic])
                for place in sorted(self._reader.assigned)
            }
            self._doubt("the assignment changed")
        elif paused > self._settings.session_timeout_ms / 1000 * _PAUSE and any(
            partition.flowing for partition in self._partitions.values()
        ):
            self._doubt(f"the sink stood still for {paused:.1f} s")
            self._ask_at = now + _HESITATE_S

    def _doubt(self, why: str, partitions: Iterable[Partition] | None = None) -> None:
        """Reads nothing more of the partitions (all, unless some are named) until the tables were asked again."""
        log.info("Asking the tables where to go on: %s", why)
        for partition in self._partitions.values() if partitions is None else partitions:
            partition.doubt()
        self._read_flowing()

    def _read_flowing(self) -> None:
        self._reader.read_from({p.place: p.read_next for p in self._partitions.values() if p.flowing})

    def _resume(self, now: float) -> None:
        """Starts every partition that stands, if the store says where."""
        standing = [partition for partition in self._partitions.values() if not partition.flowing]
        if not standing or now < self._ask_at:
            return
        self._finish()
        if now < self._ask_at:
            return
        try:
            for partition in standing:
                place, table = partition.place, partition.destination.table.name
                claim, resume = self._progress.take(table, *place)
                resume = self._reachable(place, resume)
                partition.begin(claim, resume, self._within_bounds(place, table, resume))
        except (WorldError, OSError) as error:
            self._fail(error)
        else:
            self._succeed()
        self._read_flowing()

    def _reachable(self, place: Place, resume: Resume) -> Resume:
        """Without the batch that is to be stored once more, where Kafka deleted some of it: its rows are there."""
        low, high = self._reader.bounds(place)
        if resume.again >= high:
            # It never comes whole: the topic was made anew, or lost its end.
            return Resume(resume.offset, resume.seen) if resume.after < 0 else Resume(resume.after)
        if resume.after < 0 or resume.offset is None or resume.offset >= low:
            return resume
        log.warning("The last batch of %s left Kafka: where a kill kept it from a view, that view lacks it", place)
        return Resume(resume.after)

    def _within_bounds(self, place: Place, table: str, resume: Resume) -> int:
        """The offset to read from, where Kafka still has it."""
        low, high = self._reader.bounds(place)
        if resume.offset is None:
            return low
        if resume.offset > high:
            raise StopError(
                f"{place} ends at {high}, but {table} holds rows up to offset {resume.offset - 1}: the topic was made"
                f" anew. Rename the topic, or take its old rows out of {table}, then start the store again."
            )
        if resume.offset < low and self._settings.on_lost_offsets == "fail":
            raise StopError(
                f"Offsets {resume.offset} to {low - 1} of {place} were deleted from Kafka before they were stored in"
                f' {table}. To go on without them set store.on_lost_offsets = "earliest".'
            )
        if resume.offset < low:
            log.error(
                "Offsets %d to %d of %s were deleted from Kafka and are not in %s", resume.offset, low - 1, place, table
            )
        return max(resume.offset, low)

    def _take(self, read: list[Records]) -> None:
        now = self._clock()
        try:
            for records in read:
                partition = self._partitions.get(Place(records.topic, int(records.partitions[0])))
                if partition is not None and partition.flowing:
                    partition.add(records, now)
        except OSError as error:
            self._fail(error)

    def _store_due(self, now: float, *, everything: bool = False) -> None:
        rows = min(self._settings.flush_rows, _MOST_ROWS)
        due = [
            partition
            for partition in self._partitions.values()
            if partition.flowing
            and partition.due(now, rows, _MOST_BYTES, 0.0 if everything else self._patience_s(partition))
        ]
        for partition in sorted(due, key=attrgetter("since")):
            full = partition.waiting.count >= _MOST_ROWS or partition.waiting_bytes >= _MOST_BYTES
            if partition.flowing and (everything or full or self._writer.free):
                self._send(partition)
        # A batch that is stored once more must be whole first.
        free = [partition for partition in self._partitions.values() if partition.again < 0]
        while sum(partition.waiting_bytes for partition in free) > _MOST_BYTES_TOGETHER:
            self._send(max(free, key=attrgetter("waiting_bytes")))

    def _patience_s(self, partition: Partition) -> float:
        """How long its messages may wait: longer where Kafka holds enough for a full batch."""
        fillable = partition.waiting.count + self._ends.get(partition.place, 0) - partition.read_next
        return self._settings.flush_interval_ms / 1000 * (_PATIENCE if fillable >= self._settings.flush_rows else 1)

    def _send(self, partition: Partition) -> None:
        """Sends what waits of a partition on its way; the batch before has arrived then."""
        try:
            pieces, rejects = partition.waiting.pieces()
        except OSError as error:
            self._fail(error)
            return
        self._finish()
        if not partition.flowing:
            # The batch before told of a store that is away, or of another sink: what waited is forgotten already.
            return
        sent = partition.send()
        rows = sent.count - rejects
        self._writer.begin(Batch(partition, pieces, partition.claim, sent.first, sent.last, rows, rejects))

    def _finish(self) -> None:
        """Waits for the batch that is on its way, and takes note of what became of it."""
        found = self._writer.finish()
        if found is None:
            return
        batch, landed = found
        if isinstance(landed, Exception):
            self._fail(landed)
        elif not landed:
            self._doubt(f"another sink took {batch.place}", [batch.partition])
            self._ask_at = self._clock() + _HESITATE_S * (1 + random.random())  # noqa: S311  # no secret
        else:
            if batch.rejects:
                log.warning(
                    "%d messages of %s are no rows of %s: see sink_rejects", batch.rejects, batch.place, batch.table
                )
                self._metrics.observe_unreadable(batch.rejects)
            batch.partition.stored(batch.last, batch.rows, batch.rejects)
            self._succeed()

    def _tell_ends(self, now: float, rest_s: float) -> None:
        """Tells the store of the markers behind the last row, so that nothing seems lost where Kafka deletes them."""
        for partition in list(self._partitions.values()):
            place, table = partition.place, partition.destination.table.name
            end = self._reader.ends.get(place, 0)
            if partition.rests(end, now, rest_s):
                self._finish()
                try:
                    self._progress.announce_end(table, *place, end, partition.claim)
                except (WorldError, OSError) as error:
                    self._fail(error)
                    return
                partition.end_told = end

    def _fail(self, error: Exception) -> None:
        """ClickHouse (or the registry) is away: nothing is read until it answers."""
        self._failures += 1
        self._metrics.observe_failure()
        ceiling = min(_BACKOFF_MOST_S, _BACKOFF_S * 2 ** min(self._failures, 10))
        delay = ceiling * (0.5 + random.random() / 2)  # noqa: S311  # no secret
        self._away = str(error)
        log.warning("%s. Kafka holds the data; asking again in %.1f s", str(error).rstrip("."), delay)
        self._doubt("the store did not answer")
        self._ask_at = self._clock() + delay

    def _succeed(self) -> None:
        if self._away:
            log.info("ClickHouse answers again")
        self._away, self._failures = "", 0
