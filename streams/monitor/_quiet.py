"""A client that cannot reach its broker says so in ten lines a second: of equal lines one in a while is enough."""

from __future__ import annotations

import logging

# A line that comes again later than this is news again.
_FORGET_S = 30.0


class RepeatsFilter(logging.Filter):
    """Lets a line of the named loggers pass when the same one did not pass lately; a filter for handlers."""

    def __init__(self, *loggers: str) -> None:
        super().__init__()
        self._loggers = loggers
        self._passed: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for each line."""
        if not record.name.startswith(self._loggers):
            return True
        line = (record.name, record.msg if isinstance(record.msg, str) else repr(record.msg))
        passes = record.created - self._passed.get(line, 0.0) > _FORGET_S
        if passes:
            self._passed[line] = record.created
        return passes
