"""The process of a monitor: its topics, its lock, its endpoint and watchdog, and the Faust app."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

from schemas.codec import codec_for
from schemas.fraud import MerchantRisk, MerchantTally, TransactionLabel
from streams.errors import StopError
from streams.local import endpoints
from streams.local.allowed import require_rights
from streams.local.connection import kafka_config
from streams.local.locks import DirectoryLock
from streams.local.topics import TopicSpec, ensure_topics
from streams.monitor import MONITORED, _kafka
from streams.monitor._app import run_app
from streams.monitor._merchants import DEAD_LETTERS, INPUTS, LABELS, RISK, TALLIES, Codecs
from streams.monitor._progress import Watchdog
from streams.monitor._quiet import RepeatsFilter
from streams.monitor.merchant_risk import CHANGELOG, GROUP, MerchantRiskMonitor
from streams.observe.health import Endpoint
from streams.observe.metrics import MonitorMetrics, process_registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings import Settings

log = logging.getLogger(__name__)

ENDPOINT = "monitor"
_RESTORING = "does not hold all partitions, or still reads back what is known of merchants"

# Faust reads about 8,000 records/s back, so what is read back is kept short: small segments, closed after a minute, can
# be compacted soon.
_CHANGELOG_CONFIG = {"segment.bytes": str(8 * 1024 * 1024), "segment.ms": "60000"}


class UnknownMonitorError(StopError):
    """A domain without a monitor."""


def run_monitor(settings: Settings, domain: str = "fraud") -> NoReturn:
    """Runs the monitor of a domain in the foreground, and exits the process: 0 when it was asked to end.

    Raises:
        UnknownMonitorError: The domain has none.
        NoBrokerError: No cluster is configured and no embedded broker runs.
        TopicsError: The topics could not be made.
        LockedError: Another monitor runs on this data directory.
    """
    if domain not in MONITORED:
        raise UnknownMonitorError(f"no monitor for the domain {domain!r}; there is one for: {', '.join(MONITORED)}")
    config = kafka_config(settings)
    for handler in logging.getLogger().handlers:
        handler.addFilter(RepeatsFilter("aiokafka", "streams.monitor._progress"))
    folder = settings.data.absolute() / "monitor"
    folder.mkdir(parents=True, exist_ok=True)
    DirectoryLock.acquire(folder, "a monitor")
    if settings.kafka.security:
        from streams.monitor.rights import monitor_rights

        require_rights(config, monitor_rights(), f"monitor of {domain}")
    ensure(config, settings)
    metrics = MonitorMetrics(process_registry("monitor", domain=domain))
    monitor = MerchantRiskMonitor(config, folder, settings.monitor, _codecs(settings), metrics)
    watchdog = Watchdog(
        _kafka.client_settings(config),
        GROUP,
        INPUTS,
        monitor.reached,
        lambda: not monitor.recovered,
        settings.monitor.stall_timeout_s,
        metrics.observe_lag,
    )
    endpoint = Endpoint(
        metrics.registry,
        ready=lambda: {"state": "" if monitor.recovered else _RESTORING, **watchdog.ready()},
        live=watchdog.live,
        host=settings.metrics.host,
        port=settings.monitor.web_port,
    )
    endpoints.publish(settings.data, ENDPOINT, endpoint.url)
    watchdog.start()
    log.info("monitor of %s on %s; health at %s/health/ready", domain, config["bootstrap.servers"], endpoint.url)
    try:
        run_app(monitor.app, monitor.finish, settings.monitor.shutdown_grace_s)
    finally:
        watchdog.stop()
        endpoint.close()
        endpoints.withdraw(settings.data, ENDPOINT)


def _codecs(settings: Settings) -> Codecs:
    topics, registry = settings.topics, settings.registry
    return Codecs(
        tallies=codec_for(TALLIES, MerchantTally, topics.get(TALLIES), registry),
        labels=codec_for(LABELS, TransactionLabel, topics.get(LABELS), registry),
        risk=codec_for(RISK, MerchantRisk, topics.get(RISK), registry),
    )


def ensure(config: Mapping[str, str], settings: Settings) -> None:
    """Makes the topics of the monitor where they are missing, and says where one is not as it should be."""
    partitions, replication = settings.kafka.partitions, settings.kafka.replication
    ensured = ensure_topics(
        config,
        {
            TALLIES: TopicSpec(partitions, {}, replication),
            LABELS: TopicSpec(partitions, {}, replication),
            DEAD_LETTERS: TopicSpec(partitions, {}, replication),
            RISK: TopicSpec.compacted(partitions, replication),
            # One partition, so that whatever partition an event came from, a merchant's records are in one order.
            CHANGELOG: TopicSpec.compacted(1, replication, **_CHANGELOG_CONFIG),
        },
    )
    for difference in ensured.differences:
        log.warning("%s", difference)
