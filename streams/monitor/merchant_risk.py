"""What labels say about merchants: tallies and labels in, figures per merchant out.

Strategy: what was read waits in a list. Every `flush_interval_s` the list is applied to the ledger, every merchant that
changed is written once to the changelog, and only when Kafka has all of that are the messages acknowledged. Whatever
is read twice changes nothing the second time, because a merchant's record holds what it covers (see
`processors.fraud.merchant_risk`). Figures that are news are told at most every `emit_interval_s`.

Faust gives the consumer group, the changelog table and its recovery. Writes do not go through `table[key] = value`:
that one is sent in the background, and Faust commits offsets without waiting for it when the broker is slow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from processors.fraud.merchant_risk import HOUR_MS, MerchantRecord, MerchantRiskLedger
from schemas.dead_letter import to_message
from schemas.envelope import Message, Record
from streams.monitor._app import make_app
from streams.monitor._inbox import Inbox
from streams.monitor._progress import leave
from streams.monitor._refuse import decode_labels, decode_tallies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from faust.types import EventT

    from schemas.codec import Codec
    from schemas.fraud import MerchantRisk, MerchantTally, TransactionLabel
    from streams.monitor._progress import Partition
    from streams.observe.metrics import MonitorMetrics
    from streams.settings import MonitorSettings

log = logging.getLogger(__name__)

TALLIES, LABELS, RISK, DEAD_LETTERS = (
    "merchant-tallies",
    "transaction-labels",
    "merchant-risk",
    "monitor.dead-letters",
)
GROUP = "headrace-monitor-merchant-risk"
TABLE = "merchants"
CHANGELOG = f"{GROUP}-{TABLE}-changelog"
INPUTS = (TALLIES, LABELS)

# An event time beyond this says more about a clock than about time; it would end every window at once.
_AHEAD_OF_CLOCK_HOURS = 24
_AHEAD_OF_EVENTS_HOURS = 30 * 24
_FIRST_AHEAD_HOURS = 366 * 24
_IDLE_SWEEP_HOURS = 24
_POSITION_S = 1.0
_POSITION_ANSWER_S = 5.0


class MerchantRiskMonitor:
    """The app, and what it knows; built once per process."""

    def __init__(
        self,
        config: Mapping[str, str],
        folder: Path,
        settings: MonitorSettings,
        labels: Codec[TransactionLabel],
        tallies: Codec[MerchantTally],
        risk: Codec[MerchantRisk],
        metrics: MonitorMetrics,
    ) -> None:
        self.app = make_app(GROUP, config, folder)
        self.recovered = False
        """Whether the records of all merchants were read back."""
        self._settings = settings
        self._codecs = (tallies, labels, risk)
        self._metrics = metrics
        self._inbox = Inbox()
        self._lock = asyncio.Lock()
        self._positions: dict[Partition, int] = {}
        self._next_telling = 0.0
        self._next_sweep_ms = 0
        self._ledger = self._new_ledger()
        self._table = self._declare()

    def reached(self) -> Mapping[Partition, int]:
        """Per input partition the offset before which everything was kept."""
        return self._positions

    # Wiring.

    def _declare(self) -> Any:
        app = self.app
        table: Any = app.Table(TABLE, key_type=bytes, value_type=bytes, partitions=1, use_partitioner=True)
        table.on_recover(self._restore)
        for name in INPUTS:
            app.agent(app.topic(name, key_type=bytes, value_type=bytes), name=f"read-{name}")(self._read)
        app.task(self._keep_flushing)
        app.task(self._keep_positions)
        return table

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._inbox.put(event)

    async def _keep_flushing(self) -> None:
        """Never fails halfway: what could not be kept must not be acknowledged, so the process leaves instead."""
        while not self.app.should_stop:
            await self.app.sleep(self._settings.flush_interval_s)
            try:
                async with self._lock:
                    if self.recovered:
                        await self._flush()
                        await self._tell()
            except Exception:
                log.exception("the figures could not be kept")
                leave("a flush failed", code=1)

    async def _keep_positions(self) -> None:
        while not self.app.should_stop:
            await self.app.sleep(_POSITION_S)
            try:
                await asyncio.wait_for(self._note_positions(), _POSITION_ANSWER_S)
            except Exception as error:
                log.debug("no positions: %s", error)

    async def _note_positions(self) -> None:
        # What was read last may be followed by marks of transactions, which nobody hands out: where nothing is
        # under way, the consumer's own position counts.
        consumer = self.app.consumer
        for partition in [tp for tp in consumer.assignment() if tp.topic in INPUTS]:
            position = await consumer.position(partition)
            if position is not None and not consumer.unacked and not self._inbox:
                self._reach(partition.topic, partition.partition, position)

    def _reach(self, topic: str, partition: int, offset: int) -> None:
        self._positions = {**self._positions, (topic, partition): offset}

    # Keeping.

    async def _restore(self) -> None:
        """Called by Faust when the table is complete, after each assignment, before anything is read."""
        async with self._lock:
            self._ledger = self._new_ledger()
            self._ledger.restore((key.decode(), _unpack(value)) for key, value in self._table.data.items())
            self._positions = {}
            self._next_sweep_ms = 0
            self.recovered = True
        log.info("restored %d merchants, as of %s", len(self._ledger), self._ledger.as_of_ms)

    async def _flush(self) -> None:
        started = time.monotonic()
        events = self._inbox.take()
        if not events:
            return
        letters = self._apply([_record(event) for event in events])
        kept = {merchant.encode(): _pack(record) for merchant, record in self._ledger.drain()}
        await self._send(Message(CHANGELOG, key, value) for key, value in kept.items())
        await self._send(letters)
        # The store itself, not the table: the table would send again.
        self._table.data.data.update(kept)
        for event in events:
            event.ack()
            self._reach(event.message.topic, event.message.partition, event.message.offset + 1)
        read = Counter(event.message.topic for event in events)
        reasons = [dict(letter.headers)["headrace-reason"] or b"" for letter in letters]
        self._metrics.observe_flush(time.monotonic() - started, read, [reason.decode() for reason in reasons])

    def _apply(self, records: list[Record]) -> list[Message]:
        """Applies what was read to the ledger; returns the dead letters."""
        now_ms = int(time.time() * 1000)
        latest_hour = self._latest_hour(now_ms)
        tally_codec, label_codec, _ = self._codecs
        tallies, bad_tallies = decode_tallies([r for r in records if r.topic == TALLIES], tally_codec)
        for tally in tallies:
            self._ledger.add_tally(tally, latest_hour)
        labels, event_ms, labelled_ms, bad_labels = decode_labels(
            [r for r in records if r.topic == LABELS], label_codec
        )
        for label, at, labelled_at in zip(labels, event_ms, labelled_ms, strict=True):
            self._ledger.add_label(label.event_id, label.merchant, label.is_fraud, at, labelled_at, latest_hour)
        return [to_message(reject, DEAD_LETTERS, now_ms) for reject in (*bad_tallies, *bad_labels)]

    def _latest_hour(self, now_ms: int) -> int:
        now, as_of = now_ms // HOUR_MS, self._ledger.as_of_ms
        if as_of is None:
            return now + _FIRST_AHEAD_HOURS
        return max(now + _AHEAD_OF_CLOCK_HOURS, as_of // HOUR_MS + _AHEAD_OF_EVENTS_HOURS)

    # Telling.

    async def _tell(self) -> None:
        started = time.monotonic()
        if started < self._next_telling:
            return
        news = self._ledger.changed()
        values = iter(self._codecs[2].encode(risk for _, risk in news if risk is not None))
        await self._send(Message(RISK, name.encode(), None if risk is None else next(values)) for name, risk in news)
        await self._forget_idle()
        ended = time.monotonic()
        # Telling all merchants takes long: reading gets at least as much time.
        self._next_telling = max(started + self._settings.emit_interval_s, ended + (ended - started))
        self._metrics.observe_figures(len(news), len(self._ledger), self._ledger.as_of_ms, self._ledger.skipped)

    async def _forget_idle(self) -> None:
        """Once per day of event time: merchants that nothing is known of any more leave table and topic."""
        as_of = self._ledger.as_of_ms
        if as_of is None or as_of < self._next_sweep_ms:
            return
        self._next_sweep_ms = as_of + _IDLE_SWEEP_HOURS * HOUR_MS
        names = [name.encode() for name in self._ledger.forget_idle()]
        await self._send(Message(topic, name, None) for topic in (RISK, CHANGELOG) for name in names)
        for name in names:
            self._table.data.data.pop(name, None)

    async def _send(self, messages: Iterable[Message]) -> None:
        """Returns when Kafka has them all; raises where it has not."""
        producer = await self.app.maybe_start_producer()
        sent = [
            await producer.send(m.topic, m.key, m.value, m.partition, None, list(m.headers) or None) for m in messages
        ]
        await asyncio.gather(*sent)

    def _new_ledger(self) -> MerchantRiskLedger:
        return MerchantRiskLedger(self._settings.label_delay_days, self._settings.prior_weight)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(MerchantRecord).decode


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
