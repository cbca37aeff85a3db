"""`headrace chaos`: the schedule, what is shown and written, and a short run of it all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from streams.chaos import poison
from streams.chaos.happening import Happening, Happenings
from streams.chaos.report import BEGIN, END, NoPlaceError, write_report
from streams.chaos.schedule import KINDS, PACE_S, Fault, UnknownFaultError, read_kinds, read_targets, schedule
from streams.chaos.view import LineView, LiveView
from streams.demo.view import Progress
from streams.local.supervisor import State, headrace_command

LEDGER = (
    "faults",
    "inputs",
    "results",
    "dead_letters",
    "missing",
    "duplicates",
    "out_of_order",
    "state_mismatches",
    "rows_missing",
    "rows_doubled",
)
NOTHING_WRONG = {
    "missing": 0,
    "duplicates": 0,
    "out_of_order": 0,
    "state_mismatches": 0,
    "rows_missing": 0,
    "rows_doubled": 0,
    "rows_wrong": 0,
    "views_mismatches": 0,
    "monitor_mismatches": 0,
    "inputs_lost": 0,
    "dead_letters_wrong": 0,
}

# The schedule.

seeds = st.integers(0, 2**32)
lengths = st.floats(15, 3600)
chosen_kinds = st.sets(st.sampled_from(KINDS), min_size=1).map(lambda kinds: sorted(kinds, key=KINDS.index))


@settings(deadline=None)  # a busy machine is no fault
@given(seeds, lengths, chosen_kinds, st.floats(0.5, 30))
def test_a_schedule_keeps_its_rules(seed: int, seconds: float, kinds: list[Any], pace: float) -> None:
    """In order, over before the load ends, of the kinds and lengths chosen, and no two of a kind on one target."""
    faults = schedule(seed, seconds, kinds, pace_s=pace)
    by_name = {kind.name: kind for kind in kinds}
    until: dict[tuple[str, str], float] = {}

    assert faults == schedule(seed, seconds, kinds, pace_s=pace)
    assert [fault.number for fault in faults] == list(range(1, len(faults) + 1))
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    for fault in faults:
        shortest, longest = by_name[fault.kind].lasts_s
        assert fault.target in by_name[fault.kind].targets
        assert min(shortest, seconds - 4) - 0.01 <= fault.lasts_s <= longest + 0.01
        end_s = fault.at_s + fault.lasts_s
        assert 0 <= fault.at_s <= end_s <= seconds - 1.9
        assert 0 <= fault.chance < 1
        shared = "" if by_name[fault.kind].alone else fault.target
        assert until.get((fault.kind, shared), 0) <= fault.at_s
        until[fault.kind, shared] = end_s


@settings(deadline=None)  # a busy machine is no fault
@given(seeds)
def test_a_long_run_has_every_fault_for_everyone(seed: int) -> None:
    """Twenty minutes at the default pace: a hundred faults at least, and each kind on each of its targets."""
    faults = schedule(seed, 20 * 60)

    assert len(faults) >= 100
    assert {(kind.name, target) for kind in KINDS for target in kind.targets} == {(f.kind, f.target) for f in faults}
    assert max(b.at_s - a.at_s for a, b in pairwise(faults)) < 6 * PACE_S


def test_seeds_differ_and_say_what_they_will_do() -> None:
    """Another seed is another schedule, and a fault says in a line what it is."""
    first, second = schedule(1, 300), schedule(2, 300)

    assert first != second
    assert "  7     12.5 s  freeze  broker for 11.0 s" == str(Fault(7, "freeze", "broker", 12.5, 11.0, 0.5))


def test_kinds_are_named_and_a_wrong_name_is_refused() -> None:
    """`kill, disk` chooses two, nothing chooses all, and a mistake lists what there is."""
    assert ["kill", "disk"] == [kind.name for kind in read_kinds("kill, disk")]
    assert read_kinds("") == KINDS
    with pytest.raises(UnknownFaultError, match=r"no fault 'kil'.*kill, pause"):
        read_kinds("kil")


def test_targets_are_named_and_a_wrong_name_is_refused() -> None:
    """Faults of those targets alone are planned; a mistake lists whom there is."""
    faults = schedule(1, 300, targets=read_targets("store, broker"))

    assert {"store", "broker"} == {fault.target for fault in faults}
    with pytest.raises(UnknownFaultError, match=r"nobody 'stor'.*worker-0, worker-1, store"):
        read_targets("stor")


# What is shown and written.


def ledger() -> dict[str, Any]:
    recovery = {"kill broker": {"times": 2, "median": 4.0, "longest": 9.5}}
    figures = {**dict.fromkeys(LEDGER, 1234567), **NOTHING_WRONG}
    command = "headrace chaos fraud --seed 1 --minutes 20 --rate 200"
    return {
        **figures,
        "command": command,
        "seed": 1,
        "minutes": 20.0,
        "rate": 200.0,
        "by_kind": {"kill": 2},
        "recovery_s": recovery,
    }


def test_the_ledger_is_written_between_its_marks(tmp_path: Path) -> None:
    """Twice over, and the rest of the page stays; a page without marks is refused."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_report(page, ledger(), [])
    write_report(page, ledger(), ["one event is missing"])
    text = page.read_text()
    page.write_text("nothing")

    assert ("before\n", "\nafter\n") == (text.partition(BEGIN)[0], text.partition(END)[2])
    assert 1 == text.count("`headrace chaos fraud --seed 1 --minutes 20 --rate 200`")
    assert "| kill broker | 2 | 4.0 s | 9.5 s |" in text
    assert "- one event is missing" in text
    assert "old" not in text
    with pytest.raises(NoPlaceError, match="no place for the ledger"):
        write_report(page, ledger(), [])


