"""A store process for tests: one topic of its own, settings from the command line as JSON; prints its URL."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.clickhouse import table_of
from schemas.fields import EpochMs, Word
from schemas.topics import TableSpec, TopicType
from streams.settings import ClickHouseSettings, Settings, StoreSettings
from streams.store.service import StoreService

if TYPE_CHECKING:
    from schemas.clickhouse import Table


class Reading(msgspec.Struct, frozen=True):
    """A message of the tests."""

    number: int
    sensor: Word
    value: float
    tags: list[str]
    at: EpochMs


def readings(topic: str) -> Table:
    """The table of the tests, filled from a topic of the test's own."""
    return table_of(
        TopicType(
            name=topic,
            message=Reading,
            key="sensor",
            direction="output",
            description="Readings.",
            table=TableSpec("readings", order_by=("sensor",)),
        )
    )


def main(arguments: dict[str, Any]) -> None:
    """Runs until SIGTERM."""
    settings = Settings(
        data=Path(arguments["data"]),
        clickhouse=ClickHouseSettings(url=arguments.get("url", ""), ca_file=arguments.get("ca_file", "")),
        store=msgspec.convert(arguments.get("store", {}), StoreSettings),
    )
    kafka = {"bootstrap.servers": arguments["kafka"]}
    service = StoreService(settings, kafka, [readings(arguments["topic"])], sinks=arguments.get("sinks", True))
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    service.start()
    sys.stdout.write(service.url + "\n")
    sys.stdout.flush()
    service.wait()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
