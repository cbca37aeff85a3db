"""How commands speak: results on standard output, everything else on standard error, one line per error."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Any

from streams._settings_redact import redact_text

__all__ = ["close_stdout", "fail", "is_ours", "print_json", "report", "write_line"]

# Errors of these packages are written for people; any other error is a bug of ours.
_OWN_PACKAGES = ("streams", "processors", "schemas")


def report(error: BaseException, *, debug: bool = False) -> None:
    """Prints an error on standard error: its message, without a traceback unless asked for."""
    if debug:
        sys.stderr.write(redact_text("".join(traceback.format_exception(error))))
    if is_ours(error):
        fail(_message(error))
        return
    fail(f"{type(error).__name__}: {_message(error)}")
    if not debug and not isinstance(error, OSError):
        sys.stderr.write("  This is a bug; `headrace --debug …` shows where.\n")


def fail(message: str) -> None:
    """Prints `error: …`, with every further line of the message indented."""
    lines = redact_text(message).splitlines() or ["unknown"]
    mark = "\x1b[31merror:\x1b[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "error:"
    sys.stderr.write("\n  ".join([f"{mark} {lines[0]}", *lines[1:]]) + "\n")
    sys.stderr.flush()


def is_ours(error: BaseException) -> bool:
    """Whether the error was written for people by one of our packages."""
    return type(error).__module__.partition(".")[0] in _OWN_PACKAGES


def print_json(value: Any) -> None:
    """Prints one line of JSON, at once: a reader at the other end of a pipe sees it."""
    import orjson

    line = orjson.dumps(value, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    write_line(line)
    sys.stdout.buffer.flush()


def write_line(line: bytes) -> None:
    """Prints a line of bytes; on a terminal at once, else when the buffer is full."""
    sys.stdout.buffer.write(line + b"\n")
    if sys.stdout.isatty():
        sys.stdout.buffer.flush()


def close_stdout() -> None:
    """Points standard output to nowhere, so that the interpreter's last flush does not complain of a closed pipe."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _message(error: BaseException) -> str:
    """The words of an error; a KeyError's own `str` would quote them."""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        return error.args[0]
    return str(error) or type(error).__name__
