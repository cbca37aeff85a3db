"""What becomes of faults and of the processes that they hit: begun, ended, recovered from, or wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import streams.chaos.happening
from processors._demo import Answer
from streams.chaos.faults import WRONG_MODEL, End, FaultFailedError, NotYetError
from streams.chaos.happening import Happenings
from streams.chaos.schedule import Fault
from streams.demo.ledger import Ledger
from streams.local.supervisor import State

WORKER_FAULT = Fault(1, "kill", "worker-0", 0.0, 0.0, 0.5)


class Processes:
    """A site whose processes are in the states that a test says, and are started again when asked."""

    def __init__(self, tmp_path: Path) -> None:
        self.again: list[str] = []
        self._log = tmp_path / "log"
        self._log.write_text("")
        self._states = {name: State(name, "running", 1, 0, None, self._log) for name in ("worker-0", "store")}
        self.services = SimpleNamespace(supervisor=SimpleNamespace(again=self.again.append))

    def states(self) -> dict[str, State]:
        return self._states

    def ended(self, name: str, status: Any, code: int, said: str = "") -> None:
        before = self._states[name]
        self._log.write_text(said)
        self._states[name] = before._replace(status=status, pid=None, restarts=before.restarts + 1, exit_code=code)


class Run:
    """Happenings with all that they look at."""

    def __init__(self, tmp_path: Path, begin: Callable[[], End]) -> None:
        self.site = Processes(tmp_path)
        self.ledger = Ledger()
        self.probe = SimpleNamespace(rows=0, rows_at=0.0, monitor_at=0.0)
        kinds: Any = dict.fromkeys(("kill", "model"), lambda *_: begin())
        site: Any = self.site
        probe: Any = self.probe
        self.happenings = Happenings(site, None, self.ledger, probe, kinds)  # type: ignore[arg-type]


def nothing() -> None:
    pass


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Faults that begin and end at once."""
    return Run(tmp_path, lambda: nothing)


def test_a_worker_has_recovered_when_nothing_older_waits(run: Run) -> None:
    """An event from before the fault's end that is still unanswered keeps it open, one from after does not."""
    run.ledger.sent((0, 0), "old", None, time.time())
    run.happenings.begin(WORKER_FAULT)
    for _ in range(3):
        run.happenings.look()
    [one] = run.happenings.all
    waiting = one.status
    run.ledger.sent((0, 1), "new", None, time.time() + 60)
    run.ledger.result(Answer("old", 0.5, False, ()), time.time())
    run.happenings.look()

    assert ("recovering", True, []) == (waiting, one.status.startswith("recovered in"), run.happenings.wrong)
    assert run.happenings.summary()["recovery_s"]["kill worker-0"]["times"] == 1


def test_a_store_has_recovered_when_it_has_all_rows_of_its_end(run: Run) -> None:
    """An answer to a question asked before the end does not count, nor one with rows missing."""
    run.ledger.sent((0, 0), "a", None, time.time())
    run.ledger.result(Answer("a", 0.5, False, ()), time.time())
    run.happenings.begin(WORKER_FAULT._replace(target="store"))
    run.probe.rows_at, run.probe.rows = time.time() - 60, 1
    for _ in range(3):
        run.happenings.look()
    early = run.happenings.all[0].status
    run.probe.rows_at, run.probe.rows = time.time() + 60, 0
    run.happenings.look()
    incomplete = run.happenings.all[0].status
    run.probe.rows = 1
    run.happenings.look()

    assert ("recovering", "recovering") == (early, incomplete)
    assert [] == run.happenings.open


def test_what_never_begins_is_missed_and_what_never_ends_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are tried again for a while only; a missed fault is not counted as one that happened."""
    monkeypatch.setattr(streams.chaos.happening, "_PATIENCE_S", 0.0)

    def not_yet() -> Any:
        raise NotYetError

    missed, endless = Run(tmp_path, not_yet).happenings, Run(tmp_path, lambda: not_yet).happenings
    for happenings in (missed, endless):
        happenings.begin(WORKER_FAULT)
        time.sleep(0.01)
        for _ in range(3):
            happenings.look()

    assert (0, 1, []) == (missed.happened, missed.summary()["missed"], missed.wrong)
    assert (1, ["kill of worker-0 did not end within 0 s"]) == (endless.happened, endless.wrong)


def test_a_fault_without_its_consequence_is_wrong(tmp_path: Path) -> None:
    """Such as a worker that starts with another model without a word."""

    def failed() -> None:
        raise FaultFailedError("it did not refuse")

    happenings = Run(tmp_path, lambda: failed).happenings
    happenings.begin(WORKER_FAULT)
    happenings.look()
    happenings.look()

    assert ["it did not refuse"] == happenings.wrong


@pytest.mark.parametrize(
    ("name", "status", "code", "said", "wrong", "exits"),
    [
        ("worker-0", "restarting", -9, "", 0, 0),
        ("worker-0", "restarting", 1, "error: 20 failures in a row", 0, 1),
        ("worker-0", "failed", 1, "error: fenced", 1, 1),
        ("worker-0", "finished", 0, "", 1, 1),
        ("worker-0", "failed", 2, f"error: it {WRONG_MODEL}", 0, 0),
        ("store", "restarting", 1, "error: Drop the table", 1, 1),
        ("store", "restarting", 1, "error: no broker: run `headrace up`", 0, 1),
        ("store", "restarting", -9, "", 0, 0),
    ],
)
def test_ends_by_own_decision_are_told_apart(
    run: Run, name: str, status: str, code: int, said: str, wrong: int, exits: int
) -> None:
    """Kills do not count; who gives up for good is wrong and is started again; a store may not end at all."""
    run.site.ended(name, status, code, said)
    for _ in range(3):
        run.happenings.look()

    assert wrong == len(run.happenings.wrong)
    assert exits == sum(run.happenings.summary()["exits"].values())
    assert (status != "restarting") == (name in run.site.again)
