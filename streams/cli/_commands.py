"""Which commands there are, and where each lives; nothing of them is imported until one runs."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from streams.cli._output import close_stdout

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["COMMANDS", "LazyGroup", "Place", "load"]


class Place(NamedTuple):
    """Where a command lives, and the first line of its help."""

    module: str
    attribute: str
    summary: str


COMMANDS: dict[str, Place] = {
    "demo": Place("demo", "app", "Run the main job, start to finish, on embedded services."),
    "chaos": Place("chaos", "app", "Break all services by a seed, and account for every event."),
    "up": Place("up", "app", "Run all services until Ctrl-C."),
    "broker": Place("broker", "app", "Run a real Kafka broker on this machine."),
    "worker": Place("worker", "app", "Answer the events of a domain."),
    "store": Place("store", "app", "Run the ClickHouse store: sink, queries, HTTP endpoint."),
    "monitor": Place("monitor", "app", "Run the live monitor beside the hot path."),
    "produce": Place("produce", "app", "Validate a file of events and produce them."),
    "consume": Place("consume", "app", "Print the decoded messages of a topic."),
    "query": Place("store", "query", "Ask the store in SQL."),
    "try": Place("try_", "app", "Run a file through a processor without Kafka."),
    "dlq": Place("dlq", "app", "List, show and retry dead letters."),
    "reset": Place("reset", "app", "Let a domain's workers go on at another offset."),
    "models": Place("models", "app", "List, pull, verify and inspect models."),
    "schema": Place("schema", "app", "Show, export and compare message schemas."),
    "topics": Place("topics", "app", "Show the topics of a domain, or make them."),
    "acls": Place("acls", "app", "Print the least that each process must be allowed in Kafka."),
    "bench": Place("bench", "app", "Measure on this machine, against what one would use instead."),
    "config": Place("config", "app", "Print the effective settings and where each came from."),
    "top": Place("top", "app", "Show how a running deployment is doing."),
    "doctor": Place("doctor", "app", "Check this machine, the install and the services."),
}


class LazyGroup(TyperGroup):
    """Lists commands without importing them; a room that is broken hurts its own commands only."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Called for the help; `ctx` is not needed."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in with the summary; the command itself is loaded when it is to run."""
        del ctx
        place = COMMANDS.get(cmd_name)
        return place and TyperCommand(cmd_name, help=place.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Called when a command is to run."""
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}  # where "did you mean" looks
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and command else command, rest

    def invoke(self, ctx: Any) -> Any:
        """Runs; whoever reads our output may stop reading (`| head`) without that being an error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            close_stdout()
            raise typer.Exit(0) from None


def load(name: str) -> Any:
    """Imports the room of a command and returns it as Typer runs it.

    Raises:
        Exception: whatever the room raises when it is imported.
    """
    place = COMMANDS[name]
    found = _attribute(import_module(f"streams.cli.{place.module}"), place.attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(found)
        found = app
    command = get_command(found)
    command.name = name
    _unwrap(command)
    return command


def _unwrap(command: Any) -> None:
    """Makes each paragraph of the help one line, for the terminal to wrap: docstrings are wrapped for editors."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in getattr(command, "commands", {}).values():
        _unwrap(inner)


def _attribute(module: ModuleType, name: str) -> Any:
    found = getattr(module, name, None)
    if found is None:
        msg = f"{module.__name__} has no {name!r}. This is a bug."
        raise ImportError(msg)
    return found
