"""Compression of bodies: HTTP's (gzip, deflate, zstd, lz4) and ClickHouse's own blocks (`compress=1`).

ClickHouse's block: 16 bytes CityHash128 (version 1.0.2) of all that follows, then a byte that names the method, the
sizes of the block (these nine bytes included) and of its content, then the content. Format:
`src/Compression/CompressedReadBufferBase.cpp` of ClickHouse.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import TYPE_CHECKING

import lz4.block
import lz4.frame
from clickhouse_cityhash.cityhash import CityHash128

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
except ImportError:
    from backports import zstd

__all__ = ["CorruptBodyError", "choose", "compress", "decompress", "pack", "unpack"]

_BLOCK = 1_048_576
_HEADER = struct.Struct("<BII")
_LZ4, _ZSTD, _NONE = 0x82, 0x90, 0x02

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    # Levels that cost less than they save on a local network.
    "zstd": lambda body: zstd.compress(body, 1),
    "lz4": lz4.frame.compress,
    "gzip": lambda body: gzip.compress(body, 1),
    "deflate": lambda body: zlib.compress(body, 1),
}


class CorruptBodyError(ValueError):
    """A body that is not what it is said to be, or too big once unpacked."""


def choose(accepted: str) -> str:
    """The encoding to answer with: the first that the client lists and we know; empty for none."""
    for part in accepted.split(","):
        name, _, weight = part.strip().partition(";")
        if name.strip().lower() in _COMPRESS and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip().lower()
    return ""


def compress(body: bytes, encoding: str) -> bytes:
    """The body in one of the encodings of `choose`."""
    return _COMPRESS[encoding](body)


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """A request's body as it was before its Content-Encoding.

    Raises:
        CorruptBodyError: It is none of that encoding, unpacks to more than `most` bytes, or the encoding is unknown.
    """
    try:
        match encoding.strip().lower():
            case "" | "identity":
                return body
            case "gzip":
                unpacked = zlib.decompressobj(31).decompress(body, most + 1)
            case "deflate":
                unpacked = zlib.decompressobj().decompress(body, most + 1)
            case "zstd":
                unpacked = zstd.ZstdDecompressor().decompress(body, most + 1)
            case "lz4":
                unpacked = lz4.frame.LZ4FrameDecompressor().decompress(body, most + 1)
            case unknown:
                raise CorruptBodyError(
                    f"The Content-Encoding {unknown!r} is not known; use gzip, deflate, zstd or lz4."
                )
    except (zlib.error, zstd.ZstdError, RuntimeError, EOFError) as error:
        raise CorruptBodyError(f"The body is no {encoding}: {error}") from None
    if len(unpacked) > most:
        raise CorruptBodyError(f"The body unpacks to more than {most} bytes.")
    return bytes(unpacked)


def pack(body: bytes) -> bytes:
    """A body as ClickHouse's LZ4 blocks; nothing stays nothing."""
    blocks = []
    for start in range(0, len(body), _BLOCK):
        plain = body[start : start + _BLOCK]
        content = lz4.block.compress(plain, store_size=False)
        block = _HEADER.pack(_LZ4, len(content) + _HEADER.size, len(plain)) + content
        blocks.append(_checksum(block) + block)
    return b"".join(blocks)


def unpack(body: bytes, most: int) -> bytes:
    """What is in a body of ClickHouse's blocks.

    Raises:
        CorruptBodyError: A checksum or size does not fit, the method is unknown, or there is more than `most` bytes.
    """
    plain: list[bytes] = []
    position = total = 0
    while position < len(body):
        head = position + 16
        if len(body) < head + _HEADER.size:
            raise CorruptBodyError("The compressed body ends within a block.")
        method, size, unpacked = _HEADER.unpack_from(body, head)
        block = body[head : head + size]
        total += unpacked
        if size < _HEADER.size or len(block) < size or _checksum(block) != body[position:head]:
            raise CorruptBodyError("A block of the compressed body does not have the checksum it should.")
        if total > most:
            raise CorruptBodyError(f"The body unpacks to more than {most} bytes.")
        plain.append(_content(method, block[_HEADER.size :], unpacked))
        position = head + size
    return b"".join(plain)


def _content(method: int, content: bytes, size: int) -> bytes:
    try:
        if method == _LZ4:
            return bytes(lz4.block.decompress(content, uncompressed_size=size))
        if method == _ZSTD:
            return bytes(zstd.ZstdDecompressor().decompress(content, size))
    except (lz4.block.LZ4BlockError, zstd.ZstdError) as error:
        raise CorruptBodyError(f"A block of the compressed body cannot be read: {error}") from None
    if method == _NONE:
        return content
    raise CorruptBodyError(f"A block of the compressed body has the unknown method {method:#x}.")


def _checksum(block: bytes) -> bytes:
    value = CityHash128(block)
    return struct.pack("<QQ", value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF)
