"""A run: services, load, faults as the schedule says, until all is quiet again; then the account."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from processors import part_of
from streams.chaos._site import Site
from streams.chaos.account import account_of
from streams.chaos.evidence import Tables
from streams.chaos.faults import BEGIN
from streams.chaos.happening import Happenings
from streams.chaos.probe import Probe
from streams.chaos.schedule import PACE_S, read_kinds, read_targets, schedule
from streams.demo.ledger import Ledger
from streams.demo.run import load_demo
from streams.demo.traffic import Traffic
from streams.demo.view import Progress
from streams.errors import HeadraceError
from streams.local.connection import kafka_config
from streams.store.client import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processors._chaos import Chaos
    from processors._demo import Demo, Events
    from schemas.envelope import Message
    from streams.chaos.schedule import Fault
    from streams.chaos.view import View
    from streams.settings import Settings

__all__ = ["Options", "Outcome", "load_chaos", "run_chaos"]

_READ_S = 0.02
_SHOW_EVERY_S = 0.2
# How long without one more answer, row or figure before what is not there counts as lost.
_PATIENCE_S = 120.0
# Doubles come late.
_SILENCE_S = 2.0
_VIEWS_PATIENCE_S = 60.0


class Options(NamedTuple):
    """What a person can choose about a run."""

    domain: str
    seed: int
    minutes: float
    rate: float
    """Events per second."""
    kinds: str = ""
    """Kinds of faults, `a,b,c`; all where empty."""
    targets: str = ""
    """Whom they hit, `a,b,c`; everybody where empty."""
    pace_s: float = PACE_S
    keep: bool = False

    @property
    def command(self) -> str:
        """What somebody types for the same run."""
        chosen = {"faults": self.kinds, "targets": self.targets, "pace": "" if self.pace_s == PACE_S else self.pace_s}
        rest = "".join(f" --{name} {value}" for name, value in chosen.items() if value)
        return f"headrace chaos {self.domain} --seed {self.seed} --minutes {self.minutes:g} --rate {self.rate:g}{rest}"


class Outcome(NamedTuple):
    """How a run ended."""

    ledger: dict[str, Any]
    wrong: list[str]
    """What is wrong, in words; empty where everything is right."""
    data: Path | None
    """Where data and logs are, where they were kept."""


def load_chaos(domain: str) -> Chaos:
    """The module `chaos` of a domain.

    Raises:
        HeadraceError: The domain has none.
    """
    module: Any = part_of(domain, "chaos")
    if module is None:
        raise HeadraceError(
            f"the domain {domain!r} does not say how its results are compared: it has no module `chaos`"
        )
    chaos: Chaos = module
    return chaos


def run_chaos(
    settings: Settings, options: Options, view: View, *, config: Path | None, overrides: dict[str, str]
) -> Outcome:
    """Runs it all in a data directory of its own, which is kept where something is wrong.

    Raises:
        HeadraceError: A service did not start, or the load could not be sent; the message says where the logs are.
        KeyboardInterrupt: It was asked to stop.
    """
    demo, chaos = load_demo(options.domain), load_chaos(options.domain)
    kinds, targets = read_kinds(options.kinds), read_targets(options.targets)
    faults = schedule(options.seed, options.minutes * 60, kinds, targets, options.pace_s)
    view.plan(options.seed, faults)
    data = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    settings = msgspec.structs.replace(settings, data=data)
    keep = True
    try:
        with ExitStack() as stack:
            site = Site(settings, options.domain, config, overrides)
            stack.callback(lambda: site.close(keep=keep))
            site.services.fetch(view.say)
            stack.enter_context(site.services.supervisor.stopping_on_signals())
            site.services.start(view.say)
            ledger, wrong = _Run(site, options, demo, chaos, view, faults).whole()
            view.close()
            keep = options.keep or bool(wrong)
        return Outcome(ledger, wrong, data if keep else None)
    except BaseException as error:
        view.close()
        if not isinstance(error, KeyboardInterrupt):
            view.say(f"data and logs are kept in {data}")
        keep = not isinstance(error, KeyboardInterrupt)
        raise
    finally:
        if not keep:
            shutil.rmtree(data, ignore_errors=True)


class _Run:
    def __init__(self, site: Site, options: Options, demo: Demo, chaos: Chaos, view: View, faults: list[Fault]) -> None:
        self._site = site
        self._options = options
        self._demo = demo
        self._chaos = chaos
        self._view = view
        self._faults = faults
        self._ledger = Ledger()
        self._kafka = kafka_config(site.settings)
        self._traffic = Traffic(self._kafka, options.domain, demo, self._ledger)
        self._tables = Tables(site.settings, options.domain, site.store_url)
        self._probe = Probe(lambda: self._tables.count(self._traffic.output.name), lambda: site.monitor_url)
        self._happenings = Happenings(site, self._traffic, self._ledger, self._probe, BEGIN)
        self._seconds = options.minutes * 60
        self._progress = Progress(round(options.rate * self._seconds))
        self._side: list[Message] = []
        self._began = 0.0
        self._shown_at = 0.0
        self._wrong: list[str] = []

    def whole(self) -> tuple[dict[str, Any], list[str]]:
        """Load and faults, then quiet, then the account."""
        self._make_views()
        with self._traffic, self._probe:
            self._load()
            self._view.say("the load has ended; waiting until everything is quiet")
            self._settle()
        self._view.say("reading everything back")
        found = account_of(self._site, self._tables, self._traffic, self._demo, self._chaos, self._ledger, self._side)
        return self._summary(found.figures), [*self._wrong, *self._happenings.wrong, *found.wrong]

    def _make_views(self) -> None:
        deadline = time.monotonic() + _VIEWS_PATIENCE_S
        while True:
            try:
                self._tables.make_views()
            except StoreError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_SHOW_EVERY_S)
            else:
                return

    def _load(self) -> None:
        """Open loop: each event at its time, whatever became of those before."""
        self._traffic.connect()
        events = self._events()
        waiting = list(reversed(self._faults))
        self._began = time.monotonic()
        while (now := time.monotonic() - self._began) < self._seconds or not self._happenings.quiet:
            while self._traffic_due(now) and (event := next(events, None)) is not None:
                event()
            while waiting and waiting[-1].at_s <= now:
                self._happenings.begin(waiting.pop())
            self._look(_READ_S)
        for event in events:  # whatever the clock left over
            event()
        self._traffic.flush(_PATIENCE_S)

    def _traffic_due(self, now: float) -> bool:
        return self._progress.sent < min(now, self._seconds) * self._options.rate

    def _events(self) -> Iterator[Any]:
        """What is to be done one after the other: an event is sent, or what lies beside it."""
        for events in self._demo.simulate(round(self._options.rate * self._seconds), self._options.seed):
            yield from self._of(events)

    def _of(self, events: Events) -> Iterator[Any]:
        for event in zip(*events[:4], strict=True):
            yield lambda event=event: self._send(event)
        self._side += events.side
        for message in events.side:
            self._traffic.send_beside(message)

    def _send(self, event: Any) -> None:
        self._traffic.send(*event)
        self._progress.sent += 1

    def _look(self, timeout_s: float) -> int:
        """Takes what has come back, looks after the processes and the faults, and shows the state."""
        came = self._traffic.read(timeout_s)
        self._progress.took(came)
        now = time.time()
        supervisor = self._site.services.supervisor
        supervisor.poll()
        if supervisor.stop_requested:
            raise KeyboardInterrupt
        self._happenings.look()
        if now >= self._shown_at + _SHOW_EVERY_S:
            self._shown_at = now
            self._progress.tick(now)
            self._view.show(self._progress, self._happenings, supervisor.states(), time.monotonic() - self._began)
        return len(came)

    def _settle(self) -> None:
        """Until every event is answered, every result a row, every process well; bounded by patience."""
        heard_at = time.monotonic()
        before = -1
        while self._unsettled() and time.monotonic() < heard_at + _PATIENCE_S:
            came = self._look(_READ_S)
            if came or self._probe.rows != before:
                heard_at, before = time.monotonic(), self._probe.rows
        for what in self._unsettled():
            self._wrong.append(f"{what} {_PATIENCE_S:.0f} s after the last sign of progress")
        silent_until = time.monotonic() + _SILENCE_S
        while time.monotonic() < silent_until:
            self._look(_READ_S)

    def _unsettled(self) -> list[str]:
        waits = []
        if self._ledger.waiting_since is not None:
            waits.append("events were unanswered")
        if self._probe.rows < self._ledger.results:
            waits.append(f"{self._ledger.results - self._probe.rows} results had no row")
        waits += [f"{one.fault.kind} of {one.fault.target} was not recovered from" for one in self._happenings.open]
        return waits

    def _summary(self, account: dict[str, Any]) -> dict[str, Any]:
        options = self._options
        return {
            "faults": self._happenings.happened,
            **account,
            "command": options.command,
            "seed": options.seed,
            "minutes": options.minutes,
            "rate": options.rate,
            **self._happenings.summary(),
            "restarts": {state.name: state.restarts for state in self._site.services.supervisor.states()},
            "disk": self._site.disk.says,
        }
