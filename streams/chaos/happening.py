"""Faults on their way: begun, ended, recovered from; and what went wrong with them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams.chaos._site import MONITOR, STORE
from streams.chaos.faults import WRONG_MODEL, FaultFailedError, NotYetError
from streams.local.supervisor import log_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.chaos._site import Site
    from streams.chaos.faults import End
    from streams.chaos.probe import Probe
    from streams.chaos.schedule import Fault
    from streams.demo.ledger import Ledger
    from streams.demo.traffic import Traffic

__all__ = ["Happening", "Happenings"]

# How long a process may be away, or what must happen may take, before a fault counts as missed or failed.
_PATIENCE_S = 60.0
# A process that starts while the embedded broker is away ends, to be started again: it is not told where it will be.
_NO_BROKER = "no broker:"


@dataclass(slots=True)
class Happening:
    """One fault of the schedule, as it really went."""

    fault: Fault
    due_at: float
    """Monotonic."""
    end: End | None = None
    began_at: float = 0.0
    ended_at: float = 0.0
    """Wall clock: only what is answered to later questions says that it is over."""
    rows_due: int = 0
    recovered_s: float | None = None
    missed: bool = False

    @property
    def status(self) -> str:
        """In a word."""
        if self.missed:
            return "missed"
        if not self.began_at:
            return "due"
        if not self.ended_at:
            return "on"
        return "recovering" if self.recovered_s is None else f"recovered in {self.recovered_s:.1f} s"


class Happenings:
    """All faults begun so far; `look` is called many times a second."""

    def __init__(
        self,
        site: Site,
        traffic: Traffic,
        ledger: Ledger,
        probe: Probe,
        begin: Mapping[str, Callable[[Site, Traffic, Fault], End]],
    ) -> None:
        self.all: list[Happening] = []
        self.wrong: list[str] = []
        self._site = site
        self._traffic = traffic
        self._ledger = ledger
        self._probe = probe
        self._begin = begin
        self.exits: Counter[str] = Counter()
        """How often a process ended by its own decision, by name."""
        self._last_seen: dict[str, tuple[int, str]] = {}

    @property
    def open(self) -> list[Happening]:
        """Those that are not recovered from."""
        return [one for one in self.all if one.recovered_s is None and not one.missed]

    @property
    def quiet(self) -> bool:
        """Whether none is to begin or to end."""
        return all(one.ended_at for one in self.open)

    @property
    def happened(self) -> int:
        """How many took place."""
        return sum(bool(one.began_at) for one in self.all)

    def begin(self, fault: Fault) -> None:
        """It is time for this one."""
        self.all.append(Happening(fault, time.monotonic()))

    def look(self) -> None:
        """Begins and ends what is due, and sees what is recovered from."""
        for one in self.open:
            if not one.began_at:
                self._try_to_begin(one)
            elif not one.ended_at:
                self._try_to_end(one)
            elif self._is_over(one):
                one.recovered_s = round(time.time() - one.ended_at, 2)
        self._look_after_processes()

    def summary(self) -> dict[str, Any]:
        """How often each kind took place, and how long recovering took."""
        begun = [one for one in self.all if one.began_at]
        seconds: dict[str, list[float]] = {}
        for one in begun:
            if one.recovered_s is not None:
                seconds.setdefault(f"{one.fault.kind} {one.fault.target}", []).append(one.recovered_s)
        return {
            "by_kind": dict(sorted(Counter(one.fault.kind for one in begun).items())),
            "exits": dict(sorted(self.exits.items())),
            "missed": sum(one.missed for one in self.all),
            "recovery_s": {
                name: {"times": len(each), "median": sorted(each)[len(each) // 2], "longest": max(each)}
                for name, each in sorted(seconds.items())
            },
        }

    def _try_to_begin(self, one: Happening) -> None:
        try:
            one.end = self._begin[one.fault.kind](self._site, self._traffic, one.fault)
        except NotYetError:
            one.missed = time.monotonic() > one.due_at + _PATIENCE_S
        else:
            one.began_at = time.monotonic()

    def _try_to_end(self, one: Happening) -> None:
        assert one.end is not None
        due_at = one.began_at + one.fault.lasts_s
        if time.monotonic() < due_at:
            return
        try:
            one.end()
        except NotYetError:
            if time.monotonic() < due_at + _PATIENCE_S:
                return
            self.wrong.append(f"{one.fault.kind} of {one.fault.target} did not end within {_PATIENCE_S:.0f} s")
        except FaultFailedError as error:
            self.wrong.append(str(error))
        one.ended_at = time.time()
        one.rows_due = self._ledger.results

    def _is_over(self, one: Happening) -> bool:
        """Whether the part that was hit does its work again, for everything up to the fault's end."""
        if one.fault.target == STORE:
            return self._probe.rows_at > one.ended_at and self._probe.rows >= one.rows_due
        if one.fault.target == MONITOR:
            return self._probe.monitor_at > one.ended_at
        waits = self._ledger.waiting_since
        return waits is None or waits > one.ended_at

    def _look_after_processes(self) -> None:
        """Counts what ended by its own decision; that one gave up for good is wrong, as is a store that ends at all.

        But for a model that was taken away: who starts then has to refuse.
        """
        if any(one.fault.kind == "model" and one.began_at and not one.ended_at for one in self.all):
            return
        for state in self._site.states().values():
            seen = (state.restarts, state.status)
            if seen == self._last_seen.get(state.name) or state.status in ("running", "waiting"):
                continue
            self._last_seen[state.name] = seen
            last_words = log_tail(state.log, lines=1).strip()
            if (state.exit_code or 0) >= 0 and WRONG_MODEL not in last_words:  # it began before the file was right
                self.exits[state.name] += 1
                if state.status != "restarting" or (state.name == STORE and _NO_BROKER not in last_words):
                    self.wrong.append(f"{state.name} ended with exit code {state.exit_code}: {last_words}")
            if state.status != "restarting":
                self._site.services.supervisor.again(state.name)
