"""Bytes to events and back: nothing raises, everything is accounted for, and no reject tells what a message held."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from events import CARD, MESSAGES, ODD_VALUES, TRANSACTIONS, records, spoilt_values, transaction, value
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import MAX_PAYLOAD_BYTES, REASONS, JsonCodec, RefusedError, codec_for, decode_records, encode
from schemas.fraud import FraudScore, Reason, Transaction
from streams.settings import TopicSettings

CODEC = JsonCodec(Transaction)

BAD_VALUES = {
    "tombstone": (None, "tombstone", ""),
    "empty": (b"", "empty_payload", ""),
    "two megabytes": (value(note="x" * 2_000_000), "payload_too_large", ""),
    "half a document": (value()[:20], "invalid_json", ""),
    "two documents": (value() + value(), "invalid_json", ""),
    "no JSON": (b"\x00\x01", "invalid_json", ""),
    "byte order mark": (b"\xef\xbb\xbf" + value(), "invalid_json", ""),
    "half a surrogate pair": (value().replace(b"event-1", b"\\ud800"), "invalid_json", ""),
    "broken UTF-8": (value().replace(b"event-1", b"\xff\xfe"), "invalid_encoding", ""),
    "10,000 brackets": (b"[" * 10_000, "invalid_field", "$"),
    "10,000 deep in an unknown field": (
        b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"," + value()[1:],
        "nesting_too_deep",
        "",
    ),
    "a list": (b"[]", "invalid_field", "$"),
    "null": (b"null", "invalid_field", "$"),
    "NaN": (value(amount=math.nan), "not_finite", "$.amount"),
    "minus infinity": (value(home_lat=-math.inf), "not_finite", "$.home_lat"),
    "NaN in an unknown field": (value(**{CARD: math.nan}), "not_finite", ""),
    "1e999": (value().replace(b"12.5", b"1e999"), "not_finite", "$.amount"),
    "no amount": (value(amount=...), "missing_field", "$.amount"),
    "amount as text": (value(amount=CARD), "invalid_field", "$.amount"),
    "amount of nothing": (value(amount=0), "invalid_field", "$.amount"),
    "negative amount": (value(amount=-5), "invalid_field", "$.amount"),
    "event time as a bool": (value(event_time=True), "invalid_field", "$.event_time"),
    "event time missing": (value(event_time=None), "invalid_field", "$.event_time"),
    "empty event id": (value(event_id=""), "invalid_field", "$.event_id"),
    "event id of 300 characters": (value(event_id="x" * 300), "invalid_field", "$.event_id"),
    "age of 200": (value(age=200), "invalid_field", "$.age"),
    "latitude of 91": (value(merchant_lat=91), "invalid_field", "$.merchant_lat"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_value_becomes_a_reject(name: str) -> None:
    """A value that is no event becomes a reject with a stable reason and the path of the field at fault."""
    bad, reason, path = BAD_VALUES[name]
    batch = records([value(), bad, value()])

    events, kept, rejects = CODEC.decode_records(batch)

    assert [0, 2] == [record.offset for record in kept]
    assert 2 == len(events)
    assert [(batch[1], reason, path)] == [(r.record, r.reason, r.path) for r in rejects]
    assert CARD not in rejects[0].detail
    assert rejects[0].detail.endswith(".")


@pytest.mark.parametrize("name", [name for name, (bad, *_) in BAD_VALUES.items() if bad])
def test_one_value_is_refused_alike(name: str) -> None:
    """`decode` refuses a single value for the same reason as a batch does; only the size is not its matter."""
    bad, reason, path = BAD_VALUES[name]
    if reason == "payload_too_large":
        assert "event-1" == CODEC.decode(bad).event_id
        return

    with pytest.raises(RefusedError) as caught:
        CODEC.decode(bad)

    assert (reason, path) == (caught.value.reason, caught.value.path)


def test_good_batch_comes_back_whole() -> None:
    """A batch without a bad value comes back as events and the very records, in order."""
    batch = records([value(event_id=f"event-{n}") for n in range(100)])

    events, kept, rejects = CODEC.decode_records(batch)

    assert [f"event-{n}" for n in range(100)] == [event.event_id for event in events]
    assert batch == kept
    assert [] == rejects


def test_empty_batch() -> None:
    """No records give no events."""
    assert ([], [], []) == CODEC.decode_records([])


def test_unknown_fields_are_ignored() -> None:
    """A sender may add fields that we do not know."""
    events, _, rejects = CODEC.decode_records(records([value(channel={"name": ["web"]})]))

    assert [msgspec.convert(transaction(), Transaction)] == events
    assert [] == rejects


def test_largest_value_is_taken() -> None:
    """A value of just the limit is decoded; one byte more is refused, with both sizes in its detail."""
    padding = MAX_PAYLOAD_BYTES - len(value(note=""))
    batch = records([value(note="x" * padding), value(note="x" * (padding + 1))])

    events, _, rejects = CODEC.decode_records(batch)

    assert 1 == len(events)
    assert ["The value has 1,048,577 bytes; 1,048,576 are accepted."] == [r.detail for r in rejects]


def test_good_values_are_decoded_once() -> None:
    """Bad values do not make the good ones around them be decoded again."""
    seen: list[bytes] = []

    class CountingDecoder:
        def decode(self, value: bytes) -> Transaction:
            seen.append(value)
            return CODEC.decode(value)

    batch = records([b"{", value(event_id="a"), b"[", b"{", value(event_id="b")])
    events, kept, rejects = decode_records(batch, CountingDecoder())

    assert [r.value for r in batch] == seen
    assert ["a", "b"] == [event.event_id for event in events]
    assert [1, 4] == [record.offset for record in kept]
    assert [0, 2, 3] == [reject.record.offset for reject in rejects]


def test_fault_of_the_world_is_raised() -> None:
    """What is no fault of the data, such as a registry that is away, is no reject: the batch is to be tried again."""

    class CutOffDecoder:
        def decode(self, value: bytes) -> Transaction:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        decode_records(records([value()]), CutOffDecoder())


@settings(max_examples=1500, deadline=None)
@given(st.lists(spoilt_values() | st.binary(max_size=30) | st.just(value()) | st.none(), max_size=8))
def test_every_record_is_accounted_for(values: list[bytes | None]) -> None:
    """Whatever the bytes, each record ends as one event or one reject, in order, with a known reason."""
    batch = records(values)

    events, kept, rejects = CODEC.decode_records(batch)

    assert len(events) == len(kept)
    assert batch == sorted([*kept, *(r.record for r in rejects)], key=lambda record: record.offset)
    assert sorted(kept, key=lambda record: record.offset) == kept
    assert {r.reason for r in rejects} <= REASONS.keys()
    encode(events)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(transaction())), ODD_VALUES, st.text(max_size=5))
def test_reject_never_tells_the_value(field: str, odd: object, extra: str) -> None:
    """The card number is in no reject's path or detail, wherever it stood in the message."""
    changed = {CARD: odd, extra: {CARD: CARD}} | ({field: CARD} if odd is None else {field: odd})
    batch = records([value(**changed), value(**changed)[:-1], value(**changed).replace(CARD.encode(), b"\xff")])

    _, _, rejects = CODEC.decode_records(batch)

    assert not [r for r in rejects if CARD in r.path + r.detail]


