"""A Faust app that reads topics of transactions as they are meant, and leaves standard output and arguments alone.

Faust reads uncommitted messages unless it runs `exactly_once`, which is not what its name says (see docs/monitor.md):
here the isolation level is set where its consumer is made. Apps acknowledge the messages of a partition in order.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import faust
from faust.transport.drivers import aiokafka as driver

from streams.grace import end_as_it_stands
from streams.monitor import _kafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

_UNFINISHED = "leaving; what was not kept is read again"


class _CommittedThread(driver.AIOKafkaConsumerThread):
    logger = driver.logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Read when the consumer starts; Faust has no setting for it.
        consumer._isolation_level = "read_committed"
        return consumer


class _CommittedConsumer(driver.Consumer):
    logger = driver.logger

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)

    # At the end of a rebalance Faust lets partitions flow, then seeks to the committed offsets, then empties the queues
    # of its streams: what was handed out in between is lost, because what is read once more behind the seek lies before
    # the last offset handed out, and is dropped. So nothing is handed out while a rebalance lasts, and reading starts
    # with a seek of its own, at a moment when no message is under way.

    _seek_due = True

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        self._seek_due = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        async for partition, message in super().getmany(timeout):
            if self._is_changelog_tp(partition) or not self._seek_due:
                yield partition, message
        if self._seek_due and not self.app.rebalancing:
            self._seek_due = False
            await self.perform_seek()

    async def perform_seek(self) -> None:
        # A partition without a committed offset stays where it is, although its messages were read and not kept.
        await super().perform_seek()
        fresh = [tp for tp in self.assignment() if not self._is_changelog_tp(tp) and not self._committed_offset.get(tp)]
        if fresh:
            await self.seek_wait(await self.earliest_offsets(*fresh))
            self._read_offset.update(dict.fromkeys(fresh))

    # Faust looks for the highest offset before which all are acknowledged, and on topics of transactions, whose every
    # commit leaves a gap, it goes wrong in 0.15.3: it counts the message behind a gap as part of it, so each commit
    # advances by one transaction, and it overlooks a gap behind offset 0, so offsets stand still for ever. Our apps
    # acknowledge in order and leave none out: the highest one is all there is to know.

    def _new_offset(self, tp: Any) -> int | None:
        acknowledged = self._acked[tp]
        if not acknowledged:
            return None
        offset: int = max(acknowledged) + 1
        acknowledged.clear()
        self._acked_index[tp].clear()
        return offset

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps do not matter."""


class _CommittedTransport(driver.Transport):
    Consumer = _CommittedConsumer


class MonitorApp(faust.App):
    """Faust with our transport; what Faust says of itself is logged as Faust's."""

    logger = logging.getLogger("faust.app")

    def _new_transport(self) -> Any:
        return _CommittedTransport(self.conf.broker_consumer, self)


def make_app(name: str, config: Mapping[str, str], folder: Path) -> MonitorApp:
    """An app whose consumer group is `name`."""
    return MonitorApp(
        id=name,
        broker=_kafka.brokers(config),
        broker_credentials=_kafka.credentials(config),
        datadir=str(folder),
        store="memory://",
        autodiscover=False,
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",
        # The default of 60 s is how long a restart would wait for the member that was killed.
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        broker_commit_interval=1.0,
        broker_check_crcs=True,
        # Per partition; a tally may have 500 kB, and the inbox is bounded in bytes.
        stream_buffer_maxsize=256,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
        stream_wait_empty=False,
    )


def run_app(app: faust.App, finish: Callable[[], Awaitable[None]], grace_s: float) -> NoReturn:
    """Runs the app until SIGTERM or Ctrl-C, then exits: 0 when asked to end, 1 after a crash.

    Args:
        app: What runs.
        finish: Called when the end is asked for, before anything is stopped.
        grace_s: Past it the process ends as it stands.
    """
    worker = _Worker(app, finish, grace_s)
    worker.spinner = None
    worker.execute_from_commandline()


class _Worker(faust.Worker):
    def __init__(self, app: faust.App, finish: Callable[[], Awaitable[None]], grace_s: float) -> None:
        super().__init__(app, quiet=True, override_logging=False, redirect_stdouts=False)
        self._finish = finish
        self._grace_s = grace_s

    async def on_stop(self) -> None:
        """Called by Faust before it stops the app."""
        timer = threading.Timer(self._grace_s, end_as_it_stands, (self._grace_s, _UNFINISHED))
        timer.daemon = True
        timer.start()
        try:
            await self._finish()
        except Exception:
            log.exception("what was read last could not be kept; it is read again")
        await super().on_stop()
