"""How tests run commands against a broker, and write what they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from streams.cli._app import run
from streams.clients import Writer

if TYPE_CHECKING:
    import pytest

    from schemas.envelope import Message


def say(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str) -> list[Any]:
    """Runs a command that prints JSON lines, and returns them read."""
    assert 0 == run(arguments), capsysbinary.readouterr().err.decode()
    return [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]


def write(config: dict[str, str], messages: list[Message]) -> None:
    """Writes messages and waits until they are there."""
    with Writer(config) as writer:
        for message in messages:
            writer.send(message)
