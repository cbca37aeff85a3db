"""The loop of the view: look, compare with the sight before, show, wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from streams.errors import HeadraceError
from streams.local import endpoints
from streams.local.connection import kafka_config
from streams.running import group_of
from streams.top.figures import picture
from streams.top.offsets import AskedKafka
from streams.top.sight import Unreachable, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streams.settings import Settings
    from streams.top.figures import Picture
    from streams.top.sight import Offsets, Sight

__all__ = ["found_processes", "pictures"]

# Of endpoints.json; `clickhouse` is the store again, and `kafka` speaks no HTTP.
_PROCESSES = ("metrics", "store", "monitor")


def found_processes(settings: Settings) -> list[str]:
    """URLs of the processes that run on this data directory."""
    known = endpoints.read(settings.data).items()
    return [url for key, url in sorted(known) if key in _PROCESSES or key.startswith("metrics-")]


def pictures(
    settings: Settings,
    urls: Sequence[str],
    domains: Sequence[str],
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Picture]:
    """A picture every so many seconds; the first one has no rates, since nothing was seen before.

    Args:
        settings: Say where Kafka is, and which processes run here.
        urls: Other processes; where some are given, those of the data directory are left out.
        domains: Whose events; all where empty.
        interval_s: From one sight to the next.
        sleep: How to wait.
    """
    ask, problem = _asker(settings, domains)
    before: Sight | None = None
    while True:
        # Asked anew: processes come and go.
        sight = look(list(urls) or found_processes(settings), ask)
        shown = picture(before, sight)
        if problem is not None:
            shown.unreachable.append(problem)
        yield _chosen(shown, domains)
        before = sight
        sleep(interval_s)


def _asker(
    settings: Settings, domains: Sequence[str]
) -> tuple[Callable[[], dict[str, Offsets]] | None, Unreachable | None]:
    """Who asks Kafka, or why nobody does."""
    from schemas.topics import domains as declared
    from schemas.topics import events_of

    inputs = {
        name: (events_of(topics).name, group_of(settings, name))
        for name, topics in declared().items()
        if not domains or name in domains
    }
    try:
        return AskedKafka(kafka_config(settings), inputs).ask, None
    except HeadraceError as error:
        return None, Unreachable("Kafka", str(error))


def _chosen(shown: Picture, domains: Sequence[str]) -> Picture:
    if domains:
        shown.domains[:] = [domain for domain in shown.domains if domain.name in domains]
    return shown
