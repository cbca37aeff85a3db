"""All processes of a domain on this machine: broker, store, workers and monitor, supervised together."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from streams.errors import HeadraceError
from streams.local import endpoints
from streams.local.broker import Broker
from streams.local.jars import broker_jars
from streams.local.supervisor import RestartPolicy, Supervisor, headrace_command
from streams.monitor import MONITORED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streams.settings import Settings

__all__ = ["Services", "ServicesTimeoutError"]

_READY_TIMEOUT_S = 90.0
_POLL_S = 0.05


class ServicesTimeoutError(HeadraceError):
    """A service did not become ready in time."""


class Services:
    """Starts what a domain needs; used as a context manager it stops everything at its end.

    Args:
        settings: With their data directory; a configured Kafka or ClickHouse is used instead of the embedded one.
        domain: Whose events are answered.
        workers: How many worker processes.
        config: The settings file that the processes read too.
        overrides: Settings of the command line, `key=value`, for the processes too.
        dress: Makes the command line of a process from its name and headrace's arguments, where it needs more.
        policy: Of restarts.
    """

    def __init__(
        self,
        settings: Settings,
        domain: str,
        workers: int,
        *,
        config: Path | None = None,
        overrides: dict[str, str] | None = None,
        dress: Callable[[str, list[str]], list[str]] = lambda _name, arguments: headrace_command(*arguments),
        policy: RestartPolicy = RestartPolicy(),  # noqa: B008 (immutable)
    ) -> None:
        self._settings = settings
        self._dress = dress
        self._policy = policy
        self._domain = domain
        self._workers = workers
        self._options = [*(["--config", str(config)] if config else [])]
        partitions = max(settings.kafka.partitions, workers)
        ours = {"data": str(settings.data.resolve()), "kafka.partitions": str(partitions)}
        for key, value in {**(overrides or {}), **ours}.items():
            self._options += ["--set", f"{key}={value}"]
        # Processes of one machine share its cores: numpy's own threads would only fight over them.
        self._env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.supervisor = Supervisor(settings.data)

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *error: object) -> None:
        # The broker last: the others finish what they have begun, and that takes a broker.
        self.supervisor.stop(*(state.name for state in self.supervisor.states() if state.name != "broker"))
        self.supervisor.stop()

    def fetch(self, say: Callable[[str], None]) -> None:
        """Fetches what the broker needs, where it is missing: here, where nobody's patience ends meanwhile.

        Raises:
            JarsError: Something cannot be had or is not what is pinned.
        """
        if not self._settings.kafka.bootstrap:
            broker_jars(progress=say)

    def start(self, say: Callable[[str], None]) -> None:
        """Starts everything and waits until it can take events.

        Raises:
            HeadraceError: Something did not start; the message has the end of its log.
            LockedError: Another process has a broker on this data.
            KeyboardInterrupt: It was asked to stop meanwhile.
        """
        if self._settings.kafka.bootstrap:
            say(f"Kafka at {self._settings.kafka.bootstrap}")
        else:
            Broker.require_free(self._settings.data)
            self._run("broker", "broker")
            say(f"Kafka broker at {self.supervisor.await_endpoint('kafka')}")
        # The slow starters load their libraries at the same time.
        self._run("store", "store")
        for slot in range(self._workers):
            self._run(f"worker-{slot}", "worker", self._domain, "--slot", str(slot), "--workers", str(self._workers))
        if self._domain in MONITORED:
            self._run("monitor", "monitor", self._domain)
        say(f"ClickHouse at {self.supervisor.await_endpoint('clickhouse', _READY_TIMEOUT_S)}")
        for slot in range(self._workers):
            self._await_ready("metrics" if slot == 0 else f"metrics-{slot}")
        say(f"{self._workers} worker{'s' if self._workers > 1 else ''} ready to answer {self._domain}")

    def endpoints(self) -> dict[str, str]:
        """Where everything is."""
        return endpoints.read(self._settings.data)

    def _run(self, name: str, *command: str) -> None:
        argv = self._dress(name, [*self._options, *command])
        self.supervisor.start(name, argv, env=self._env, policy=self._policy)

    def _await_ready(self, key: str) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            url = self.supervisor.await_endpoint(key, max(0.0, deadline - time.monotonic()))
            if _is_ready(url):
                return
            if time.monotonic() > deadline:
                raise ServicesTimeoutError(f"{key} at {url} is not ready after {_READY_TIMEOUT_S:.0f} s")
            self.supervisor.look_after()
            time.sleep(_POLL_S)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as answer:  # noqa: S310 - our own loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
