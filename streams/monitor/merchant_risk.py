"""What labels say about merchants, as a Faust app: tallies and labels in, figures per merchant out.

Strategy: what was read is summed in memory at once, and figures that are news are told at most every
`emit_interval_s`. Every `keep_interval_s` each merchant that changed is written once to the changelog, and only when
Kafka has all of that are the messages acknowledged. Whatever is read twice changes nothing the second time, because a
merchant's record holds what it covers (see `processors.fraud.merchant_risk`). Two processes that both think they are
the one would write over each other: so before each write, the changelog must end where this process left it.

Faust gives the consumer group, the changelog table and its recovery. Writes do not go through `table[key] = value`:
that one is sent in the background, and Faust commits offsets without waiting for it when the broker is slow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from faust.types import TP

from schemas.envelope import Message, Record
from streams.errors import StopError
from streams.monitor._app import make_app
from streams.monitor._inbox import Inbox
from streams.monitor._kafka import client_settings
from streams.monitor._merchants import INPUTS, RISK, Codecs, Merchants
from streams.monitor._outlet import Outlet
from streams.monitor._progress import leave

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from faust.types import EventT

    from streams.monitor._progress import Partition
    from streams.observe.metrics import MonitorMetrics
    from streams.settings import MonitorSettings

log = logging.getLogger(__name__)

GROUP = "headrace-monitor-merchant-risk"
TABLE = "merchants"
CHANGELOG = f"{GROUP}-{TABLE}-changelog"

_APPLY_S = 0.1
# Keeping takes a tenth of the time at most, however many merchants there are.
_REST_AFTER_KEEPING = 9
# Messages that wait for their acknowledgement: about 1 kB each.
_MOST_UNKEPT = 200_000
_POSITION_S = 1.0
_POSITION_ANSWER_S = 5.0


class SecondMonitorError(StopError):
    """Another monitor has some of the partitions; figures need all of them in one process."""


class MerchantRiskMonitor:
    """The app, and what it knows; built once per process."""

    def __init__(
        self,
        config: Mapping[str, str],
        folder: Path,
        settings: MonitorSettings,
        codecs: Codecs,
        metrics: MonitorMetrics,
    ) -> None:
        self.app = make_app(GROUP, config, folder)
        self.recovered = False
        """Whether this process has all partitions and has read the records of all merchants back."""
        self._settings = settings
        self._codecs = codecs
        self._metrics = metrics
        self._merchants = Merchants(settings, codecs)
        self._inbox = Inbox()
        self._outlet = Outlet(client_settings(config))
        self._summed: list[EventT[Any]] = []
        self._letters: list[Message] = []
        self._lock = asyncio.Lock()
        self._positions: dict[Partition, int] = {}
        self._next_telling = self._next_keeping = 0.0
        self._had_all = False
        self._kept_end = 0
        self._table = self._declare()

    def reached(self) -> Mapping[Partition, int]:
        """Per partition the offset before which everything is summed; of the changelog, what was read back."""
        return dict(self._positions)

    async def finish(self) -> None:
        """Tells and keeps what was read by now, whenever that would have been due; called before the app stops."""
        async with self._lock:
            if self.recovered and not self.app.should_stop:
                self._next_telling = self._next_keeping = 0.0
                self._sum()
                await self._tell()
                await self._keep()

    # Wiring.

    def _declare(self) -> Any:
        app = self.app
        # By the key's own partition, whatever partition an event came from: a merchant's records have one order.
        table: Any = app.Table(TABLE, key_type=bytes, value_type=bytes, partitions=1, use_partitioner=True)
        table.on_recover(self._restore)
        for name in INPUTS:
            app.agent(app.topic(name, key_type=bytes, value_type=bytes), name=f"read-{name}")(self._read)
        app.task(self._work)
        app.task(self._follow_recovery)
        return table

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._inbox.put(event)

    async def _work(self) -> None:
        """Never fails halfway: what could not be kept must not be acknowledged, so the process leaves instead."""
        while not self.app.should_stop:
            await self.app.sleep(_APPLY_S)
            try:
                async with self._lock:
                    if self.recovered and not self.app.should_stop:
                        self._sum()
                        await self._tell()
                        await self._keep()
            except Exception:
                log.exception("figures could not be told or kept")
                leave("the work of the monitor failed", code=1)
        await self._outlet.close()

    async def _restore(self) -> None:
        """Called by Faust after each assignment, when the table is complete and before anything is read on.

        Only the first time, the table counts. Later this process knows better: what it wrote while Faust was reading
        back is not in the table, and Faust may have laid older records over newer ones.
        """
        async with self._lock:
            self.recovered = False
            # They are read again: Faust goes back to the offsets that were committed.
            self._summed, self._letters = [], []
            if not self._has_all():
                await self._refuse_to_share()
                return
            if self._had_all:
                await self._check_alone()
            else:
                self._merchants.restore(self._table.data.items())
                self._kept_end = await self._changelog_end()
                log.info("restored %d merchants, as of %s", len(self._merchants), self._merchants.as_of_ms)
            self._table.data.data.clear()
            self.recovered = self._had_all = True

    async def _check_alone(self) -> None:
        """Leaves where the changelog is not as this process left it, so that the next one starts from all of it."""
        if await self._changelog_end() != self._kept_end:
            leave("another monitor wrote to the changelog")

    async def _changelog_end(self) -> int:
        partition = TP(CHANGELOG, 0)
        ends = await self.app.consumer.highwaters(partition)
        return int(ends[partition])

    def _has_all(self) -> bool:
        consumer = self.app.consumer
        held = Counter(tp.topic for tp in consumer.assignment())
        return all(held[topic] == (consumer.topic_partitions(topic) or 0) for topic in (*INPUTS, CHANGELOG))

    async def _refuse_to_share(self) -> None:
        error = SecondMonitorError(
            f"another monitor is in the consumer group {GROUP}: one process needs all partitions"
        )
        if self._had_all:
            log.warning("%s; waiting for it to leave", error)
        else:
            log.error("%s; leaving", error)
            await self.app.crash(error)

    # The three steps of the work.

    def _sum(self) -> None:
        # What was read before the last assignment is read again, behind older messages: it must not be acknowledged
        # before them.
        generation = self.app.consumer_generation_id
        events = [event for event in self._inbox.take() if event.message.generation_id == generation]
        if not events:
            return
        now_ms = int(time.time() * 1000)
        letters = self._merchants.apply([_record(event) for event in events], now_ms)
        self._letters += letters
        self._summed += events
        for event in events:
            self._reach(event.message.topic, event.message.partition, event.message.offset + 1)
            # It only waits to be acknowledged.
            event.value = event.message.value = None
        self._metrics.observe_read(
            Counter(event.message.topic for event in events),
            [(dict(letter.headers)["headrace-reason"] or b"").decode() for letter in letters],
        )

    async def _tell(self) -> None:
        started = time.monotonic()
        if started < self._next_telling:
            return
        news = self._merchants.news()
        await self._outlet.send(news)
        # Telling all merchants takes long: everything else gets at least as much time.
        ended = time.monotonic()
        self._next_telling = max(started + self._settings.emit_interval_s, ended + (ended - started))
        merchants = self._merchants
        self._metrics.observe_figures(len(news), len(merchants), merchants.as_of_ms, merchants.skipped)

    async def _keep(self) -> None:
        started = time.monotonic()
        if not self._summed or (started < self._next_keeping and len(self._summed) < _MOST_UNKEPT):
            return
        await self._check_alone()
        kept, gone = self._merchants.keep(), self._merchants.forget_idle()
        # The changelog last: who is not in it any more would never be taken back from the others.
        await self._outlet.send([*self._letters, *(Message(RISK, key, None) for key in gone)])
        entries = [*kept.items(), *((key, None) for key in gone)]
        written = await self._outlet.send(Message(CHANGELOG, key, value) for key, value in entries)
        self._kept_end = max(written, default=self._kept_end - 1) + 1
        self._acknowledge()
        ended = time.monotonic()
        self._next_keeping = max(
            started + self._settings.keep_interval_s, ended + _REST_AFTER_KEEPING * (ended - started)
        )
        self._metrics.observe_keep(ended - started)

    def _acknowledge(self) -> None:
        for event in self._summed:
            event.ack()
        self._summed, self._letters = [], []

    # How far it has come.

    async def _follow_recovery(self) -> None:
        """While Faust reads the changelog, its position is the progress there is."""
        while not self.app.should_stop:
            await self.app.sleep(_POSITION_S)
            if self.recovered:
                continue
            try:
                await asyncio.wait_for(self._note_position(), _POSITION_ANSWER_S)
            except Exception as error:
                log.debug("no position: %s", error)

    async def _note_position(self) -> None:
        for partition in self.app.consumer.assignment():
            position = await self.app.consumer.position(partition)
            if partition.topic == CHANGELOG and position is not None:
                self._reach(partition.topic, partition.partition, position)

    def _reach(self, topic: str, partition: int, offset: int) -> None:
        self._positions[topic, partition] = offset


def _record(event: EventT[Any]) -> Record:
    message: Any = event.message
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        timestamp_ms=int((message.timestamp or 0) * 1000),
        headers=tuple(message.headers or ()),
    )
