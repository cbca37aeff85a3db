"""Everything that is run and broken: the services, and what stands between and around them."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from processors import model_reference
from processors._models import Registry
from streams.chaos.clock import Clock
from streams.chaos.disk import SmallDisk, make_disk
from streams.chaos.proxy import Proxy
from streams.local import endpoints
from streams.local.broker import free_port
from streams.local.services import Services
from streams.local.supervisor import RestartPolicy
from streams.running import group_of

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from streams.chaos.proxy import Mode
    from streams.local.supervisor import State
    from streams.settings import Settings

__all__ = ["WORKERS", "Site"]

WORKERS = ("worker-0", "worker-1")
STORE, MONITOR, BROKER = "store", "monitor", "broker"
SESSION_TIMEOUT_MS, TRANSACTION_TIMEOUT_MS = 6_000, 8_000

_OVERRIDES = {
    # Only what was started here is broken.
    "kafka.bootstrap": "",
    "clickhouse.url": "",
    "worker.session_timeout_ms": str(SESSION_TIMEOUT_MS),
    "worker.transaction_timeout_ms": str(TRANSACTION_TIMEOUT_MS),
    "monitor.keep_interval_s": "2",
    "monitor.stall_timeout_s": "30",
}
# Ends by our own hand do not count; of the others, `headrace up` forgives five a minute, and here there is more cause.
_POLICY = RestartPolicy(most=20, most_killed=100_000, longest_s=5.0)
_HOST = "127.0.0.1"


class Site:
    """The services of a domain with two workers; used as a context manager it stops and removes everything of them.

    Args:
        settings: Whose data directory is an empty one.
        domain: Whose services.
        config: The settings file that the processes read too.
        overrides: Settings of the command line, for the processes too.
    """

    def __init__(self, settings: Settings, domain: str, config: Path | None, overrides: dict[str, str]) -> None:
        self.domain = domain
        self.data = settings.data
        token = secrets.token_hex(8)
        self.settings = msgspec.structs.replace(
            settings,
            kafka=msgspec.structs.replace(settings.kafka, bootstrap=""),
            clickhouse=msgspec.structs.replace(settings.clickhouse, url=""),
            store=msgspec.structs.replace(settings.store, admin_token=token),
        )
        self.group = group_of(self.settings, domain)
        self.proxies = {name: Proxy() for name in (*WORKERS, STORE)}
        self._modes: dict[str, list[Mode]] = {name: [] for name in self.proxies}
        for proxy in self.proxies.values():
            proxy.target = free_port()
        self.clocks = {name: Clock(self.data / "clocks" / name) for name in WORKERS}
        self.refusals: dict[str, int] = {}
        """How often a worker's log says that it refused a model, as far as that was looked at."""
        self.model_is_wrong = False
        self.model = _copy_model(self.settings, domain)
        self.disk = make_disk(self.data / "store")
        own = {**_OVERRIDES, "store.admin_token": token, "store.port": str(self.proxies[STORE].target)}
        self.services = Services(
            self.settings,
            domain,
            len(WORKERS),
            config=config,
            overrides={**overrides, **own},
            dress=self._dress,
            policy=_POLICY,
        )

    @property
    def store_url(self) -> str:
        """The store's endpoint, behind its proxy."""
        return f"http://{_HOST}:{self.proxies[STORE].port}"

    @property
    def monitor_url(self) -> str | None:
        """Where the monitor tells of its health."""
        return endpoints.read(self.data).get("monitor")

    def states(self) -> dict[str, State]:
        """Every process by its name."""
        return {state.name: state for state in self.services.supervisor.states()}

    def pids(self, name: str) -> list[int]:
        """The processes of a service that run now; of the broker its Java as well, which is the broker."""
        pid = self.states()[name].pid
        java = endpoints.owner(self.data, "kafka") if name == BROKER else None
        return [found for found in (java, pid) if found is not None]

    def signal(self, pids: list[int], number: signal.Signals) -> None:
        """Sends a signal to those that are still there."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def break_network(self, name: str, mode: Mode) -> None:
        """From now on the network before a process is like this."""
        self._modes[name].append(mode)
        self.proxies[name].set(mode)

    def mend_network(self, name: str, mode: Mode) -> None:
        """Takes one break back; another that is under way goes on."""
        self._modes[name].remove(mode)
        self.proxies[name].set(self._modes[name][-1] if self._modes[name] else "open")

    def close(self, *, keep: bool) -> None:
        """Stops what runs; what is on the small disk is kept where the data are."""
        self.services.supervisor.stop()
        for proxy in self.proxies.values():
            proxy.close()
        if keep and isinstance(self.disk, SmallDisk):
            self.disk.copy_to(self.data / "store")
        self.disk.close()

    def _dress(self, name: str, arguments: list[str]) -> list[str]:
        extra: list[str] = []
        if name == BROKER:
            arguments = [*arguments, *self._listeners()]
        if name in WORKERS:
            extra = ["--clock", str(self.clocks[name].path)]
            arguments = _with_setting(arguments, f"kafka.bootstrap={_HOST}:{self.proxies[name].port}")
        if name == STORE:
            extra = list(self.disk.options)
        return [sys.executable, "-m", "streams.chaos.process", *extra, "--", *arguments]

    def _listeners(self) -> list[str]:
        """A listener for each worker, whose clients are told to come through the worker's proxy."""
        names = {f"PROXY{number}": self.proxies[worker] for number, worker in enumerate(WORKERS)}
        listens = "".join(f",{name}://{_HOST}:{proxy.target}" for name, proxy in names.items())
        tells = "".join(f",{name}://{_HOST}:{proxy.port}" for name, proxy in names.items())
        plain = "".join(f",{name}:PLAINTEXT" for name in names)
        properties = (
            f"listeners=PLAINTEXT://{_HOST}:{{port}}{listens},CONTROLLER://{_HOST}:{{controller_port}}",
            f"advertised.listeners=PLAINTEXT://{_HOST}:{{port}}{tells}",
            f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{plain}",
            "inter.broker.listener.name=PLAINTEXT",
        )
        return [part for text in properties for part in ("--property", text)]


def _with_setting(arguments: list[str], assignment: str) -> list[str]:
    """Headrace's arguments with one more setting, which wins: behind the others, before the command."""
    at = 0
    while arguments[at].startswith("-"):
        at += 2
    return [*arguments[:at], "--set", assignment, *arguments[at:]]


def _copy_model(settings: Settings, domain: str) -> Path:
    """Puts the domain's model where the data are, from where it is taken rather than from the package."""
    registry = Registry(settings.data)
    entry = registry.find(model_reference(domain, settings.domains.get(domain, {})))
    model = registry.resolve(entry.manifest.reference)
    folder = settings.data / "models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(entry.path, folder)
    for file in (entry.manifest.file, *(one.file for one in entry.manifest.files)):
        shutil.copy(model.path.parent / file, folder)
    return folder / entry.manifest.file
