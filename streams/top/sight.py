"""What was seen at one moment: the metrics and health of each process, and Kafka's offsets."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Offsets", "Process", "Sight", "Unreachable", "look", "look_at"]

_TIMEOUT_S = 3.0
_AT_ONCE = 16

Labels = frozenset[tuple[str, str]]


class Unreachable(msgspec.Struct, frozen=True):
    """What could not be asked, and why."""

    what: str
    why: str


class Process(msgspec.Struct, frozen=True):
    """A process as its endpoint shows it."""

    url: str
    at: float
    """When it was asked, in seconds on a monotonic clock."""
    samples: dict[tuple[str, Labels], float]
    missing: dict[str, str] = {}
    """Conditions of its health that are not met, and why; of `live` too."""
    live: bool = True

    def value(self, name: str, **labels: str) -> float | None:
        """One sample, with exactly these labels."""
        return self.samples.get((name, frozenset(labels.items())))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Samples of a metric, by one of its labels; those that differ in others are added up."""
        found: dict[str, float] = {}
        for labels, value in self.series(name):
            key = labels.get(label, "")
            found[key] = found.get(key, 0.0) + value
        return found

    def series(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """All samples of a name, with their labels."""
        return ((dict(labels), value) for (found, labels), value in self.samples.items() if found == name)

    def info(self, name: str) -> dict[str, str]:
        """The labels of an info metric; empty where there is none."""
        return next((labels for labels, _ in self.series(f"{name}_info")), {})


class Offsets(msgspec.Struct, frozen=True):
    """What Kafka says of one domain."""

    at: float
    end: dict[int, int]
    """Per partition of the input topic, what comes next."""
    committed: dict[int, int]
    """Per partition, what the group has answered; without those of which it has answered nothing."""


class Sight(msgspec.Struct, frozen=True):
    """Everything that was seen at one moment."""

    processes: list[Process] = []
    kafka: dict[str, Offsets] = {}
    """By domain."""
    unreachable: list[Unreachable] = []


def look(urls: Sequence[str], ask_kafka: Callable[[], dict[str, Offsets]] | None) -> Sight:
    """Asks all of them at once; what does not answer in time is named, and the others count."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        asked = [threads.submit(look_at, url) for url in urls]
        offsets: dict[str, Offsets] = {}
        unreachable = []
        if ask_kafka is not None:
            try:
                offsets = ask_kafka()
            except Exception as error:  # whatever Kafka's client raises: the processes are shown all the same
                unreachable.append(Unreachable("Kafka", str(error)))
        found = [future.result() for future in asked]
    unreachable += [one for one in found if isinstance(one, Unreachable)]
    return Sight([one for one in found if isinstance(one, Process)], offsets, unreachable)


def look_at(url: str, timeout_s: float = _TIMEOUT_S) -> Process | Unreachable:
    """The metrics and health of one process."""
    base = url.rstrip("/")
    try:
        text = _get(f"{base}/metrics", timeout_s).decode()
        at = time.monotonic()
        samples = dict(_samples(text))
    except (OSError, ValueError) as error:
        return Unreachable(url, _reason(error))
    live, missing = _health(base, "live", timeout_s)
    _, missing_for_ready = _health(base, "ready", timeout_s)
    return Process(url, at, samples, {**missing_for_ready, **missing}, live)


def _samples(text: str) -> Iterable[tuple[tuple[str, Labels], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), sample.value


def _health(base: str, check: str, timeout_s: float) -> tuple[bool, dict[str, str]]:
    """Whether a check says yes, and what is missing where it says no."""
    try:
        _get(f"{base}/health/{check}", timeout_s)
    except urllib.error.HTTPError as refused:
        return False, _missing(refused.read(), check)
    except OSError as error:
        return False, {check: _reason(error)}
    return True, {}


def _missing(body: bytes, check: str) -> dict[str, str]:
    try:
        missing = json.loads(body)["missing"]
        return {str(condition): str(why) for condition, why in missing.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {check: "it says no, and not why"}


def _get(url: str, timeout_s: float) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is no http:// or https:// address")
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
        content: bytes = answer.read()
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code} to /metrics"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(error).__name__
