"""Libraries of custom operators: native code that runs as this process, so only what the settings name, by sha256."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from processors._contract import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CustomOpsError", "register_custom_ops", "with_custom_ops_advice"]


class CustomOpsError(ModelError, ValueError):
    """A library of custom operators that cannot be used."""


def register_custom_ops(options: Any, wanted: Mapping[str, str]) -> None:
    """Loads libraries into session options.

    Args:
        options: ONNX Runtime's SessionOptions.
        wanted: Paths with the sha256 that each file must have.

    Raises:
        CustomOpsError: A file is missing, another than promised, or no such library.
    """
    for path, promised in wanted.items():
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CustomOpsError(f"model.custom_ops: {path} cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != promised.lower():
            raise CustomOpsError(f"model.custom_ops: {path} has the sha256 {digest}, promised is {promised}")
        with _file_of(content) as file:
            try:
                options.register_custom_ops_library(file)
            except Exception as error:  # ONNX Runtime's errors have no base of their own.
                raise CustomOpsError(f"model.custom_ops: {path} cannot be loaded: {error}") from error


def with_custom_ops_advice(reason: str) -> str:
    """What ONNX Runtime says of a model, and of unknown operators where they would come from."""
    if "is not a registered function/op" not in reason:
        return reason
    return f"{reason}; libraries of custom operators are loaded only where model.custom_ops names them"


@contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    """A file of our own, in memory where the system has such, that nobody else changes before it is loaded."""
    if not hasattr(os, "memfd_create"):  # macOS
        with TemporaryDirectory() as folder:  # readable by its owner alone
            file = Path(folder) / "custom-ops.dylib"
            file.write_bytes(content)
            yield str(file)
        return
    number = os.memfd_create("custom-ops")
    try:
        with os.fdopen(os.dup(number), "wb") as memory:
            memory.write(content)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
