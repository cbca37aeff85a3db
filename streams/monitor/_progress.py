"""Whether the monitor gets on: how far it has come against how far its topics reach.

Consumers of this kind are known to stop in silence: alive, in the group, and reading nothing. So a thread with a Kafka
client of its own asks where the topics end, and where a partition does not move, whether there is anything to read:
behind the last message there may be marks and leftovers of transactions, which nobody is given. A partition is stalled
where there is something to read and its position has not moved; a process that is stalled for too long leaves, and
whoever supervises it starts it again. Nothing is lost by that: what was read and not yet kept is read again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

Partition = tuple[str, int]

EXIT_STALLED = 75
"""`EX_TEMPFAIL` of sysexits.h: try again."""

_LOOK_S = 1.0
_ANSWER_S = 10.0
# A fetch is answered in milliseconds; more than one is needed where partitions answer one after the other.
_PROBES, _PROBE_MS = 20, 50


class Progress:
    """Pure: since when which partition has not moved although there is something to read."""

    def __init__(self) -> None:
        self.lag: dict[Partition, int] = {}
        self._reached: dict[Partition, int] = {}
        self._waiting_since: dict[Partition, float] = {}

    def observe(
        self, now: float, reached: Mapping[Partition, int], ends: Mapping[Partition, int], *, recovering: bool = False
    ) -> None:
        """Takes positions and ends of the input partitions; what was not reached yet counts as 0.

        While the state is being read back (`recovering`), no input moves, and any position that does is progress.
        """
        if recovering and reached != self._reached:
            self.forgive()
        self.lag = {partition: max(0, end - reached.get(partition, 0)) for partition, end in ends.items()}
        for partition, lag in self.lag.items():
            moved = reached.get(partition, 0) != self._reached.get(partition, 0)
            if moved or not lag:
                self._waiting_since.pop(partition, None)
            if lag:
                self._waiting_since.setdefault(partition, now)
        self._reached = dict(reached)

    def forgive(self) -> None:
        """Starts over, as after a time in which the broker was away."""
        self._waiting_since.clear()

    def stalled_s(self, now: float) -> float:
        """How long the partition that waits longest has waited."""
        return now - min(self._waiting_since.values(), default=now)

    def stalled(self) -> list[str]:
        """Names of the partitions that wait."""
        return [f"{topic}/{partition} (lag {self.lag[topic, partition]})" for topic, partition in self._waiting_since]


class Watchdog:
    """Watches from a thread of its own, so that a blocked event loop is seen too."""

    def __init__(
        self,
        client_settings: Mapping[str, Any],
        group: str,
        topics: tuple[str, ...],
        reached: Callable[[], Mapping[Partition, int]],
        recovering: Callable[[], bool],
        timeout_s: float,
        on_lag: Callable[[Mapping[Partition, int]], None],
    ) -> None:
        self._settings = client_settings
        self._group = group
        self._topics = topics
        self._reached = reached
        self._recovering = recovering
        self._timeout_s = timeout_s
        self._on_lag = on_lag
        self._progress = Progress()
        self._last_reached: dict[Partition, int] = {}
        self._stop = threading.Event()
        self._broker_answers = False

    def start(self) -> None:
        """Begins to watch."""
        threading.Thread(target=lambda: asyncio.run(self._watch()), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ends watching, before an orderly end of the process."""
        self._stop.set()

    def live(self) -> dict[str, str]:
        """The condition of progress, or of nothing to do, in half the time after which the process would leave."""
        stalled_s = self._progress.stalled_s(time.monotonic())
        fine = stalled_s < self._timeout_s / 2
        return {"progress": "" if fine else f"none for {stalled_s:.0f} s on {', '.join(self._progress.stalled())}"}

    def ready(self) -> dict[str, str]:
        """The conditions that the broker answers and the monitor gets on."""
        return {"kafka": "" if self._broker_answers else "the broker does not answer", **self.live()}

    async def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                await self._look_until_lost()
            except Exception as error:
                self._broker_answers = False
                log.warning("no answer from the broker: %s", error)
                self._progress.forgive()
                await asyncio.sleep(_LOOK_S)

    async def _look_until_lost(self) -> None:
        admin = AIOKafkaAdminClient(**self._settings)
        try:
            await admin.start()
            async with AIOKafkaConsumer(**self._settings, isolation_level="read_committed") as client:
                while not self._stop.is_set():
                    await asyncio.wait_for(self._look(admin, client), _ANSWER_S)
                    await asyncio.sleep(_LOOK_S)
        finally:
            await admin.close()

    async def _look(self, admin: AIOKafkaAdminClient, client: AIOKafkaConsumer) -> None:
        ends = await self._ends(admin, client)
        # What this process has not touched yet stands where the group left it.
        left = await admin.list_consumer_group_offsets(self._group)
        reached = {(tp.topic, tp.partition): found.offset for tp, found in left.items()} | dict(self._reached())
        stands = {
            p: reached.get(p, 0) for p, end in ends.items() if self._last_reached.get(p) == reached.get(p, 0) < end
        }
        self._last_reached = {p: reached.get(p, 0) for p in ends}
        nothing = await _nothing_to_read(client, stands, ends) if stands else set()
        self._judge({p: reached.get(p, 0) if p in nothing else end for p, end in ends.items()}, reached)

    async def _ends(self, admin: AIOKafkaAdminClient, client: AIOKafkaConsumer) -> dict[Partition, int]:
        described = await admin.describe_topics(list(self._topics))
        partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            for partition in topic["partitions"]
        ]
        ends = await client.end_offsets(partitions)
        return {(partition.topic, partition.partition): end for partition, end in ends.items()}

    def _judge(self, ends: Mapping[Partition, int], reached: Mapping[Partition, int]) -> None:
        now = time.monotonic()
        self._broker_answers = True
        self._progress.observe(now, reached, ends, recovering=self._recovering())
        self._on_lag(self._progress.lag)
        if self._progress.stalled_s(now) > self._timeout_s:
            leave(f"no progress for {self._timeout_s:.0f} s on {', '.join(self._progress.stalled())}")


async def _nothing_to_read(
    client: AIOKafkaConsumer, starts: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> set[Partition]:
    """Partitions in which a reader at the start comes to the end without being given a message."""
    at = {TopicPartition(*partition): partition for partition in starts}
    client.assign(list(at))
    for topic_partition, partition in at.items():
        client.seek(topic_partition, starts[partition])
    given: set[TopicPartition] = set()
    for _ in range(_PROBES):
        given |= (await client.getmany(timeout_ms=_PROBE_MS, max_records=1)).keys()
        open_ends = [tp for tp in at if tp not in given and await client.position(tp) < ends[at[tp]]]
        if not open_ends:
            break
    client.unsubscribe()
    return {partition for tp, partition in at.items() if tp not in given and tp not in open_ends}


def leave(why: str, code: int = EXIT_STALLED) -> NoReturn:
    """Ends the process at once: an orderly end would wait for what does not answer, and commit what was not kept."""
    log.critical("%s: leaving, to be started again", why)
    logging.shutdown()
    os._exit(code)
