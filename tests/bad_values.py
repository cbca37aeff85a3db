"""Bad input of the fraud domain one by one: what is wrong with it, and what becomes of it."""

from __future__ import annotations

import os

from mutations import DEPTH, FORGED, FRESH, Sent, document, fragments

NOW = 1_790_000_000_000


def good(**raw: bytes) -> bytes:
    """A good transaction with some of its fields written otherwise."""
    return document(list((fragments(NOW) | raw).items())).replace(FRESH, b"event-1")


def without(field: str) -> bytes:
    """A good transaction that lacks a field."""
    return good(**{field: b""}).replace(b'"%s":,' % field.encode(), b"")


SCORED = ("scored", "event-1")
TIME = "$.event_time"

BAD_VALUES: dict[str, tuple[bytes | None, tuple[str, str]]] = {
    "good": (good(), SCORED),
    "no JSON": (b"hello", ("invalid_json", "")),
    "truncated": (good()[:-1], ("invalid_json", "")),
    "two documents": (good() + good(), ("invalid_json", "")),
    "a list": (b"[" + good() + b"]", ("invalid_field", "$")),
    "amount as text": (good(amount=b'"12.5"'), ("invalid_field", "$.amount")),
    "amount NaN": (good(amount=b"NaN"), ("not_finite", "$.amount")),
    "amount Infinity": (good(amount=b"Infinity"), ("not_finite", "$.amount")),
    "amount -Infinity": (good(amount=b"-Infinity"), ("not_finite", "$.amount")),
    'amount "NaN"': (good(amount=b'"NaN"'), ("invalid_field", "$.amount")),
    "amount 1e999": (good(amount=b"1e999"), ("not_finite", "$.amount")),
    "amount of 5,000 digits": (good(amount=b"9" * 5000), ("not_finite", "$.amount")),
    "amount negative": (good(amount=b"-12.5"), ("invalid_field", "$.amount")),
    "amount zero": (good(amount=b"0"), ("invalid_field", "$.amount")),
    "amount 1e308": (good(amount=b"1e308"), ("invalid_field", "$.amount")),
    "amount 1e9": (good(amount=b"1e9"), ("invalid_field", "$.amount")),
    "amount at the limit": (good(amount=b"1e8"), SCORED),
    "amount tiny": (good(amount=b"5e-324"), SCORED),
    "1970": (good(event_time=b'"1970-01-01T00:00:00Z"'), ("time_too_old", TIME)),
    "1970 in milliseconds": (good(event_time=b"0"), ("time_too_old", TIME)),
    "seconds for milliseconds": (good(event_time=b"1790000000"), ("time_too_old", TIME)),
    "2200": (good(event_time=b'"2200-01-01T00:00:00Z"'), ("time_in_future", TIME)),
    "a day and a minute ahead": (good(event_time=b"%d" % (NOW + 86_460_000)), ("time_in_future", TIME)),
    "a day ahead": (good(event_time=b"%d" % (NOW + 86_400_000)), SCORED),
    "41 days ago": (good(event_time=b"%d" % (NOW - 41 * 86_400_000)), SCORED),
    "naive time": (good(event_time=b'"2026-09-21T12:00:00"'), ("naive_time", TIME)),
    "garbage for a time": (good(event_time=b'"yesterday"'), ("invalid_time", TIME)),
    "30 February": (good(event_time=b'"2026-02-30T12:00:00Z"'), ("invalid_time", TIME)),
    "time with fraction": (good(event_time=b"%d.75" % NOW), SCORED),
    "time as a bool": (good(event_time=b"true"), ("invalid_field", TIME)),
    "time beyond int64": (good(event_time=b"9223372036854775808"), ("invalid_time", TIME)),
    "time of 400 digits": (good(event_time=b"1" * 400), ("invalid_time", TIME)),
    "empty": (b"", ("empty_payload", "")),
    "2 MB": (good(note=b'"' + b"x" * 2_000_000 + b'"'), ("payload_too_large", "")),
    "tombstone": (None, ("tombstone", "")),
    "broken UTF-8": (good(merchant=b'"caf\xe9"'), ("invalid_encoding", "")),
    "broken UTF-8 in a field that nobody reads": (good(note=b'"caf\xe9"'), SCORED),
    "half a surrogate pair": (good(merchant=b'"\\ud800"'), ("invalid_json", "")),
    "surrogate pair": (good(merchant=b'"\\ud83d\\udcb3"'), SCORED),
    "NUL in a name": (good(merchant=b'"\\u0000"'), SCORED),
    "unknown category": (good(category=b'"alchemy"'), SCORED),
    "no category": (without("category"), SCORED),
    "category of 65 characters": (good(category=b'"' + b"x" * 65 + b'"'), ("invalid_field", "$.category")),
    "category of 10 kB": (good(category=b'"' + b"x" * 10_000 + b'"'), ("invalid_field", "$.category")),
    "category as a number": (good(category=b"7"), ("invalid_field", "$.category")),
    "no event id": (without("event_id"), ("missing_field", "$.event_id")),
    "no card": (without("card"), ("missing_field", "$.card")),
    "card as a number": (good(card=b"4111111111111111"), ("invalid_field", "$.card")),
    "empty card": (good(card=b'""'), ("invalid_field", "$.card")),
    "merchant of 257 characters": (good(merchant=b'"' + b"x" * 257 + b'"'), ("invalid_field", "$.merchant")),
    "latitude 91": (good(merchant_lat=b"91"), ("invalid_field", "$.merchant_lat")),
    "age 131": (good(age=b"131"), ("invalid_field", "$.age")),
    "age with fraction": (good(age=b"40.5"), ("invalid_field", "$.age")),
    "brackets 10,000 deep": (b"[" * DEPTH + b"]" * DEPTH, ("invalid_field", "$")),
    "objects 10,000 deep": (b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, ("nesting_too_deep", "")),
    "10,000 deep in an unknown field": (good(note=b"[" * DEPTH + b"]" * DEPTH), ("nesting_too_deep", "")),
    "unknown fields": (good(note=b'{"name":["web"]}', card_number=b"1"), SCORED),
    "the last of doubled keys holds": (good()[:-1] + b',"amount":-1}', ("invalid_field", "$.amount")),
    "doubled keys, the last one good": (b'{"amount":1,' + good()[1:], SCORED),
    "byte order mark": (b"\xef\xbb\xbf" + good(), ("invalid_json", "")),
    "UTF-16": (good().decode().encode("utf-16"), ("invalid_json", "")),
}
"""Value, and how it ends: reason and path, or `SCORED`."""

LARGE = [
    Sent(good(note=b'"' + b"x" * 2_000_000 + b'"')),
    Sent(good(card=b'"' + b"4" * 2_000_000 + b'"'), None),
    Sent(b"\x00" * 2_000_000, b"", FORGED),
    Sent(os.urandom(2_000_000)),
    Sent(good(note=b'"' + b"x" * (2**20 - len(good(note=b'""'))) + b'"')),
    Sent(good(note=b'"' + b"x" * (2**20 + 1 - len(good(note=b'""'))) + b'"')),
    Sent(b"short", b"k" * 2_000_000),
    Sent(good(), headers=(("big", b"x" * 2_000_000),)),
]
"""About the limit of a value, and far beyond it in value, key and headers."""