@settings(max_examples=300, deadline=None)
@given(st.lists(TRANSACTIONS, max_size=3))
def test_transactions_survive_json(events: list[Transaction]) -> None:
    """What is encoded is decoded again, equal."""
    assert events == CODEC.decode_records(records(list(encode(events))))[0]


@pytest.mark.parametrize("type_", MESSAGES)
def test_every_message_survives_json(type_: type) -> None:
    """Messages of every topic are decoded equal to what was encoded."""
    codec = codec_for("any", type_)

    @settings(max_examples=100, deadline=None)
    @given(MESSAGES[type_])
    def check(event: object) -> None:
        assert event == codec.decode(codec.encode([event])[0])

    check()


def test_not_a_number_becomes_null() -> None:
    """NaN and infinities are written as null: the result is valid JSON for every reader."""
    score = FraudScore(
        event_id="event-1",
        card_token="token",
        merchant="merchant-1",
        probability=0.5,
        decision="review",
        reasons=[Reason("amount", math.inf)],
        features={"amount": math.nan, "hour": 3.0},
        model="fraud@1",
        event_time=1,
        scored_at=2,
        latency_ms=-math.inf,
        late=False,
        amount=1.0,
    )

    decoded = json.loads(encode([score])[0], parse_constant=pytest.fail)

    assert {"amount": None, "hour": 3.0} == decoded["features"]
    assert [None, None] == [decoded["latency_ms"], decoded["reasons"][0]["contribution"]]


def test_topic_settings_choose_the_format() -> None:
    """JSON is the default; another format needs the registry, and says which setting is missing."""
    assert isinstance(codec_for("t", Transaction), JsonCodec)
    assert isinstance(codec_for("t", Transaction, TopicSettings("json")), JsonCodec)
    with pytest.raises(ValueError, match=r"Topic t needs the schema registry: set registry\.url"):
        codec_for("t", Transaction, TopicSettings("avro"))
    with pytest.raises(ValueError, match="use json, avro or protobuf"):
        codec_for("t", Transaction, TopicSettings("xml"))  # type: ignore[arg-type]


def test_reasons_are_sentences() -> None:
    """Every reason is one word to group by and has a sentence for a person."""
    assert all(reason.replace("_", "").islower() and text.endswith(".") for reason, text in REASONS.items())
