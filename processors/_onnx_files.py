"""What an ONNX file refers to outside of itself, read without the `onnx` package, and which of it may be loaded.

Strategy: tensors may say that their values lie in another file (`external_data`), and nodes may hold or name an engine
that was compiled elsewhere (`EPContext`). Both are found wherever onnx/onnx.proto lets a tensor or a node stand. What
is found is refused, or read here, checked here, and handed to ONNX Runtime as bytes: it opens no file by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors._contract import ModelError
from processors._models import Model
from processors._onnx_header import fields

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ForeignFileError", "attached_files", "external_locations"]

# Where messages that we look for lie inside others, by field number: graphs in models, nodes in graphs, tensors in
# attributes of nodes, and so on.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2
_OPERATOR = 4
_ENGINE = b"EPContext"
# A graph in a graph in a graph: loops in loops are rare, and a file that goes deeper is made to hurt.
_DEEPEST = 64


class ForeignFileError(ModelError, ValueError):
    """A model that refers to something that it may not."""


def attached_files(content: bytes, model: Model | Path, name: str) -> dict[str, bytes]:
    """The files that a model's tensors lie in, by the name under which it refers to them, as bytes.

    Args:
        content: The ONNX file.
        model: A resolved model, whose manifest must list each file; or the path of a bare ONNX file, beside which they
            must lie.
        name: What errors call the model.

    Raises:
        ForeignFileError: It refers to a file that it may not have, or holds a compiled engine.
        IntegrityError: A file is not the one of the manifest.
    """
    return {
        location: model.read_extra(location) if isinstance(model, Model) else _beside(model, location, name)
        for location in sorted(external_locations(content, name))
        if _is_allowed(model, location, name)
    }


def external_locations(content: bytes, name: str = "model") -> set[str]:
    """Every file that tensors of a model refer to.

    Raises:
        ForeignFileError: The model holds or names an engine compiled elsewhere, or is nested beyond reason.
    """
    if content[4:8] == b"ORTM":
        raise ForeignFileError(f"{name}: is in ONNX Runtime's own format, which cannot be looked into; use ONNX")
    # Words that must occur for there to be anything to find: trees of a million nodes need not be walked.
    if b"location" not in content and _ENGINE not in content:
        return set()
    found: set[str] = set()
    waiting = [("model", memoryview(content), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ForeignFileError(f"{name}: graphs are nested more than {_DEEPEST} deep")
        inside = _INSIDE.get(kind, {})
        for number, value in _messages(message, name):
            if number in inside:
                waiting.append((inside[number], value, depth + 1))
            elif kind == "tensor" and number == _EXTERNAL_DATA:
                found.update(_location(value, name))
            elif kind == "node" and number == _OPERATOR and value == _ENGINE:
                raise ForeignFileError(
                    f"{name}: holds or names an engine compiled elsewhere (EPContext), which would run unchecked; "
                    "export the model itself: model.cache_dir keeps engines that are compiled here"
                )
    return found


def _messages(message: memoryview, name: str) -> Iterator[tuple[int, memoryview]]:
    try:
        found = fields(message)
    except (IndexError, ValueError) as error:
        raise ForeignFileError(f"{name}: is no ONNX file, or a damaged one: {error}") from error
    return ((number, value) for number, value in found if isinstance(value, memoryview))


def _location(entry: memoryview, name: str) -> Iterator[str]:
    pair = dict(_messages(entry, name))
    if pair.get(_KEY, b"") == b"location":
        yield bytes(pair.get(_VALUE, b"")).decode(errors="replace")


def _is_allowed(model: Model | Path, location: str, name: str) -> bool:
    if isinstance(model, Model):
        if location not in {extra.file for extra in model.manifest.files}:
            raise ForeignFileError(
                f"{name}: has tensors in the file {location!r}, which its manifest does not list: add it to `files` "
                "with its sha256 and size, beside the model"
            )
    elif not location or "/" in location or "\\" in location or location.startswith("."):
        raise ForeignFileError(f"{name}: has tensors in {location!r}, which is no plain name of a file beside it")
    return True


def _beside(model: Path, location: str, name: str) -> bytes:
    path = model.parent / location
    if path.resolve().parent != model.parent.resolve() or not path.is_file():
        raise ForeignFileError(f"{name}: has tensors in {location!r}, which is no file beside it")
    return path.read_bytes()
