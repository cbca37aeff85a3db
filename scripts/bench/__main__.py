"""The command: `python -m scripts.bench NAME …`, as `headrace bench NAME …` calls it."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.bench import machine, page, plots, report
from scripts.bench.options import Options
from scripts.bench.page import BENCHES
from scripts.bench.rounds import say
from scripts.bench.services import BenchError

_WIDE = 140


def main() -> int:
    """Runs what is asked for; returns the exit code."""
    arguments = _arguments()
    # A person's Ctrl-C and a supervisor's SIGTERM end the same way: every process of the benchmark is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Options(
        out=arguments.out.absolute(),
        quick=arguments.quick,
        chosen_rounds=arguments.rounds,
        minutes=arguments.minutes,
        settings=tuple(arguments.set),
    )
    try:
        return _run(arguments.name, options, as_json=arguments.json)
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(name: str, options: Options, *, as_json: bool) -> int:
    if name == "report":
        say(f"written: {page.write(options.out)}")
        return 0
    if name == "all":
        return _run_all(options, as_json=as_json)
    found = bench(name, options)
    if as_json:
        print(json.dumps(found["result"]))
    return 0 if as_json else _show(name, found)


def _run_all(options: Options, *, as_json: bool) -> int:
    """One after the other; what fails is told and does not keep the others from running."""
    results: dict[str, Any] = {}
    failures = 0
    for name in BENCHES:
        try:
            found = bench(name, options)
        except Exception as error:
            failures += 1
            say(f"{name} failed: {error}")
            if not isinstance(error, BenchError):
                traceback.print_exc()
            continue
        results[name] = found["result"]
        if not as_json:
            _show(name, found)
    if as_json:
        print(json.dumps(results))
    if not options.quick:
        say(f"written: {page.write(options.out)}")
    return 1 if failures else 0


def bench(name: str, options: Options) -> dict[str, Any]:
    """Runs one benchmark and writes its JSON and its plot."""
    module = importlib.import_module(f"scripts.bench.{name}")
    head = {
        "bench": name,
        "quick": options.quick,
        "started_at": machine.now(),
        "settings": list(options.settings),
        "machine": machine.describe(),
        "versions": machine.versions(),
    }
    began = time.monotonic()
    measured = module.run(options)
    found = {**head, "took_s": round(time.monotonic() - began, 1), **measured}
    say(f"{name}: {found['took_s']:.0f} s, written to {report.write(options.out, name, found)}")
    plots.draw(name, found, options.out)
    return found


def _show(name: str, found: dict[str, Any]) -> int:
    module = importlib.import_module(f"scripts.bench.{name}")
    # Into a pipe or a file nothing has to be squeezed.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    report.print_tables(module.tables(found), console)
    facts = found["machine"]
    console.print(
        f"  {facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, load {facts['load_before']} before"
        + (" · quick: the figures say little" if found["quick"] else ""),
        style="dim",
        highlight=False,
    )
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="headrace bench", description="Benchmarks.")
    parser.add_argument("name", choices=[*BENCHES, "all", "report"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