def happenings() -> Happenings:
    """Some of each status."""
    found = Happenings(None, None, None, None, {})  # type: ignore[arg-type]
    for number, kind in enumerate(("kill", "freeze", "disk"), 1):
        found.all.append(Happening(Fault(number, kind, "store", number, 1.0, 0.5), 0.0, began_at=1.0))
    found.all[0].ended_at, found.all[0].recovered_s = 5.0, 1.5
    found.all[1].ended_at = 6.0
    return found


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_picture_has_all_its_figures(width: int) -> None:
    """However narrow the terminal: counts are whole, and each fault has its state."""
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    progress = Progress(9_999_999)
    progress.sent, progress.answered = 1_234_567, 1_111_111
    progress.tick(1.0)
    states = [State("worker-0", "restarting", None, 3, -9, Path("log"))]

    console.print(LiveView(console).drawn(progress, happenings(), states, 12.0))

    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    wanted = ["1,234,567", "1,111,111", "worker-0 restarting 3↻", "recovered in 1.5 s", "recovering", "freeze", "disk"]
    assert [] == [text for text in wanted if text not in shown]


def test_plain_lines_tell_each_turn_once() -> None:
    """In a log each fault has a line for each of its turns, and the end says what is wrong and where to look."""
    console = Console(width=80, file=StringIO())
    view, found = LineView(console), happenings()
    progress = Progress(10)
    progress.tick(1.0)
    view.plan(3, [one.fault for one in found.all])
    view.show(progress, found, [], 1.0)
    view.show(progress, found, [], 2.0)
    view.summary(ledger(), ["an event is missing"], Path("/some/where"))

    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert 1 == shown.count("recovered in 1.5 s")
    assert "seed 3, 3 faults:" in shown
    assert "wrong: an event is missing" in shown
    assert "kept in /some/where" in shown


def test_no_message_of_death_is_an_event() -> None:
    """Whatever the chance: several kinds of bytes, among them none, large ones and deep ones."""
    drawn = poison.messages(random.Random(5))

    assert drawn == poison.messages(random.Random(5))
    assert drawn != poison.messages(random.Random(6))
    assert {None, b""} < {value for _key, value in drawn}
    assert max(len(value or b"") for _key, value in drawn) > 2_000_000


# All of it.


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        headrace_command("chaos", *options),
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ,
        check=False,
    )


@pytest.mark.slow
def test_a_short_chaos_changes_nothing() -> None:
    """Kills, a cut, poison, a full disk and a wrong model: every event once, everywhere, and nothing is left behind."""
    before = set(Path(tempfile.gettempdir()).glob("headrace-chaos-*"))
    ran = run("--seed", "718", "--minutes", "0.35", "--pace", "2.5", "--faults", "kill,cut,poison,model,disk", "--json")

    assert 0 == ran.returncode, ran.stderr
    told = json.loads(ran.stdout)
    assert LEDGER == tuple(told)[: len(LEDGER)]
    assert told | NOTHING_WRONG == told
    assert told["faults"] >= 5
    assert told["inputs"] == told["results"] + told["dead_letters"]
    assert told["results"] == 0.35 * 60 * 200
    assert set() == set(Path(tempfile.gettempdir()).glob("headrace-chaos-*")) - before


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_nothing() -> None:
    """Stopped while it runs, it stops what it started, removes its data and leaves with 130."""
    before = set(Path(tempfile.gettempdir()).glob("headrace-chaos-*"))
    command = headrace_command("chaos", "--minutes", "1", "--faults", "pause")
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Kafka broker at"):
                break
        process.send_signal(signal.SIGINT)
        code = process.wait(60)

    assert 130 == code
    assert set() == set(Path(tempfile.gettempdir()).glob("headrace-chaos-*")) - before
