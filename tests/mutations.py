"""Strategies for messages of `transactions` as no producer should send them, mixed with good ones.

A message is drawn from few choices, so that ten thousand are drawn in seconds and a failing list shrinks to what is
wrong with it. Values are put together from raw pieces of JSON: Python's own encoder could not write most of them.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from schemas.dead_letter import HEADERS
from schemas.envelope import Record

Headers = tuple[tuple[str, bytes | None], ...]

FRESH = b"@fresh@"
"""Stands for an event id of the message's own until the messages are numbered."""
CARDS = ("4111111111111111", "4000056655665556", "30569309025904")
DEPTH = 10_000


class Sent(NamedTuple):
    """A message before it is sent."""

    value: bytes | None
    key: bytes | None = b"4111111111111111"
    headers: Headers = ()
    age_ms: int = 0
    """How long before now its timestamp lies; brokers refuse one that lies an hour ahead."""


def fragments(now_ms: int) -> dict[str, bytes]:
    """The fields of a good transaction, each as JSON."""
    return {
        "event_id": b'"' + FRESH + b'"',
        "card": b'"4111111111111111"',
        "merchant": b'"merchant-1"',
        "amount": b"12.5",
        "event_time": b"%d" % now_ms,
        "category": b'"grocery_pos"',
        "currency": b'"USD"',
        "merchant_lat": b"48.2",
        "merchant_lon": b"16.37",
        "home_lat": b"48.3",
        "home_lon": b"16.4",
        "age": b"41",
        "gender": b'"F"',
        "region": b'"CA"',
    }


def document(fields: Sequence[tuple[str, bytes]]) -> bytes:
    """A JSON object of these members, in order, repeated ones included."""
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), raw) for name, raw in fields) + b"}"


def text(characters: str) -> bytes:
    """A JSON string without escapes."""
    return b'"' + characters.encode() + b'"'


