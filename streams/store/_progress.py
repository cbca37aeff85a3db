"""What the tables themselves say of how far a Kafka partition was stored, and who may go on.

Where to resume is read from the rows, never from Kafka's group offsets: a row and its offset are one insert.

A batch that takes more than one insert (a month ends in it, or some of its messages are rejects) is announced first.
Whoever resumes inside an announced batch reads it again from its start and leaves out what is there already, so that
a kill between the two inserts loses and doubles nothing. The rest goes as one batch: a smaller one, announced in its
turn, would take the place of the announcement while some of the rest, before offsets that are there, is missing.

Where a materialised view hangs on a table, every batch is announced. A kill between the rows and what the view makes of
them (measured: one kill in three during inserts) leaves rows of which the view knows nothing. So whoever resumes stores
the last batch announced once more, the same records under the same tokens: what is there, of rows as of views, is not
inserted again, and what is not is made good. For that a view's own table needs a deduplication window, as ours have.

Behind the last row of a partition lie markers of transactions and messages that were aborted, which no row shows. Where
nothing more comes, Kafka deletes them some day; so that this is no loss, the end is announced as an empty batch there.

Two sinks on one partition (one was stopped, lost its partitions and woke up): each claims the partition with a greater
epoch when it gets it, and every insert carries the condition that its own claim is still the greatest, which the
server itself looks at when the insert begins. An insert that had begun before a claim is waited for before the tables
are asked how far they are. On one server this leaves no gap. Where several replicas take inserts, a claim may reach one
late: there ReplacingMergeTree is the last net, and FINAL (or a merge) shows one row per offset.
The embedded engine has one owner by its directory's lock and needs none of this.

A table that was dropped is made anew and filled from the beginning: rejects and announcements that are older than the
table are about rows that are gone, and do not count.
"""

from __future__ import annotations

import random
import time
import uuid
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from streams.store._arrow import identifier, literal
from streams.store.client import StoreUnavailableError
from streams.store.tables import BATCHES, OWNERS, REJECTS, made_sql

if TYPE_CHECKING:
    from streams.store.client import Store

__all__ = ["Claim", "Progress", "Resume"]

# An insert of another sink that has begun ends within its own answer time-out (60 s); asked again until then.
_SETTLE_S = 10.0
_SETTLE_POLL_S = 0.1
# Asking takes 2 ms.
_VIEWS_EVERY_S = 5.0


class Resume(NamedTuple):
    """Where a partition goes on."""

    offset: int | None
    """The next offset to read; None where nothing of it was stored yet."""
    seen: frozenset[int] = frozenset()
    """Offsets from there on that are stored already."""
    again: int = -1
    """Last offset of a batch that is to be completed, or stored once more for the views, at once; -1 is none."""
    after: int = -1
    """Where to go on instead if Kafka no longer has that batch; -1 where nobody may."""


class Claim(NamedTuple):
    """The right to write the rows of one Kafka partition, for as long as nobody claims it again."""

    database: str
    topic: str
    partition: int
    owner: str

    def sql(self) -> str:
        """A condition that holds while the claim is the greatest; its comment tells running inserts apart."""
        return (
            f"(SELECT argMax(owner, epoch) FROM {identifier(self.database)}.{OWNERS}"
            f" WHERE topic = {literal(self.topic)} AND partition = {self.partition}) = {literal(self.owner)}"
            f" /* {self.marker()} */"
        )

    def marker(self) -> str:
        """Text that every guarded insert into this partition holds, whoever sends it."""
        return f"headrace sink {self.topic.encode().hex()} {self.partition} end"


