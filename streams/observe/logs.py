"""Logs: readable lines on a terminal, JSON lines elsewhere; secrets are taken out of both."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from streams._settings_redact import redact_text

if TYPE_CHECKING:
    from streams.settings import LogSettings

__all__ = ["configure"]

# What a LogRecord always has; the rest was given as `extra` and is part of the line.
_ORDINARY = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# These say at `info` what is news to their own authors only.
_CHATTY = (
    "faust",
    "mode",
    "aiokafka",
    "kafka",
    "uvicorn",
    "uvicorn.access",
    "clickhouse_connect",
    "urllib3",
    "asyncio",
)


def configure(
    settings: LogSettings,
    *,
    process: str = "",
    secrets: frozenset[str] = frozenset(),
    stream: TextIO | None = None,
) -> None:
    """Sets up the root logger of this process; called once, by the command that runs.

    Args:
        settings: level and format.
        process: who speaks, such as `worker-1`; part of every line.
        secrets: strings that never reach a line; see `secrets_of`.
        stream: standard error, where None: standard output is for results.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    style = _style(settings.format, target)
    handler.setFormatter(_JsonLines(process, secrets) if style == "json" else _Text(process, secrets, style == "color"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _style(wanted: Literal["auto", "json", "text"], stream: TextIO) -> Literal["json", "text", "color"]:
    if wanted == "auto":
        return "color" if stream.isatty() else "json"
    return "color" if wanted == "text" and stream.isatty() else wanted


class _Redacting(logging.Formatter):
    def __init__(self, process: str, secrets: frozenset[str]) -> None:
        super().__init__()
        self._process = process
        self._secrets = secrets

    def clean(self, text: str) -> str:
        return redact_text(text, self._secrets)

    def trace(self, record: logging.LogRecord) -> str:
        """The traceback, if there is one."""
        if record.exc_info and record.exc_info[0] is not None:
            return self.clean(self.formatException(record.exc_info))
        return ""


class _JsonLines(_Redacting):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.clean(record.getMessage()),
        }
        if self._process:
            line["process"] = self._process
        for name, value in vars(record).items():
            if name not in _ORDINARY:
                line[name] = value if isinstance(value, bool | int | float) else self.clean(str(value))
        if trace := self.trace(record):
            line["error"] = trace
        return json.dumps(line, ensure_ascii=False)


class _Text(_Redacting):
    _COLORS = {"DEBUG": "2", "INFO": "36", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}  # noqa: RUF012

    def __init__(self, process: str, secrets: frozenset[str], color: bool) -> None:
        super().__init__(process, secrets)
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():<7}"
        if self._color:
            level = f"\x1b[{self._COLORS.get(record.levelname, '0')}m{level}\x1b[0m"
        who = f"{self._process} " if self._process else ""
        trace = self.trace(record)
        return (
            f"{_time(record)[11:23]} {level} {who}{self.clean(record.getMessage())}{chr(10) + trace if trace else ''}"
        )


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
