"""Each kind of fault, done to the site: a function that begins it and returns what ends it.

Both may raise `NotYetError`: the process is not there at the moment, or what must happen first has not happened. They
are called again a moment later, for a bounded time.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from streams.chaos import poison
from streams.chaos._site import SESSION_TIMEOUT_MS, WORKERS, Site
from streams.chaos.members import Storm
from streams.errors import HeadraceError
from streams.local.connection import kafka_config

if TYPE_CHECKING:
    from streams.chaos.proxy import Mode
    from streams.chaos.schedule import Fault
    from streams.demo.traffic import Traffic

__all__ = ["BEGIN", "WRONG_MODEL", "End", "FaultFailedError", "NotYetError"]

End = Callable[[], None]

_DAY_S = 86_400.0
_STEPS_S = (-30 * _DAY_S, -_DAY_S, -3600.0, -5.0, 5.0, 3600.0, _DAY_S, 400 * _DAY_S)
WRONG_MODEL = "is not the file of its manifest"
"""Of what a worker says that refuses its model."""


class NotYetError(Exception):
    """Try again in a moment."""


class FaultFailedError(HeadraceError):
    """What had to come of a fault did not."""


def _nothing() -> None:
    """Over as soon as it has begun."""


def _running(site: Site, name: str) -> list[int]:
    pids = site.pids(name)
    if not pids or site.states()[name].pid is None:
        raise NotYetError
    return pids


def _kill(site: Site, _traffic: Traffic, fault: Fault) -> End:
    site.signal(_running(site, fault.target)[-1:], signal.SIGKILL)  # what it started dies with it
    return _nothing


def _stop(site: Site, _traffic: Traffic, fault: Fault) -> End:
    pids = _running(site, fault.target)
    site.signal(pids, signal.SIGSTOP)
    return lambda: site.signal([pid for pid in pids if pid in site.pids(fault.target)], signal.SIGCONT)


def _network(mode: Mode) -> Callable[[Site, Traffic, Fault], End]:
    def begin(site: Site, _traffic: Traffic, fault: Fault) -> End:
        site.break_network(fault.target, mode)
        return lambda: site.mend_network(fault.target, mode)

    return begin


def _disk(site: Site, _traffic: Traffic, fault: Fault) -> End:
    [pid] = _running(site, fault.target)
    site.disk.fill(pid)
    return lambda: site.disk.free(pid)


def _clock(site: Site, _traffic: Traffic, fault: Fault) -> End:
    clock = site.clocks[fault.target]
    clock.step(_STEPS_S[int(fault.chance * len(_STEPS_S))])
    return lambda: clock.step(0)


def _storm(site: Site, traffic: Traffic, _fault: Fault) -> End:
    storm = Storm(kafka_config(site.settings), site.group, traffic.input.name, SESSION_TIMEOUT_MS)

    def end() -> None:
        storm.end()
        if not storm.gone(timeout_s=0.0):
            raise NotYetError

    return end


def _poison(site: Site, traffic: Traffic, fault: Fault) -> End:
    chance = random.Random(fault.chance)  # noqa: S311 - no secret
    for key, value in poison.messages(chance):
        traffic.send(key, value, None, None)
    sending = poison.Unnameable(kafka_config(site.settings)["bootstrap.servers"], traffic.input.name)

    def end() -> None:
        if not sending.done:
            raise NotYetError

    return end


def _model(site: Site, _traffic: Traffic, fault: Fault) -> End:
    """The file changes under all workers; the one that starts anew must refuse, the other goes on with what it has."""
    if site.model_is_wrong:  # an earlier one takes longer than it was meant to
        raise NotYetError
    pids = _running(site, fault.target)
    right = site.model.read_bytes()
    restarts = site.states()[fault.target].restarts
    _replace(site, right[: len(right) // 2] + bytes(reversed(right[len(right) // 2 :])))
    site.model_is_wrong = True
    site.signal(pids[-1:], signal.SIGKILL)

    def end() -> None:
        state = site.states()[fault.target]
        if state.status != "failed":
            raise NotYetError
        _replace(site, right)
        site.model_is_wrong = False
        said = state.log.read_text(errors="replace")
        for worker in WORKERS:
            if site.states()[worker].status == "failed":
                site.services.supervisor.again(worker)
        if said.count(WRONG_MODEL) <= site.refusals.get(fault.target, 0) or state.restarts <= restarts:
            raise FaultFailedError(f"{fault.target} ended with another model in its file and did not say why")
        site.refusals[fault.target] = said.count(WRONG_MODEL)

    return end


def _replace(site: Site, content: bytes) -> None:
    """All at once, as whoever replaces a file should."""
    scratch = site.model.with_name(f".{site.model.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(site.model)


BEGIN: dict[str, Callable[[Site, Traffic, Fault], End]] = {
    "kill": _kill,
    "pause": _stop,
    "freeze": _stop,
    "cut": _network("cut"),
    "hang": _network("hang"),
    "slow": _network("slow"),
    "disk": _disk,
    "clock": _clock,
    "storm": _storm,
    "poison": _poison,
    "model": _model,
}