class Progress:
    """Asks and tells one store how far each Kafka partition is."""

    def __init__(self, store: Store, owner: str = "") -> None:
        self._store = store
        self._owner = owner or uuid.uuid4().hex
        self._claims = count(1)
        self._views: dict[str, tuple[float, bool]] = {}

    def take(self, table: str, topic: str, partition: int) -> tuple[Claim | None, Resume]:
        """Claims a partition, lets older inserts end, and finds out where to go on.

        Raises:
            StoreUnavailableError: The store is away, or an older insert has not ended yet: ask again later.
        """
        claim = None
        if not self._store.exclusive:
            # Each has a name of its own: an insert of ours that we gave up, and that comes late, is an older one too.
            claim = Claim(self._store.database, topic, partition, f"{self._owner}-{next(self._claims)}")
            self._claim(claim)
            self._settle(claim)
        return claim, self.resume(table, topic, partition)

    def resume(self, table: str, topic: str, partition: int) -> Resume:
        """Where to go on, from what is stored."""
        stored = (self.stored_until(table, topic, partition), self._rejected_until(table, topic, partition))
        last = max((offset for offset in stored if offset is not None), default=None)
        if last is None:
            # Whatever was announced: nothing of it is there, or no longer.
            return Resume(None)
        announced = self._announced(table, topic, partition)
        if announced is None or last > announced[1]:
            return Resume(last + 1)
        first, end = announced
        if first > end:
            return Resume(first)
        if self.has_views(table):
            return Resume(first, again=end, after=last + 1)
        return Resume(first, self._offsets_from(first, table, topic, partition), again=end)

    def stored_until(self, table: str, topic: str, partition: int, month: str = "") -> int | None:
        """The greatest offset in a table, or in a month of it; answered from a projection, not from its rows."""
        found = self._store.rows(
            f"SELECT max(_offset) FROM {self._qualified(table)}"
            " WHERE _topic = {topic:String} AND _partition = {partition:UInt32}"
            f"{' AND _partition_id = {month:String}' if month else ''} GROUP BY _topic, _partition",
            {"topic": topic, "partition": partition, "month": month},
        )
        return int(found[0][0]) if found else None

    def has_views(self, table: str) -> bool:
        """Whether materialised views hang on a table; a new one is noticed within seconds."""
        now = time.monotonic()
        asked, found = self._views.get(table, (float("-inf"), False))
        if now - asked > _VIEWS_EVERY_S:
            [[count]] = self._store.rows(
                "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}"
                " AND notEmpty(dependencies_table)",
                {"database": self._store.database, "name": table},
            )
            found = bool(int(count))
            self._views[table] = (now, found)
        return found

    def _rejected_until(self, table: str, topic: str, partition: int) -> int | None:
        """The greatest offset of a reject that is not older than the table."""
        found = self._store.rows(
            f"SELECT max(_offset) FROM {self._qualified(REJECTS.name)}"
            " WHERE _topic = {topic:String} AND _partition = {partition:UInt32}"
            f" AND _inserted_at >= toDateTime({made_sql(self._store.database)}) GROUP BY _topic, _partition",
            {"topic": topic, "partition": partition, "target": table},
        )
        return int(found[0][0]) if found else None

    def announce(
        self, table: str, topic: str, partition: int, first: int, last: int, claim: Claim | None = None
    ) -> None:
        """Says that a batch of these offsets is about to come in more than one insert; nothing under an older claim."""
        condition = f" WHERE {claim.sql()}" if claim else ""
        self._store.execute(
            f"INSERT INTO {self._qualified(BATCHES)} (target, topic, partition, first_offset, last_offset)"
            " SELECT {target:String}, {topic:String}, {partition:UInt32}, {first:UInt64}, {last:UInt64}" + condition,
            {"target": table, "topic": topic, "partition": partition, "first": first, "last": last},
        )

    def announce_end(self, table: str, topic: str, partition: int, end: int, claim: Claim | None = None) -> None:
        """Says that every message before this offset is stored."""
        self.announce(table, topic, partition, end, end - 1, claim)

    def owns(self, claim: Claim) -> bool:
        """Whether nobody claimed the partition since."""
        [[held]] = self._store.rows(f"SELECT {claim.sql()}")
        return bool(held)

    def _claim(self, claim: Claim) -> None:
        # The server's clock orders claims, the last digits tell two of one microsecond apart.
        self._store.execute(
            f"INSERT INTO {self._qualified(OWNERS)} (topic, partition, epoch, owner)"
            " SELECT {topic:String}, {partition:UInt32},"
            " greatest(max(epoch) + 1, toUInt64(toUnixTimestamp64Micro(now64(6))) * 1024 + {noise:UInt64}),"
            f" {{owner:String}} FROM {self._qualified(OWNERS)}"
            " WHERE topic = {topic:String} AND partition = {partition:UInt32}",
            {
                "topic": claim.topic,
                "partition": claim.partition,
                "owner": claim.owner,
                "noise": random.randrange(1024),  # noqa: S311  # no secret
            },
        )

    def _settle(self, claim: Claim) -> None:
        deadline = time.monotonic() + _SETTLE_S
        while True:
            [[running]] = self._store.rows(
                "SELECT count() FROM system.processes WHERE startsWith(query, 'INSERT INTO')"
                " AND position(query, {marker:String}) > 0",
                {"marker": claim.marker()},
            )
            if not running:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"An older insert of {claim.topic} [{claim.partition}] is still running; waiting for its end."
                )
            time.sleep(_SETTLE_POLL_S)

    def _announced(self, table: str, topic: str, partition: int) -> tuple[int, int] | None:
        found = self._store.rows(
            f"SELECT first_offset, last_offset FROM {self._qualified(BATCHES)}"
            " WHERE target = {target:String} AND topic = {topic:String} AND partition = {partition:UInt32}"
            f" AND announced_at >= {made_sql(self._store.database)}"
            " ORDER BY first_offset DESC, last_offset DESC LIMIT 1",
            {"target": table, "topic": topic, "partition": partition},
        )
        return (int(found[0][0]), int(found[0][1])) if found else None

    def _offsets_from(self, first: int, table: str, topic: str, partition: int) -> frozenset[int]:
        found: set[int] = set()
        for name in (table, REJECTS.name):
            found.update(
                int(offset)
                for (offset,) in self._store.rows(
                    f"SELECT DISTINCT _offset FROM {self._qualified(name)} WHERE _topic = {{topic:String}}"
                    " AND _partition = {partition:UInt32} AND _offset >= {first:UInt64}",
                    {"topic": topic, "partition": partition, "first": first},
                )
            )
        return frozenset(found)

    def _qualified(self, table: str) -> str:
        return f"{identifier(self._store.database)}.{identifier(table)}"
