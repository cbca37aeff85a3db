"""`headrace bench`: runs the benchmarks of the checkout, as a process of their own: product code imports no scripts."""

from __future__ import annotations

import signal
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streams.cli._context import context_of, settings_of
from streams.errors import SetupError

app = typer.Typer(add_completion=False)

CHECKOUT = Path(__file__).parents[2]
_SCRIPTS = Path("scripts") / "bench" / "__main__.py"
# What they need beyond headrace itself, by import name.
_NEEDS = ("matplotlib", "onnx", "psutil")


class Bench(StrEnum):
    """The benchmarks, and what is done with all of them."""

    PIPELINE = "pipeline"
    LATENCY = "latency"
    STAGES = "stages"
    MEMORY = "memory"
    RESTORE = "restore"
    SINK = "sink"
    SCALE = "scale"
    MODEL = "model"
    OVERLOAD = "overload"
    ALL = "all"
    REPORT = "report"


@app.command()
def bench(
    context: typer.Context,
    name: Annotated[Bench, typer.Argument(help="Which; `report` writes the page anew from the JSON files.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute; the figures say little more than that it works.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the JSON files and plots; else `bench` in the data directory.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="How often each contender has its turn; 0 is as usual.")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="Of overload; 0 is five, or seconds with --quick.")] = 0.0,
) -> None:
    """Measure on this machine: contenders side by side in one run, ratios with their spread, a JSON file and a plot.

    pipeline: fraud scoring exactly once against a raw relay, Quix Streams, Faust and loops by hand. latency: open loop
    at shares of the capacity. stages: µs per event. memory, restore: of the keyed state. sink: against a raw Arrow
    insert. scale: two workers against one. model: a session against bare ONNX Runtime. overload: twice the capacity,
    and the way back. all: one after the other, then docs/benchmarks.md.

    Needs a checkout with its developers' tools (`uv sync`). `--set` before `bench` reaches the workers under test.

    Example: `headrace bench pipeline --quick`
    """
    settings = settings_of(context)
    own = context_of(context)
    _require_checkout()
    command = [
        sys.executable,
        "-m",
        "scripts.bench",
        name.value,
        "--out",
        str((out or settings.data / "bench").absolute()),
    ]
    command += ["--quick"] * quick + ["--json"] * as_json
    command += ["--rounds", str(rounds), "--minutes", str(minutes)]
    command += [f"--set={key}={value}" for key, value in own.overrides.items() if key != "data"]
    with subprocess.Popen(command, cwd=CHECKOUT) as running:  # noqa: S603 (an argument list, no shell)
        raise typer.Exit(_wait(running))


def _wait(running: subprocess.Popen[bytes]) -> int:
    """The exit code; Ctrl-C reaches the benchmark too, which stops its own processes before it ends.

    SIGTERM reaches only this process, and is handed on.
    """
    signal.signal(signal.SIGTERM, lambda *_: running.terminate())
    while True:
        try:
            return running.wait()
        except KeyboardInterrupt:
            continue


def _require_checkout() -> None:
    from importlib.util import find_spec

    if not (CHECKOUT / _SCRIPTS).is_file():
        raise SetupError(
            f"benchmarks need a checkout of the repository: there is no {_SCRIPTS} in {CHECKOUT}."
            " Clone it, `uv sync`, and run `uv run headrace bench` there"
        )
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise SetupError(
            f"benchmarks need {', '.join(missing)}: `uv sync` in the checkout brings the developers' tools"
        )
