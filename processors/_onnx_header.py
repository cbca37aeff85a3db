"""What the head of an ONNX file says of it, read without the `onnx` package.

An ONNX file is a protobuf message `ModelProto` (onnx/onnx.proto): 1 ir_version, 2 producer_name, 3 producer_version,
7 graph, 8 opset_import {1 domain, 2 version}. The graph is skipped by its length.
"""

from __future__ import annotations

import msgspec

__all__ = ["Header", "fields", "read_header"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Header(msgspec.Struct, frozen=True):
    """Versions that a model file names."""

    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = {}
    """By operator domain; ONNX's own is `ai.onnx`."""


def read_header(content: bytes) -> Header:
    """The header of a model file; what is not there, or no protobuf, counts as not named."""
    view = memoryview(content)
    ir_version, producer, version = 0, "", ""
    opsets: dict[str, int] = {}
    try:
        for field, value in fields(view):
            if field == 1 and isinstance(value, int):
                ir_version = value
            elif isinstance(value, memoryview):
                if field == 2:
                    producer = bytes(value).decode(errors="replace")
                elif field == 3:
                    version = bytes(value).decode(errors="replace")
                elif field == 8:
                    opsets |= _opset(value)
    except (IndexError, ValueError):
        return Header()
    return Header(ir_version, f"{producer} {version}".strip(), opsets)


def _opset(message: memoryview) -> dict[str, int]:
    found = dict(fields(message))
    domain, version = found.get(1), found.get(2, 0)
    name = bytes(domain).decode(errors="replace") if isinstance(domain, memoryview) else ""
    return {name or "ai.onnx": version if isinstance(version, int) else 0}


def fields(message: memoryview) -> list[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message."""
    found: list[tuple[int, int | memoryview]] = []
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
            if at > len(message):
                raise ValueError("a field goes over the end")
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"wire type {wire} is not protobuf's")
        found.append((tag >> 3, value))
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
