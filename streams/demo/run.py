"""The main job from start to finish: services, events in, answers out, the account."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from processors import part_of
from streams.demo.ledger import Ledger
from streams.demo.traffic import Traffic
from streams.demo.view import Progress
from streams.errors import HeadraceError
from streams.local.connection import kafka_config
from streams.local.services import Services
from streams.store.asking import ask_over_http
from streams.store.client import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processors._demo import Demo, Events
    from streams.demo.view import View
    from streams.settings import Settings

__all__ = ["Options", "load_demo", "run_demo"]

# Seconds without one more answer after which whatever is unanswered counts as missing; and after Ctrl-C.
_PATIENCE_S = 60.0
_HURRIED_S = 5.0
# After the last answer came: doubles come late.
_SILENCE_S = 1.0
_READ_S = 0.02
_BURST_S = 0.01
_SHOW_EVERY_S = 0.2
_EXACT = "Every event answered exactly once"
_POLL_S = 0.2
_MOST_AHEAD = 100_000


class Options(NamedTuple):
    """What a person can choose about a run."""

    domain: str
    events: int
    rate: float
    """Events per second; 0 sends as fast as the worker keeps up."""
    workers: int
    keep: bool
    seed: int
    input: Path | None = None
    preset: str = ""
    mapping: Path | None = None


def load_demo(domain: str) -> Demo:
    """The module `demo` of a domain.

    Raises:
        HeadraceError: The domain has none.
    """
    module: Any = part_of(domain, "demo")
    if module is None:
        raise HeadraceError(
            f"the domain {domain!r} has no demo; `headrace up {domain}` runs its services, "
            f"`headrace produce {domain} FILE` sends events"
        )
    demo: Demo = module
    return demo


class Outcome(NamedTuple):
    """How a run ended."""

    summary: dict[str, Any]
    exact: bool
    """Whether every event sent was answered once, and every result is one row."""
    stopped: bool
    """Whether it was asked to stop before all events were sent."""


def run_demo(
    settings: Settings, options: Options, view: View, *, config: Path | None, overrides: dict[str, str]
) -> Outcome:
    """Runs the demo and returns its summary, read back from the output topic and from ClickHouse.

    Raises:
        HeadraceError: A service did not start, or failed for good.
        KeyboardInterrupt: It was asked to stop before there was anything to sum up.
    """
    demo = load_demo(options.domain)
    if options.input is not None:  # a file that does not fit says so before anything is started
        next(demo.from_file(options.input, options.preset, options.mapping), None)
    with ExitStack() as stack:
        if not options.keep:
            scratch = stack.enter_context(TemporaryDirectory(prefix="headrace-", ignore_cleanup_errors=True))
            settings = msgspec.structs.replace(settings, data=Path(scratch))
        services = stack.enter_context(
            Services(settings, options.domain, options.workers, config=config, overrides=overrides)
        )
        services.fetch(view.say)
        stop = services.supervisor
        stack.enter_context(stop.stopping_on_signals())
        services.start(view.say)
        run = _Run(settings, options, demo, view, services)
        summary = run.whole()
        view.close()
        outcome = Outcome(summary, _is_exact(summary), stop.stop_requested)
        view.summary(_title(outcome), summary, () if outcome.stopped else [*demo.next_steps(), *_next_steps(options)])
        if options.keep and not outcome.stopped:
            _say_where(view, services)
            stop.run()
        return outcome


class _Run:
    def __init__(self, settings: Settings, options: Options, demo: Demo, view: View, services: Services) -> None:
        self._settings = settings
        self._options = options
        self._demo = demo
        self._view = view
        self._services = services
        self._ledger = Ledger()
        self._traffic = Traffic(kafka_config(settings), options.domain, demo, self._ledger)
        self._progress = Progress(None if options.input else options.events)
        self._began = 0.0
        self._shown_at = 0.0

    def whole(self) -> dict[str, Any]:
        """Sends, reads, waits, and adds up."""
        with self._traffic:
            self._send_and_read()
        rows = self._wait_for_rows()
        account = self._ledger.account()
        return {**account._asdict(), "rows_in_clickhouse": rows, **self._ledger.figures()}

    def _send_and_read(self) -> None:
        self._traffic.connect()
        for events in self._events():
            self._send(events)
            if self._services.supervisor.stop_requested:
                break
        self._traffic.flush()
        self._wait_for_answers()

    def _events(self) -> Iterator[Events]:
        options = self._options
        if options.input is None:
            return self._demo.simulate(options.events, options.seed)
        return self._demo.from_file(options.input, options.preset, options.mapping)

    def _send(self, events: Events) -> None:
        """Sends events, each at its time; meanwhile reads what comes back."""
        for event in zip(*events[:4], strict=True):
            self._wait_for_turn()
            if self._services.supervisor.stop_requested:
                break
            self._traffic.send(*event)
            self._progress.sent += 1
        for message in events.side:
            self._traffic.send_beside(message)
        self._read(0.0)

    def _wait_for_turn(self) -> None:
        if self._options.rate:
            if not self._progress.sent:
                self._began = time.monotonic()
            due = self._began + self._progress.sent / self._options.rate
            # Sent in small bursts: a look at what came back between any two events would cost more than both.
            while (ahead := due - time.monotonic()) > _BURST_S:
                self._read(min(_READ_S, ahead))
        while self._progress.lag > _MOST_AHEAD and not self._services.supervisor.stop_requested:
            self._read(_READ_S)

    def _read(self, timeout_s: float) -> int:
        """Takes what has come back, looks after the processes and shows the state."""
        came = self._traffic.read(timeout_s)
        self._progress.took(came)
        now = time.time()
        if now >= self._shown_at + _SHOW_EVERY_S:
            self._shown_at = now
            self._progress.tick(now)
            self._services.supervisor.poll()
            self._services.supervisor.check()
            self._view.show(self._progress)
        return len(came)

    def _wait_for_answers(self) -> None:
        """Until everything sent is answered, or nothing has come for long; then for a moment more."""
        heard_at = time.monotonic()
        while self._ledger.answered < self._progress.sent and time.monotonic() < heard_at + self._patience_s():
            if self._read(_READ_S):
                heard_at = time.monotonic()
        silent_until = time.monotonic() + _SILENCE_S
        while time.monotonic() < silent_until:
            self._read(_READ_S)

    def _wait_for_rows(self) -> int:
        """Rows in ClickHouse of the results of this run, once the sink has caught up or stopped getting anywhere."""
        scored = self._ledger.account().scored
        rows, grown_at = self._count_rows(), time.monotonic()
        while rows < scored and time.monotonic() < grown_at + self._patience_s():
            time.sleep(_POLL_S)
            before, rows = rows, self._count_rows()
            if rows > before:
                grown_at = time.monotonic()
        return rows

    def _patience_s(self) -> float:
        return _HURRIED_S if self._services.supervisor.stop_requested else _PATIENCE_S

    def _count_rows(self) -> int:
        """Plain rows, so that a doubled one counts twice, from where the output topic ended when the run began."""
        output = self._traffic.output
        assert output.table is not None
        starts = self._traffic.starts.items()
        since = " OR ".join(f"(_partition = {p} AND _offset >= {offset})" for p, offset in starts)
        sql = f"SELECT count() FROM {output.table.name} WHERE _topic = {{topic:String}} AND ({since})"  # noqa: S608
        url = self._settings.clickhouse.url or self._services.endpoints().get("clickhouse", "")
        store, database = self._settings.store, self._settings.clickhouse.database
        try:
            answer = ask_over_http(url, store.token, database, sql, "TabSeparated", {"topic": output.name})
        except StoreUnavailableError:
            return -1
        return int(answer.body)


def _is_exact(summary: dict[str, Any]) -> bool:
    return not summary["missing"] and not summary["duplicates"] and summary["rows_in_clickhouse"] == summary["scored"]


def _title(outcome: Outcome) -> str:
    if not outcome.exact:
        return "NOT EXACT: see missing, duplicates, and rows against scored"
    return "Stopped: every event until then answered exactly once" if outcome.stopped else _EXACT


def _next_steps(options: Options) -> list[tuple[str, str]]:
    steps = [("uv run headrace demo --rate 0 --events 500000", "how much this machine can take")]
    if not options.keep:
        steps.append(("uv run headrace demo --keep", "the same, and the services stay for headrace query and consume"))
    return steps


def _say_where(view: View, services: Services) -> None:
    view.say("The services stay up until Ctrl-C:")
    for name, url in services.endpoints().items():
        view.say(f"  {name:<12} {url}")
