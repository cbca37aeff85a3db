"""Supervised processes are restarted when they die, within bounds, and none outlives its supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from processes import gone

from streams.local import endpoints
from streams.local.supervisor import RestartPolicy, ServiceFailedError, Supervisor, headrace_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
# Says that it ends, and ends well.
_POLITE = [
    sys.executable,
    "-c",
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
    "print('up', flush=True); time.sleep(600)",
]
_DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
_FAST = RestartPolicy(most=3, first_s=0.01, longest_s=0.05)


def _poll_until(supervisor: Supervisor, condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        supervisor.poll()

        assert time.monotonic() < deadline, supervisor.states()
        time.sleep(0.01)


def _says(log: Path, text: str) -> Callable[[], bool]:
    return lambda: log.exists() and text in log.read_text()


def test_wrong_settings_are_not_tried_again(tmp_path: Path) -> None:
    """A child that ends with exit code 2 has failed at once: another start would find the same mistake."""
    with Supervisor(tmp_path) as supervisor:
        wrong = ["--set", "domains.fraud.model=nope", "--set", "kafka.bootstrap=127.0.0.1:9"]
        supervisor.start("worker", headrace_command(*wrong, "worker", "fraud"))
        _poll_until(supervisor, lambda: supervisor.states()[0].status == "failed", within_s=30)

        assert (2, 0) == (supervisor.states()[0].exit_code, supervisor.states()[0].restarts)
        with pytest.raises(ServiceFailedError, match="nope"):
            supervisor.check()


def test_kills_are_not_held_against_a_child(tmp_path: Path) -> None:
    """Kill -9 ten times in a row, more often than it may fail by itself: it is up again each time."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("worker", _SLEEPER, policy=_FAST)
        for kills in range(10):
            _poll_until(supervisor, lambda: supervisor.states()[0].status == "running")
            pid = supervisor.states()[0].pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            _poll_until(supervisor, lambda kills=kills: supervisor.states()[0].restarts == kills + 1)

        assert "running" == supervisor.states()[0].status


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    """Kill -9 of a child: a new process takes its place, its log goes on, its endpoints are gone."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("worker", _SLEEPER, policy=_FAST)
        first = supervisor.states()[0]
        _poll_until(supervisor, _says(first.log, "up"))
        endpoints.publish(tmp_path, "metrics", "x", pid=first.pid)
        assert first.pid
        os.kill(first.pid, signal.SIGKILL)
        _poll_until(supervisor, lambda: supervisor.states()[0].restarts == 1)
        _poll_until(supervisor, _says(first.log, "up\nup"))
        second = supervisor.states()[0]

    assert (second.status, second.exit_code) == ("running", -signal.SIGKILL)
    assert first.pid != second.pid
    assert endpoints.read(tmp_path) == {}
    assert tmp_path / "logs" / "worker.log" == second.log


def test_restarts_are_bounded(tmp_path: Path) -> None:
    """A child that dies every time is given up after its restarts, with its exit code and last words."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("broken", [sys.executable, "-c", "print('no model here'); exit(3)"], policy=_FAST)
        with pytest.raises(ServiceFailedError, match=r"(?s)broken ended with exit code 3 after 3 restarts.*no model"):
            supervisor.run()
        state = supervisor.states()[0]

    assert (state.status, state.restarts, state.exit_code, state.pid) == ("failed", 3, 3, None)


def test_one_that_gave_up_can_be_started_again(tmp_path: Path) -> None:
    """What kept it from starting was mended: it begins with a clean record; one that runs is left alone."""
    cause = tmp_path / "cause"
    cause.touch()
    script = f"import pathlib, sys, time\nif pathlib.Path({str(cause)!r}).exists(): sys.exit(2)\ntime.sleep(60)"
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("worker", [sys.executable, "-c", script], policy=_FAST)
        _poll_until(supervisor, lambda: supervisor.states()[0].status == "failed")
        cause.unlink()
        supervisor.again("worker")
        again = supervisor.states()[0]
        supervisor.again("worker")
        supervisor.poll()

        assert ("running", 1) == (again.status, again.restarts)
        assert again.pid == supervisor.states()[0].pid


def test_the_end_of_a_log_is_of_this_run(tmp_path: Path) -> None:
    """What earlier runs said is left out of the error, and what was said at each restart is said once."""
    log = tmp_path / "logs" / "broken.log"
    log.parent.mkdir()
    log.write_text("an old error\n")
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("broken", [sys.executable, "-c", "print('no model here'); exit(3)"], policy=_FAST)
        with pytest.raises(ServiceFailedError) as failed:
            supervisor.run()

    assert ["  no model here"] == str(failed.value).splitlines()[1:]


