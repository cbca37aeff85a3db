"""The root of the command line: options for every command, exit codes, errors in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from typer.main import get_command

from streams.cli import _install
from streams.cli._commands import LazyGroup
from streams.cli._context import Context, override
from streams.cli._output import close_stdout, fail, report

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

FINE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

# By name, since their rooms are slow to import: what fails the same way at every start until somebody mends it.
_LASTING = {"SettingsError", "SetupError"}

EPILOG = "Start here: `headrace demo` · every setting: `headrace config` · something wrong: `headrace doctor`"

app = typer.Typer(
    cls=LazyGroup,
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file; else HEADRACE_CONFIG, else ./headrace.toml.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set one key, such as worker.max_size=512."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The data directory (HEADRACE_DATA).")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,  # noqa: ARG001
) -> None:
    """Decisions on live events, exactly once: Kafka in, ONNX models, ClickHouse out.

    Example: `headrace demo`
    """
    overrides = dict(override(assignment) for assignment in assignments or [])
    if data is not None:
        overrides["data"] = str(data)
    context.obj = Context(config, overrides, debug)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    options = _before_command(arguments)
    debug = "--debug" in options or bool(os.environ.get("HEADRACE_DEBUG"))
    if "--version" in options:
        sys.stdout.write(f"headrace {_install.version()}\n")
        return FINE
    if overwritten := _install.overwritten():
        fail(overwritten)
        return FAILED
    try:
        get_command(app)(args=list(arguments), prog_name="headrace")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        close_stdout()
    except Exception as error:
        report(error, debug=debug)
        return WRONG_USE if type(error).__name__ in _LASTING else FAILED
    return FINE


def _before_command(arguments: Sequence[str]) -> list[str]:
    """The leading options: those of headrace itself, not of one of its commands."""
    options: list[str] = []
    takes_value = False
    for argument in arguments:
        if not takes_value and not argument.startswith("-"):
            break
        takes_value = not takes_value and argument in {"-c", "--config", "-s", "--set", "--data"}
        options.append(argument)
    return options