# Any of these as any field: wrong types, numbers that are none, and what almost fits.
ODD: list[bytes] = [
    *(b"null", b"true", b"false", b"[]", b"{}", b"[[[]]]", b'{"a":1}', b"", b"undefined", b"'x'"),
    *(b"NaN", b"Infinity", b"-Infinity", b'"NaN"', b'"Infinity"', b'"-inf"', b"nan", b"1e999", b"-1e999"),
    *(b"0", b"-0", b"-0.0", b"0.0", b"-1", b"-12.5", b"1", b"01", b"+1", b"1.", b".5", b"0x10", b"1_000", b"1,5"),
    *(b"1e308", b"-1e308", b"1.7976931348623157e308", b"1e9", b"1e8", b"100000000.00000001", b"100000000.1", b"5e-324"),
    *(b"2147483648", b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808"),
    *(b"-9223372036854775809", b"18446744073709551616", b"1" * 400, b"-" + b"9" * 5000, b"0." + b"3" * 5000),
    *(b"1e-400", b"0e999999999", b"1E+2", b"12.5e0", b'"12.5"', b'"1e3"', b'"0"', b'"true"', b'"null"'),
    *(b'""', b'" "', text("x" * 64), text("x" * 65), text("x" * 256), text("x" * 257), text("x" * 10_000)),
    *(text("日" * 64), text("💳" * 256), b'"' + b"\\ud83d\\udca5" * 256 + b'"', b'"' + b"\\u0001" * 256 + b'"'),
    *(b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\udcb3"', b'"\\u202e"', b'"\\n\\t\\r"', b'"\\x41"'),
    *(b'"a\nb"', b'"a\x00b"', b'"\xff\xfe"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"'),
    *(b'"unterminated', b'"4111111111111111"', b"4111111111111111", b'"merchant-1"', b'"no_such_category"', b'"US"'),
    *(b'"USDX"', b"91", b"-180.5", b"90.0", b"180", b"131", b"130", b"1.5", b'"M"', b'"; DROP TABLE fraud_scores"'),
]

# As the time: all forms, in and out of what is accepted; relative ones are made in `_time`.
TIMES: list[bytes] = [
    *(b"0", b'"1970-01-01T00:00:00Z"', b'"2200-01-01T00:00:00Z"', b"7258118400000", b'"1999-12-31T23:59:59.999Z"'),
    *(b'"2000-01-01T00:00:00Z"', b"946684800000", b"946684799999", b'"2026-01-31T12:00:00"', b'"2026-01-31"'),
    *(b'"2026-01-31T12:00:00+02:00"', b'"2026-01-31T12:00:00.123456789Z"', b'"2026-01-31 12:00:00Z"', b'"noon"'),
    *(b'"2026-02-30T12:00:00Z"', b'"2026-01-31T24:00:00Z"', b'"2016-12-31T23:59:60Z"', b'"0000-01-01T00:00:00Z"'),
    *(b'"9999-12-31T23:59:59Z"', b'"10000-01-01T00:00:00Z"', b'"2026-01-31T12:00:00+99:99"', b"1769860800.25"),
    *(b"1769860800", b"1769860800250.75", b"1.76986080025e12", b"253402300800000", b"-1", b"-62135596800000"),
    *(b"9223372036854775807", b"-9223372036854775808", b"18446744073709551616", b"1e18", b"true", b'"1769860800250"'),
    *(b'"20260131T120000Z"', b'"\xef\xbc\x92026-01-31T12:00:00Z"', b'""', b"NaN", b"null", b"[]"),
]

WHOLE: list[bytes | None] = [
    *(None, b"", b" ", b"\n", b"\x00", b"null", b"true", b"0", b"NaN", b'"text"', b"[]", b"[1,2]", b"{}", b"{", b"}"),
    *(b"[" * DEPTH, b"[" * DEPTH + b"]" * DEPTH, b'{"a":' * DEPTH, b'{"a":' * DEPTH + b"1" + b"}" * DEPTH),
    *(b"\xff" * 40, b"\xef\xbb\xbf{}", bytes(range(256)), b"\x00\x00\x00\x00\x01{}", b"event_id,card\n1,2", b"<x/>"),
]
"""Values that are no transaction as a whole."""

KEYS: list[bytes | None] = [None, b"", b"\xff\xfe", b"k" * 1000, b"4111111111111111", b'"4111111111111111"', b"\x00"]

FORGED: Headers = tuple((name, b"0" if name != HEADERS["reason"] else b"forged") for name in HEADERS.values())
HEADER_SETS: list[Headers] = [
    *((("trace", b"1"),), (("trace", None),), (("trace", b""),), (("", b"no name"),), (("trace", b"\xff\x00"),)),
    *((("trace", b"1"), ("trace", b"2")), (("\u00fc💳", b"x"),), (("big", b"x" * 10_000),)),
    *((("headrace-reason", b"forged"),), FORGED, (*FORGED, *FORGED), FORGED[::-1], (("headrace-retries", b"2"),)),
]

_BASE = st.sampled_from(CARDS)


@st.composite
def _good(draw: st.DrawFn, now_ms: int) -> list[tuple[str, bytes]]:
    """A transaction that is taken, unless its id was seen before."""
    fields = fragments(now_ms)
    fields["card"] = b'"%s"' % draw(_BASE).encode()
    fields["amount"] = draw(st.sampled_from([b"12.5", b"0.01", b"3", b"999.99", b"4000", b"1e8", b"5e-324", b"0.1"]))
    fields["event_time"] = draw(_time(now_ms))
    if draw(st.integers(0, 5)) == 5:
        fields["event_id"] = draw(st.sampled_from([b'"seen-1"', b'"seen-2"', b'"seen-3"']))
    for name in draw(st.sampled_from([(), (), ("category", "age"), ("merchant_lat", "home_lon"), ("currency",)])):
        del fields[name]
    return list(fields.items())


def _time(now_ms: int) -> st.SearchStrategy[bytes]:
    """Around now, in order or late; within what is accepted."""
    minutes = st.sampled_from([0, 0, 0, 0, 1, 5, 59, 61, 1439, 1441, 10_000, 43_199, 43_201, 44_641, 60_000, -60])
    return minutes.map(lambda before: b"%d" % (now_ms - before * 60_000))


def _wrong_field(fields: list[tuple[str, bytes]], choice: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    return [(name, choice[1] if name == choice[0] else raw) for name, raw in fields]


_NAMES = sorted(fragments(0))


def _odd_fields(now_ms: int) -> st.SearchStrategy[tuple[str, bytes]]:
    day = 24 * 3_600_000
    times = [*TIMES, *(b"%d" % (now_ms + ahead) for ahead in (day - 60_000, day + 60_000, 365 * day))]
    anything = st.tuples(st.sampled_from(_NAMES), st.sampled_from(ODD))
    return anything | st.tuples(st.just("event_time"), st.sampled_from(times))


_EXTRA = [
    [("channel", b'{"name":["web"]}')],
    [("x", b"[" * DEPTH + b"]" * DEPTH)],
    [("x", b"NaN")],
    [("4111111111111111", b"NaN")],
    [("x", b'"\xff"')],
    [("", b"1")],
    [("Amount", b"-1")],
    [("amount", b"-1")],
    [("amount", b"77")],
    [("event_id", b'"seen-1"')],
    [("card", b'"4000056655665556"')],
    [("card", b"null")],
    [("x", b"1" * 5000)],
    [(f"x{n}", b"1") for n in range(300)],
]


@st.composite
def _field_gone_wrong(draw: st.DrawFn, now_ms: int) -> bytes:
    """One or two fields odd, missing, doubled, or more than there should be."""
    fields = draw(_good(now_ms))
    what = draw(st.sampled_from(["odd", "odd", "odd", "two", "missing", "extra", "extra first", "twice"]))
    if what in ("odd", "two"):
        fields = _wrong_field(fields, draw(_odd_fields(now_ms)))
    if what == "two":
        fields = _wrong_field(fields, draw(_odd_fields(now_ms)))
    if what == "missing":
        gone = draw(st.sampled_from(_NAMES))
        fields = [(name, raw) for name, raw in fields if name != gone]
    if what == "extra":
        fields += draw(st.sampled_from(_EXTRA))
    if what == "extra first":
        fields = [*draw(st.sampled_from(_EXTRA)), *fields]
    if what == "twice":
        fields.append(draw(_odd_fields(now_ms)))
    return document(fields)


@st.composite
def _bytes_gone_wrong(draw: st.DrawFn, now_ms: int) -> bytes:
    """A good document cut, overwritten, doubled, packed or written in another encoding."""
    good = document(draw(_good(now_ms)))
    what = draw(st.sampled_from(["cut", "cut", "overwrite", "overwrite", "insert", "other"]))
    at = draw(st.integers(0, len(good)))
    if what == "cut":
        return good[:at]
    if what == "overwrite":
        junk = draw(st.binary(min_size=1, max_size=4))
        return good[:at] + junk + good[at + len(junk) :]
    if what == "insert":
        return (
            good[:at]
            + draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\x00", b'"', b"}", b"\\", b"NaN"]))
            + good[at:]
        )
    return draw(
        st.sampled_from(
            [
                good + good,
                good + b"\n",
                b" \t\r\n" + good,
                b"\xef\xbb\xbf" + good,
                good.decode().encode("utf-16"),
                good.decode().encode("utf-32"),
                gzip.compress(good, mtime=0),
                b"[" + good + b"]",
                good.replace(b'"', b"'"),
                good[:-1] + b",}",
                b"/* */" + good,
                b"\x00\x00\x00\x00\x01" + good,
                good.hex().encode(),
            ]
        )
    )


_KINDS = ["good"] * 5 + ["field"] * 4 + ["bytes"] * 2 + ["whole"]
_AGES = [0] * 6 + [1000, 3_599_000, 3_601_000, 90_000_000, -1_800_000]


@st.composite
def messages(draw: st.DrawFn, now_ms: int) -> Sent:
    """A message, good ones about as often as bad ones."""
    kind = draw(st.sampled_from(_KINDS))
    value: bytes | None
    if kind == "good":
        value = document(draw(_good(now_ms)))
    elif kind == "field":
        value = draw(_field_gone_wrong(now_ms))
    elif kind == "bytes":
        value = draw(_bytes_gone_wrong(now_ms))
    else:
        value = draw(st.sampled_from(WHOLE))
    envelope = draw(st.sampled_from(["plain", "plain", "plain", "odd"]))
    if envelope == "plain":
        return Sent(value, draw(st.sampled_from(CARDS)).encode())
    return Sent(
        value,
        draw(st.sampled_from(KEYS)),
        draw(st.sampled_from(HEADER_SETS)),
        draw(st.sampled_from([*_AGES, now_ms - 1])),
    )


def numbered(drawn: Sequence[Sent]) -> list[Sent]:
    """Gives every message that asks for it an event id of its own."""
    return [
        sent._replace(value=sent.value.replace(FRESH, b"event-%d" % n)) if sent.value else sent
        for n, sent in enumerate(drawn)
    ]


def as_records(drawn: Sequence[Sent], now_ms: int, partition: int = 0) -> list[Record]:
    """The messages as a partition holds them."""
    return [
        Record("transactions", partition, offset, sent.key, sent.value, now_ms - sent.age_ms, sent.headers)
        for offset, sent in enumerate(numbered(drawn))
    ]


def draw_many(count: int, now_ms: int, number: int = 2026) -> list[Sent]:
    """So many messages, the same ones for the same number and time, in an order that chance made."""
    found: list[Sent] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(messages(now_ms))
    def collect(sent: Sent) -> None:
        found.append(sent)

    collect()
    Random(number).shuffle(found)
    return found