def test_a_finished_child_is_left_alone(tmp_path: Path) -> None:
    """Exit code 0 means done: no restart, no failure."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("once", [sys.executable, "-c", "pass"], policy=_FAST)
        _poll_until(supervisor, lambda: supervisor.states()[0].status == "finished")
        supervisor.poll()
        supervisor.check()
        state = supervisor.states()[0]

    assert (state.restarts, state.exit_code) == (0, 0)


def test_backing_off_doubles_up_to_its_bound() -> None:
    """Every restart waits twice as long as the one before, up to the longest."""
    policy = RestartPolicy(first_s=0.5, longest_s=3.0)

    assert [policy.delay_s(restarts) for restarts in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_long_life_is_forgiven(tmp_path: Path) -> None:
    """Restarts count against a child only until it ran long enough."""
    now = [0.0]
    policy = RestartPolicy(most=1, first_s=0.0, forgiven_after_s=60.0)
    with Supervisor(tmp_path, clock=lambda: now[0]) as supervisor:
        supervisor.start("worker", _SLEEPER, policy=policy)
        for restarts in (1, 2, 3):
            pid = supervisor.states()[0].pid
            assert pid
            now[0] += 61
            supervisor.poll()
            os.kill(pid, signal.SIGKILL)
            _poll_until(supervisor, lambda wanted=restarts: supervisor.states()[0].restarts == wanted)
        state = supervisor.states()[0]

    assert (state.status, state.restarts) == ("running", 3)


def test_stopping_is_polite_first_and_firm_after_the_grace(tmp_path: Path) -> None:
    """SIGTERM lets a child end in its own way; one that does not listen is killed when the grace is over."""
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        supervisor.start("polite", _POLITE)
        supervisor.start("deaf", _DEAF)
        running = supervisor.states()
        for state in running:
            _poll_until(supervisor, _says(state.log, "up"))
        supervisor.stop()
        polite, deaf = supervisor.states()

    assert (polite.status, polite.exit_code) == ("stopped", 0)
    assert (deaf.status, deaf.exit_code) == ("stopped", -signal.SIGKILL)
    assert polite.log.read_text() == "up\nbye\n"
    assert all(state.pid and gone(state.pid) for state in running)


def test_one_can_be_stopped_alone(tmp_path: Path) -> None:
    """A named child is stopped and stays so; the others run on."""
    with Supervisor(tmp_path, grace_s=5) as supervisor:
        supervisor.start("one", _SLEEPER)
        supervisor.start("two", _SLEEPER)
        supervisor.stop("one")
        supervisor.poll()
        statuses = {state.name: state.status for state in supervisor.states()}

    assert statuses == {"one": "stopped", "two": "running"}


def test_a_name_is_supervised_once(tmp_path: Path) -> None:
    """A second child of the same name is a mistake of the caller."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("one", _SLEEPER)
        with pytest.raises(ValueError, match="'one' is already supervised"):
            supervisor.start("one", _SLEEPER)


def test_waiting_for_an_endpoint_notices_a_failed_child(tmp_path: Path) -> None:
    """Whoever waits for the endpoint of a child that cannot start hears of it, not of a time-out."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("store", [sys.executable, "-c", "exit('disk full')"], policy=_FAST)
        with pytest.raises(ServiceFailedError, match="disk full"):
            supervisor.await_endpoint("clickhouse", 20)


_OWNER = """
import sys
from pathlib import Path
from streams.local.supervisor import Supervisor
with Supervisor(Path(sys.argv[1]), grace_s=5) as supervisor, supervisor.stopping_on_signals():
    for name in ("one", "two"):
        supervisor.start(name, sys.argv[2:])
    print(*(state.pid for state in supervisor.states()), flush=True)
    supervisor.run()
print("stopped", flush=True)
"""


def _owner(data: Path) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen([sys.executable, "-c", _OWNER, str(data), *_POLITE], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    pids = [int(pid) for pid in process.stdout.readline().split()]
    deadline = time.monotonic() + 10
    while not all(_says(data / "logs" / f"{name}.log", "up")() for name in ("one", "two")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process, pids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM, Ctrl-C or a closed terminal at the owner: every child ends in its own way, then the owner."""
    process, pids = _owner(tmp_path)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)

    assert (process.returncode, output) == (0, "stopped\n")
    assert all(map(gone, pids))
    assert [(tmp_path / "logs" / f"{name}.log").read_text() for name in ("one", "two")] == ["up\nbye\n"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own death signal is Linux's")
def test_a_killed_owner_leaves_no_child(tmp_path: Path) -> None:
    """Kill -9 of the owner ends its children within moments."""
    process, pids = _owner(tmp_path)
    process.kill()
    process.communicate()

    assert len(pids) == 2
    assert all(map(gone, pids))


def test_the_broker_runs_supervised(tmp_path: Path) -> None:
    """`headrace broker` as a child: its endpoint is published, comes back after kill -9 of the JVM, and goes."""
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("broker", headrace_command("--data", str(tmp_path), "broker"), policy=_FAST)
        first = supervisor.await_endpoint("kafka")
        jvm = psutil.Process(supervisor.states()[0].pid).children()[0]
        jvm.kill()
        _poll_until(supervisor, lambda: supervisor.states()[0].restarts == 1, 20)
        second = supervisor.await_endpoint("kafka")

    assert gone(jvm.pid)
    assert first == second
    assert endpoints.read(tmp_path) == {}
