"""The store's endpoint in ClickHouse's own blocks, as Grafana and clickhouse-go ask for them."""

from __future__ import annotations

import gzip
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_asked import Reply, answering, send
from stores import StoreProcess

from streams.store._native import frame
from streams.store._packing import CorruptBodyError, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """A store that only answers, with a table of three rows."""
    with answering(tmp_path_factory.mktemp("store")) as process:
        yield process


def go_client(store: StoreProcess, query: bytes, **url: str) -> Reply:
    """What clickhouse-go, and so Grafana's data source with protocol HTTP, sends: recorded from its source."""
    return send(store, query, default_format="Native", client_protocol_version="54460", max_execution_time="60", **url)


def read_blocks(data: bytes) -> list[tuple[list[tuple[str, str]], int]]:
    """Names, types and row count of Native blocks of revision 54460, for columns of UInt64 alone."""
    blocks, at = [], 0
    while at < len(data):
        assert data[at : at + 8] == b"\x01\x00\x02\xff\xff\xff\xff\x00"
        columns, rows = data[at + 8], data[at + 9]
        at += 10
        found = []
        for _ in range(columns):
            name = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
            kind = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
            assert data[at] == 0
            at += 1 + 8 * rows
            found.append((name.decode(), kind.decode()))
        blocks.append((found, rows))
    return blocks


def test_grafanas_requests_are_answered(store: StoreProcess) -> None:
    """Its greeting, queries in gzip and in ClickHouse's own blocks, and answers without rows are as it expects."""
    hello = go_client(store, b"SELECT displayName(), version(), revision(), timezone()")
    query = b"SELECT a, a + 1 AS b FROM t"
    plain = go_client(store, query, h_Accept_Encoding="gzip")
    zipped = go_client(store, query, h_Accept_Encoding="gzip", enable_http_compression="1")
    blocks = go_client(store, query, compress="1")
    empty = go_client(store, b"SELECT a FROM t WHERE 0")
    failed = go_client(store, b"SELECT nope", compress="1")

    assert b"UInt32" in hello.body
    assert [([("a", "UInt64"), ("b", "UInt64")], 3)] == read_blocks(plain.body)
    assert plain.body == gzip.decompress(zipped.body) == unpack(blocks.body, 10**6)
    assert [([("a", "UInt64")], 0)] == read_blocks(empty.body)
    assert unpack(failed.body, 10**6).startswith(b"Code: 47.")


TYPES = [
    "a",
    "s",
    "n",
    "toString(a)",
    "[a, 1]",
    "arrayFilter(x -> 0, [s])",
    "[s]",
    "map(s, [a])",
    "(a, s, [(s, a)])",
    "toLowCardinality(toNullable(s))",
    "CAST(a AS Enum8('a, (b' = 1, 'c' = 2, 'd' = 3))",
    "toDecimal128(a, 3)",
    "toDateTime64(a, 6, 'UTC')",
    "toUUID('00000000-0000-0000-0000-00000000000' || toString(a))",
    "repeat(toString(s), 200)",
    "toFixedString(toString(s), 4)",
    "NULL",
    "[NULL, a]",
    "CAST([(1, 'x')] AS Nested(`a b` UInt8, c String))",
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(TYPES), min_size=1, max_size=6), st.sampled_from([1, 2, 65_536]))
def test_every_protocol_version_gets_the_same_rows(store: StoreProcess, columns: list[str], block: int) -> None:
    """Framed for a client's version, an answer holds the same columns: only the marks between them differ."""
    query = f"SELECT {', '.join(f'{column} AS c{at}' for at, column in enumerate(columns))} FROM t ORDER BY a"
    ask = {"default_format": "Native", "max_block_size": str(block)}
    old = send(store, query.encode(), **ask)
    new = send(store, query.encode(), client_protocol_version="54460", **ask)
    blocks = new.body.count(b"\x01\x00\x02\xff\xff\xff\xff\x00")

    assert 200 == new.status
    assert frame(old.body, 54460) == new.body
    assert len(old.body) + blocks * (8 + len(columns)) == len(new.body)


@given(st.binary(max_size=5000), st.integers(0, 4999), st.integers(1, 255))
def test_blocks_are_packed_and_checked(body: bytes, at: int, change: int) -> None:
    """What is packed is unpacked again; one changed byte is noticed, never another content."""
    packed = bytearray(pack(body))

    assert body == unpack(bytes(packed), 10_000)
    if packed:
        packed[at % len(packed)] ^= change
        with pytest.raises(CorruptBodyError):
            unpack(bytes(packed), 10_000)


@given(st.binary(max_size=300))
def test_unpacking_survives_any_bytes(body: bytes) -> None:
    """Bytes that are no blocks are an error of ours, not a crash."""
    with suppress(CorruptBodyError):
        unpack(body, 10_000)


def test_blocks_have_clickhouses_own_checksums(store: StoreProcess) -> None:
    """The engine's files on disk are the same blocks: they unpack, so the checksum is ClickHouse's."""
    store.ask(
        "CREATE TABLE c (a UInt64 CODEC(LZ4), b UInt64 CODEC(ZSTD(1)), c UInt64 CODEC(NONE)) ENGINE = MergeTree"
        " ORDER BY a SETTINGS min_bytes_for_wide_part = 0"
    )
    store.ask("INSERT INTO c SELECT number, number, number FROM numbers(50000)")
    [[path]] = store.ask("SELECT path FROM system.parts WHERE table = 'c' AND active")
    found = [unpack((Path(path) / f"{column}.bin").read_bytes(), 10**6) for column in "abc"]

    assert [struct.pack("<50000Q", *range(50_000))] * 3 == found
