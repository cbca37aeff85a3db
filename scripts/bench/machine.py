"""Where and with what a benchmark or a check ran: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LIBRARIES = ("confluent-kafka", "onnxruntime", "onnxruntime-gpu", "numpy", "msgspec", "orjson", "chdb")


def describe() -> dict[str, Any]:
    """CPU, cores, memory, system, and how loaded the machine is before the benchmark begins."""
    import psutil  # the check of a GPU does without

    return {
        "cpu": cpu(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "os": f"{_distribution()}, {platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def cpu() -> str:
    """Its name, as the kernel or else the platform tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of everything that has a part in the figures; a commit with changes on top ends in `+`."""
    from confluent_kafka import libversion

    from streams.local.jars import KAFKA_VERSION

    found = {"headrace": _installed("headrace"), "commit": _commit(), "python": platform.python_version()}
    found |= {name: _installed(name) for name in _LIBRARIES}
    found |= {"librdkafka": libversion()[0], "kafka": KAFKA_VERSION}
    return {name: value for name, value in found.items() if value}


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)
