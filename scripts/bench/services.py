"""Processes under test: the embedded broker, headrace's own commands, peers in environments of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from scripts.bench.machine import ROOT
from streams.local import children, endpoints
from streams.local.broker import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_START_S = 90.0
_GRACE_S = 20.0
_REMOVAL_S = 10.0
_TAIL_LINES = 15
# Numpy's own threads would only fight over the cores; packages come from where the stage says, not from the folder.
_PLAIN = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
# The embedded broker is set up to start fast and never optimises; a benchmark wants what a server does.
_BROKER = {"_JAVA_OPTIONS": "-XX:TieredStopAtLevel=4"}


class BenchError(Exception):
    """A benchmark that cannot go on; the message says why."""


class Process:
    """A process of a benchmark, with what the kernel knows of it."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._child = children.spawn(argv, log, env)
        self._seen = psutil.Process(self._child.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.exit_code() is None

    def require_alive(self) -> None:
        """Raises BenchError, with the end of its log, where it ended."""
        if not self.alive():
            raise BenchError(f"{self.name} ended with exit code {self._child.exit_code()}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines)

    def cpu_s(self) -> float:
        """CPU seconds of all its threads and of its children so far."""
        with suppress(psutil.Error):
            family = [self._seen, *self._seen.children(recursive=True)]
            return float(sum(sum(one.cpu_times()[:2]) for one in family))
        return 0.0

    def rss_mb(self) -> float:
        """Resident memory now, in MB."""
        return float(self._seen.memory_info().rss) / 1e6

    def peak_mb(self) -> float:
        """The most resident memory that it ever had, in MB; what it has now where the system does not tell."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        return self.rss_mb()

    def stop(self) -> None:
        """SIGTERM, time to finish, then SIGKILL."""
        self._child.stop(_GRACE_S)

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        self._child.kill()


class Headrace(Process):
    """One of headrace's own commands, with a metrics endpoint."""

    url = ""

    def wait_ready(self) -> float:
        """Waits until its health endpoint says ready; returns the seconds it took from now."""
        began = time.monotonic()
        while not self._is_ready():
            self.require_alive()
            if time.monotonic() - began > _START_S:
                raise BenchError(f"{self.name} was not ready after {_START_S:.0f} s:\n{self.tail()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def metrics(self) -> dict[str, float]:
        """Samples by `name` or `name{label="value"}`, labels sorted."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:  # noqa: S310 (our own process)
            text = answer.read().decode()
        return {
            _sample_name(sample.name, sample.labels): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


class Stage:
    """A scratch folder with an embedded broker, and everything that was started there; a context manager.

    Args:
        assignments: `KEY=VALUE` settings that go to every headrace command.
        packages: Where the packages of headrace lie; a benchmark may have a copy with a domain of its own.
    """

    def __init__(self, assignments: Sequence[str] = (), packages: Path = ROOT) -> None:
        self._assignments = list(assignments)
        self._packages = packages
        self._stack = ExitStack()
        self._numbers: dict[str, int] = {}
        self._data: list[Path] = []

    def __enter__(self) -> Stage:
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
        self._stack.callback(_remove, self.folder)
        try:
            properties = ("--property", "log.retention.check.interval.ms=10000")
            broker = self._start("broker", [*self._headrace(self.folder), "broker", *properties])
            self.bootstrap = endpoints.wait_for(self.folder, "kafka", 120, broker.require_alive)
        except BaseException:
            self._end()
            raise
        self.broker = broker
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def worker(self, domain: str, group: str, slot: str = "0", **settings: Any) -> Headrace:
        """A worker process on the stage's broker; keys of settings have `__` for the dot."""
        return self._command(["worker", domain, "--slot", slot], f"{group}-{slot}", worker__group=group, **settings)

    def store(self, **settings: Any) -> Headrace:
        """A store process with data of its own, `data_of` says where."""
        return self._command(["store"], f"store-{len(self._data)}", **settings)

    def data_of(self, process: Process) -> Path:
        """The data directory of one of headrace's own processes."""
        return process.log.parent

    def contender(self, name: str, arguments: Mapping[str, Any], python: str = sys.executable) -> Process:
        """A peer, by the name of its module."""
        command = [python, "-m", f"scripts.bench.contenders.{name}", json.dumps(arguments)]
        process: Process = self._start(name, command)
        return process

    def script(self, name: str, arguments: Mapping[str, Any]) -> Process:
        """A part of a benchmark that must not share our interpreter: a load, a reader."""
        process: Process = self._start(name, [sys.executable, "-m", f"scripts.bench.{name}", json.dumps(arguments)])
        return process

    def environment(self, name: str, *requirements: str) -> str:
        """The Python of a fresh environment with these packages.

        Raises:
            BenchError: They cannot be had.
        """
        folder = self.folder / name
        python = folder / "bin" / "python"
        commands = (
            ["uv", "venv", "-q", "--no-project", "--python", sys.executable, str(folder)],
            ["uv", "pip", "install", "-q", *_pinned_in_time(), "--python", str(python), *requirements],
        )
        for command in commands:
            try:
                subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", "") or str(error)
                raise BenchError(f"no environment for {name}: {said.strip().splitlines()[-1]}") from error
        return str(python)

    def _end(self) -> None:
        """Kills what still runs, for nobody needs its data again, and removes the folder.

        A second Ctrl-C or SIGTERM would leave gigabytes behind; this takes no longer than they do.
        """
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._stack.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _command(self, arguments: list[str], name: str, **settings: Any) -> Headrace:
        data = self.folder / f"data-{len(self._data)}"
        data.mkdir()
        self._data.append(data)
        chosen = {"kafka.bootstrap": self.bootstrap, "metrics.port": free_port()}
        chosen |= {key.replace("__", "."): value for key, value in settings.items()}
        pairs = [f"{key}={value}" for key, value in chosen.items()]
        process: Headrace = self._start(name, [*self._headrace(data, pairs), *arguments], Headrace, data / "log")
        process.url = f"http://127.0.0.1:{chosen['metrics.port']}"
        return process

    def _headrace(self, data: Path, pairs: Sequence[str] = ()) -> list[str]:
        # What the person asked for comes last, and wins.
        options = [part for pair in (*pairs, *self._assignments) for part in ("--set", pair)]
        return [sys.executable, "-m", "streams", "--data", str(data), *options]

    def _start(self, name: str, argv: list[str], kind: type[Any] = Process, log: Path | None = None) -> Any:
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
        caches = {key: os.environ[key] for key in ("HEADRACE_CACHE", "HEADRACE_MAVEN") if key in os.environ}
        paths = dict.fromkeys((str(self._packages), str(ROOT)))
        environment = {**kept, **caches, **_PLAIN, **_BROKER, "PYTHONPATH": os.pathsep.join(paths)}
        process: Any = kind(name, argv, log or self.folder / f"{name}-{number}.log", environment)
        self._stack.callback(process.kill)
        return process


def _remove(folder: Path) -> None:
    """Java dies a moment after the process that started it, and may still be writing."""
    deadline = time.monotonic() + _REMOVAL_S
    while True:
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _pinned_in_time() -> list[str]:
    """The day that the project's own packages are resolved for, so that a peer is the same next year."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return ["--exclude-newer", project["tool"]["uv"]["exclude-newer"]]


def _sample_name(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name
