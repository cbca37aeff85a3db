"""What rewriting a model file has in common: reading it, and writing one that appears only where it is right.

Needs the `onnx` package, which running models does not.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from processors._contract import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["RewriteError", "parsed", "written"]


class RewriteError(ModelError, ValueError):
    """A model that cannot be rewritten so; the message says why."""


def parsed(source: Path, target: Path) -> Any:
    """The model of a file that is to be rewritten to another one.

    Raises:
        RewriteError: It cannot be read, or the two are the same.
    """
    if target.resolve() == source.resolve():
        raise RewriteError(f"{target}: give the new model a file of its own")
    try:
        import onnx
    except ImportError as error:
        raise RewriteError("rewriting a model needs the onnx package: `uv pip install onnx`") from error
    try:
        return onnx.load(source)
    except Exception as error:
        raise RewriteError(f"{source}: is not a readable ONNX model: {error}") from error


@contextmanager
def written(model: Any, target: Path) -> Iterator[Path]:
    """The file with another name, to be held against the original; it gets its name where nothing is raised."""
    partial = target.with_name(f".{target.name}.part")
    partial.write_bytes(model.SerializeToString())
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
