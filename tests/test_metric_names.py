"""Names of metrics follow Prometheus' conventions, and docs/operations.md lists all of them and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from schemas.envelope import Record, Reject
from streams.observe._gpu import GpuMemory
from streams.observe.metrics import MOST_REASONS, MonitorMetrics, SinkMetrics, WorkerMetrics, process_registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
SUFFIXES = {"counter": "_total", "info": "_info"}
# What a name ends with: base units, or the plural of what is counted.
UNITS = ("_seconds", "_bytes", "_ratio", "_messages", "_events", "_rows", "_keys", "_fds", "_letters", "_transactions")
UNITS += ("_results", "_runs", "_failures", "_figures", "_read", "_info")
FOREIGN_UNITS = re.compile(r"_(ms|millis\w*|minutes?|hours?|kb|mb|kilobytes|percent\w*|count)(_|$)")
# Labels whose values are configured, or bounded where they are set.
BOUNDED = {
    *("stage", "outcome", "partition", "table", "topic", "kind", "reason", "device"),
    *("model", "providers", "version", "python_version", "role", "domain", "slot"),
}


class Nvml:
    """Stands where NVIDIA's library is: one GPU that answers, and one that does not."""

    class NVMLError(Exception):
        """What the library raises."""

    used = total = 8
    gpu = 25

    def __getattr__(self, _name: str) -> object:
        return lambda *_: self

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, device: int) -> int:  # noqa: N802
        if device:
            raise self.NVMLError
        return device


def registries() -> dict[str, CollectorRegistry]:
    """The registry of each process, as it serves it, with something in every label."""
    worker = WorkerMetrics(process_registry("worker", domain="d", slot="0"))
    worker.observe_batch(1, [Reject(Record("t", 0, 0, None, None, 0), "bad")])
    worker.observe_too_old("fallback", 1)
    worker.observe_transaction("committed", 1)
    worker.observe_lag({0: 1})
    worker.observe_restore({0: (1, 2)})
    worker.observe_counters({"late_events": 1})
    worker.observe_model("m", ["CPU"], 1)
    worker.registry.register(GpuMemory(Nvml()))
    sink = SinkMetrics(process_registry("store"))
    sink.observe_insert("t", 1, 0.1)
    sink.observe_lag({("t", 0): 1})
    monitor = MonitorMetrics(process_registry("monitor", domain="d"))
    monitor.observe_read({"t": 1}, ["bad"])
    monitor.observe_figures(1, 1, 1, {"late": 1})
    monitor.observe_lag({("t", 0): 1})
    return {"worker": worker.registry, "store": sink.registry, "monitor": monitor.registry}


FAMILIES = {family.name: family for registry in registries().values() for family in registry.collect()}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def shown_name(family: Metric) -> str:
    """The name as it is queried."""
    return family.name + SUFFIXES.get(family.type, "")


@EVERY_FAMILY
def test_a_name_follows_the_conventions(family: Metric) -> None:
    """Prefix, base unit or what is counted at the end, help that is a sentence, no word for the type in the name."""
    name = family.name

    assert name.startswith(("headrace_", "process_"))
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert not FOREIGN_UNITS.search(name)
    assert not re.search(r"_(gauge|counter|histogram|total)$", name)
    assert family.documentation.endswith(".")
    assert family.type in {"info"} or name.endswith(UNITS)


@EVERY_FAMILY
def test_labels_are_bounded(family: Metric) -> None:
    """No label holds what an event chooses; a label that is new has to be thought about here."""
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}

    assert labels <= BOUNDED


def rows() -> dict[str, tuple[str, set[str]]]:
    """Of the tables of metrics: name → type and labels."""
    found: dict[str, tuple[str, set[str]]] = {}
    for names, kind, labels in re.findall(r"^\| (`(?:headrace|process)_.*?) \| (\w+) \|(.*?)\|", PAGE, re.M):
        for name in re.findall(r"`([a-z_]+)`", names):
            first = re.sub(r":[^,]*(, `\w+`)*", "", labels) if ":" in labels else labels
            found[name] = kind, set(re.findall(r"`([a-z_]+)`", first))
    return found


def test_the_page_lists_every_metric() -> None:
    """Names, types and labels of the page are those that processes serve."""
    served = {
        shown_name(family): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in FAMILIES.values()
    }

    assert served == rows()


def test_names_in_the_text_exist() -> None:
    """A metric that the page mentions anywhere is one."""
    known = {shown_name(family) for family in FAMILIES.values()}

    assert set() == set(re.findall(r"\bheadrace_[a-z_]+[a-z]\b", PAGE)) - known


@pytest.mark.parametrize("readers", ["scripts", "streams/top"])
def test_readers_ask_for_what_is_served(readers: str) -> None:
    """What benchmarks and the live view ask for by name exists: a name that does not would read as zero for ever."""
    texts = [path.read_text() for path in (ROOT / readers).rglob("*.py")]
    asked = {name for text in texts for name in re.findall(r"\bheadrace_[a-z_]+[a-z]\b", text)}
    served = {shown_name(family) for family in FAMILIES.values()}
    served |= {family.name for family in FAMILIES.values() if family.type == "info"}

    assert asked
    assert set() == {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} - served


def test_reasons_are_told_apart_up_to_a_bound() -> None:
    """A processor that makes up reasons does not make up series without end."""
    metrics = WorkerMetrics()
    record = Record("t", 0, 0, None, None, 0)

    for n in range(3 * MOST_REASONS):
        metrics.observe_batch(1, [Reject(record, f"reason {n % (2 * MOST_REASONS)}")])

    samples = [s for f in metrics.registry.collect() if f.name == "headrace_dead_letters" for s in f.samples]
    counts = {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}
    assert MOST_REASONS + 1 == len(counts)
    assert (2.0, float(MOST_REASONS)) == (counts["reason 0"], counts["other"])


def test_a_gpu_that_answers_is_shown() -> None:
    """Bytes and shares of the GPUs that answer; the others are left out."""
    registry = registries()["worker"]

    assert (8.0, 0.25, None) == tuple(
        registry.get_sample_value(name, {"device": device})
        for name, device in (
            ("headrace_gpu_memory_used_bytes", "0"),
            ("headrace_gpu_busy_ratio", "0"),
            ("headrace_gpu_memory_used_bytes", "1"),
        )
    )


@pytest.mark.parametrize("providers", [["CPUExecutionProvider"], []])
def test_without_a_gpu_there_are_no_gauges_of_one(providers: list[str]) -> None:
    """A model on CPUs shows no memory of GPUs, whatever the machine has."""
    assert not GpuMemory.register(CollectorRegistry(), providers)
