"""Avro and Protobuf in the registry's wire format, against the client's own mock and a double over HTTP."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import fastavro
import msgspec
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from events import CARD, MESSAGES, records, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_double import RegistryDouble

from schemas import _registry
from schemas._avro import AvroCodec, avro_schema
from schemas._proto_text import proto_text
from schemas._protobuf import ProtobufCodec, file_descriptor
from schemas.codec import MAX_PAYLOAD_BYTES, REASONS, JsonCodec, codec_for
from schemas.fraud import FraudScore, Reason, Transaction
from streams.settings import RegistrySettings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.codec import Codec

EVENT = msgspec.convert(transaction(), Transaction)
SCORE = FraudScore(
    event_id="event-1",
    card_token="token",
    merchant="merchant-1",
    probability=0.5,
    decision="decline",
    reasons=[Reason("amount", 1.5), Reason("hour", -0.5)],
    features={"amount": None, "hour": 3.0},
    model="fraud@1",
    event_time=1,
    scored_at=2,
    latency_ms=0.5,
    late=True,
    amount=1.0,
)
FORMATS = {"avro": AvroCodec, "protobuf": ProtobufCodec}


@pytest.fixture
def client() -> Any:
    """A registry inside this process: the client's own mock."""
    return SchemaRegistryClient.new_client({"url": "mock://formats"})


@pytest.fixture
def registry() -> Iterator[RegistryDouble]:
    """A registry over HTTP: our double."""
    double = RegistryDouble()
    yield double
    double.close()


def mocked(format_: str, type_: type[Any], client: Any = None, topic: str = "t") -> Codec[Any]:
    """A codec whose registry is the client's mock."""
    client = client or SchemaRegistryClient.new_client({"url": "mock://formats"})
    return FORMATS[format_](topic, type_, _registry.Registry(client, "mock://formats"), MAX_PAYLOAD_BYTES)


def over_http(format_: str, type_: type[Any], url: str, user: str = "", topic: str = "t") -> Codec[Any]:
    """A codec as a worker makes it from its settings."""
    return codec_for(topic, type_, TopicSettings(format_), RegistrySettings(url, user))  # type: ignore[arg-type]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("type_", MESSAGES)
def test_every_message_survives(format_: str, type_: type) -> None:
    """Messages of every topic are decoded equal to what was encoded, nulls and nested values included."""
    codec = mocked(format_, type_)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(MESSAGES[type_], max_size=3))
    def check(events: list[Any]) -> None:
        batch = records(list(codec.encode(events)))

        assert (events, batch, []) == codec.decode_records(batch)

    check()


@pytest.mark.parametrize("format_", FORMATS)
def test_not_a_number_becomes_null_where_null_may_be(format_: str) -> None:
    """A NaN or infinity in a feature is written as null, as in JSON."""
    score = msgspec.structs.replace(SCORE, features={"amount": math.nan, "hour": math.inf, "age": 3.0})

    decoded = mocked(format_, FraudScore)

    assert {"amount": None, "hour": None, "age": 3.0} == decoded.decode(decoded.encode([score])[0]).features


@pytest.mark.parametrize("format_", FORMATS)
def test_not_a_number_is_refused(format_: str) -> None:
    """These formats can carry a NaN where JSON cannot: it is refused with the field's path."""
    codec = mocked(format_, Transaction)
    bad = [msgspec.structs.replace(EVENT, amount=math.nan), msgspec.structs.replace(EVENT, event_time=math.inf)]

    _, _, rejects = codec.decode_records(records(list(codec.encode(bad))))

    assert [("not_finite", "$.amount"), ("not_finite", "$.event_time")] == [(r.reason, r.path) for r in rejects]


@pytest.mark.parametrize("format_", FORMATS)
def test_bounds_hold(format_: str) -> None:
    """What JSON refuses, these refuse alike: bounds of numbers and lengths."""
    codec, json_codec = mocked(format_, Transaction), JsonCodec(Transaction)
    bad = [
        msgspec.structs.replace(EVENT, amount=-1.0),
        msgspec.structs.replace(EVENT, card=""),
        msgspec.structs.replace(EVENT, age=200),
    ]

    _, _, rejects = codec.decode_records(records(list(codec.encode(bad))))
    _, _, expected = json_codec.decode_records(records(list(json_codec.encode(bad))))

    assert [(r.reason, r.path, r.detail) for r in expected] == [(r.reason, r.path, r.detail) for r in rejects]


@pytest.mark.parametrize("format_", FORMATS)
def test_bad_bytes_become_rejects(format_: str) -> None:
    """Frames, ids and bodies that are wrong have their reasons, and good ones between them are decoded."""
    codec = mocked(format_, Transaction)
    (good,) = codec.encode([EVENT])
    values: dict[str, bytes | None] = {
        "tombstone": None,
        "empty_payload": b"",
        "invalid_framing": b"{" + good[1:],
        "unknown_schema": good[:1] + (77).to_bytes(4, "big") + good[5:],
        "truncated": good[:-3],
        "payload_too_large": good + b"x" * MAX_PAYLOAD_BYTES,
    }

    events, _, rejects = codec.decode_records(records([good, *values.values(), good, good[:4]]))

    assert [EVENT, EVENT] == events
    assert [*values, "invalid_framing"] == [r.reason for r in rejects]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("type_", [Transaction, FraudScore])
def test_mutated_bytes_are_accounted_for(format_: str, type_: type) -> None:
    """Whatever happens to the bytes, each record ends as an event or a reject, and no reject tells a card."""
    codec = mocked(format_, type_)
    (good,) = codec.encode([EVENT if type_ is Transaction else SCORE])

    @settings(max_examples=400, deadline=None)
    @given(st.integers(0, len(good)), st.integers(0, 3), st.binary(max_size=4))
    def check(start: int, length: int, inserted: bytes) -> None:
        batch = records([good, good[:start] + inserted + good[start + length :], good])

        events, kept, rejects = codec.decode_records(batch)

        assert len(events) == len(kept)
        assert 3 == len(kept) + len(rejects)
        assert {r.reason for r in rejects} <= REASONS.keys()
        assert not [r for r in rejects if CARD in r.path + r.detail]

    check()


def test_avro_that_others_write(client: Any) -> None:
    """What Confluent's own serialiser writes is read here, and the reverse."""
    context = SerializationContext("t", MessageField.VALUE)
    codec = mocked("avro", Transaction, client)
    theirs = AvroSerializer(client, msgspec.json.encode(avro_schema(Transaction)).decode())(
        msgspec.to_builtins(EVENT), context
    )

    assert EVENT == codec.decode(theirs)
    assert msgspec.to_builtins(EVENT) == AvroDeserializer(client)(codec.encode([EVENT])[0], context)


def test_protobuf_that_others_read(client: Any) -> None:
    """What is written here is read by Confluent's own deserialiser, with the class of the message."""
    codec = mocked("protobuf", FraudScore, client)
    assert isinstance(codec, ProtobufCodec)
    deserialiser = ProtobufDeserializer(codec._message, {"use.deprecated.format": False}, client)

    message = deserialiser(codec.encode([SCORE])[0], SerializationContext("t", MessageField.VALUE))

    assert ("event-1", 0.5, 2) == (message.event_id, message.probability, len(message.reasons))
    assert {"amount": False, "hour": True} == {name: v.HasField("value") for name, v in message.features.items()}


@pytest.mark.parametrize("indexes", [b"\x00", b"\x02\x00", b"\x04\x02\x00"])
def test_message_indexes_are_skipped(indexes: bytes) -> None:
    """A writer whose file declares more messages says which one this is; fields are read by number all the same."""
    codec = mocked("protobuf", Transaction)
    (good,) = codec.encode([EVENT])

    assert EVENT == codec.decode(good[:5] + indexes + good[6:])


def test_older_avro_writer(client: Any) -> None:
    """A message written before an optional field was there gets the field's default."""
    old = avro_schema(Transaction)
    old["fields"] = [field for field in old["fields"] if field["name"] not in {"currency", "region", "age"}]
    schema_id = client.register_schema("t-value", Schema(msgspec.json.encode(old).decode(), "AVRO"))
    codec = mocked("avro", Transaction, client)
    assert isinstance(codec, AvroCodec)

    value = _registry.frame(schema_id) + written(old, msgspec.to_builtins(EVENT))

    assert EVENT == codec.decode(value)


def test_avro_writer_of_something_else(client: Any) -> None:
    """A message whose schema has nothing of ours is refused as incompatible."""
    other = {"type": "record", "name": "Transaction", "fields": [{"name": "event_id", "type": "long"}]}
    schema_id = client.register_schema("t-value", Schema(msgspec.json.encode(other).decode(), "AVRO"))

    _, _, rejects = mocked("avro", Transaction, client).decode_records(
        records([_registry.frame(schema_id) + written(other, {"event_id": 1})])
    )

    assert ["incompatible_schema"] == [r.reason for r in rejects]


def test_schema_of_another_kind(client: Any) -> None:
    """A Protobuf message on an Avro topic is refused as incompatible, and says which kind it is."""
    (value,) = mocked("protobuf", Transaction, client, "other").encode([EVENT])

    _, _, rejects = mocked("avro", Transaction, client).decode_records(records([value]))

    assert [("incompatible_schema", "Schema 1 is PROTOBUF, not AVRO.")] == [(r.reason, r.detail) for r in rejects]


def written(schema: dict[str, Any], plain: dict[str, Any]) -> bytes:
    """The Avro body that a writer with a schema of its own makes."""
    import io

    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema, named_schemas={}), plain)
    return stream.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_schemas_over_http(format_: str, registry: RegistryDouble) -> None:
    """One process registers under `<topic>-value` once; another finds the schema by its id, asking once."""
    writer = over_http(format_, Transaction, registry.url)
    batch = records([*writer.encode([EVENT]), *writer.encode([EVENT])])

    # `connect` keeps one client a process; a second process has its own.
    _registry.connect.cache_clear()
    reader = over_http(format_, Transaction, registry.url)

    assert [EVENT, EVENT] == reader.decode_records(batch)[0]
    assert {"t-value": [1]} == registry.subjects
    assert ["POST /subjects/t-value/versions", "GET /schemas/ids/1"] == registry.requests


def test_unknown_id_is_asked_for_once(registry: RegistryDouble) -> None:
    """A flood of messages with an id that nobody registered does not flood the registry."""
    value = _registry.frame(9) + b"x"

    _, _, rejects = over_http("avro", Transaction, registry.url).decode_records(records([value] * 50))

    assert ["unknown_schema"] * 50 == [r.reason for r in rejects]
    assert ["GET /schemas/ids/9"] == registry.requests


def test_incompatible_schema_is_ours_to_solve(registry: RegistryDouble) -> None:
    """A schema that the subject's rule refuses stops us at once, and the error says what to do."""
    changed = msgspec.defstruct("Transaction", [("event_id", int)])
    over_http("avro", Transaction, registry.url).encode([EVENT])

    with pytest.raises(_registry.IncompatibleSchemaError, match=r"subject t-value: .*headrace schema diff"):
        over_http("avro", changed, registry.url).encode([changed(1)])


def test_registry_away_is_no_reject() -> None:
    """Where the registry cannot be asked the batch fails, to be tried again; no event is blamed."""
    double = RegistryDouble()
    (value,) = over_http("avro", Transaction, double.url).encode([EVENT])
    double.close()
    client = SchemaRegistryClient({"url": double.url, "max.retries": 0, "timeout": 1})
    codec: Codec[Any] = AvroCodec("t", Transaction, _registry.Registry(client, double.url), MAX_PAYLOAD_BYTES)

    with pytest.raises(_registry.RegistryUnavailableError, match=r"check registry\.url"):
        codec.decode_records(records([value]))


def test_registry_with_a_password() -> None:
    """Credentials of the settings are sent; wrong ones are an error that names the setting, and not the password."""
    double = RegistryDouble("user:secret")
    try:
        over_http("avro", Transaction, double.url, "user:secret").encode([EVENT])
        with pytest.raises(_registry.RegistryUnavailableError, match=r"registry\.basic_auth") as caught:
            over_http("avro", Transaction, double.url, "user:guessed").encode([EVENT])
    finally:
        double.close()

    assert "guessed" not in str(caught.value)


class Part(msgspec.Struct):
    """A Struct that stands in two places of another."""

    name: str


class Whole(msgspec.Struct):
    """Every shape that a message may have."""

    first: Part
    second: Part | None = None
    many: list[Part] = []
    named: dict[str, Part] = {}
    holes: list[int | None] = []
    mixed: list[int | str] = []
    data: bytes = b""
    flag: bool | str = False


WHOLES = st.builds(
    Whole,
    first=st.builds(Part, st.text("ab")),
    second=st.none() | st.builds(Part, st.text("ab")),
    many=st.lists(st.builds(Part, st.text("ab")), max_size=2),
    named=st.dictionaries(st.text("ab"), st.builds(Part, st.text("ab")), max_size=2),
    holes=st.lists(st.none() | st.integers(-5, 5), max_size=3),
    mixed=st.lists(st.integers(-5, 5) | st.text("ab"), max_size=3),
    data=st.binary(max_size=5),
    flag=st.booleans() | st.text("ab"),
)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_shape_survives(format_: str) -> None:
    """Nested, repeated, named, missing and mixed values survive, whichever domain brings them."""
    codec = mocked(format_, Whole)

    @settings(max_examples=100, deadline=None)
    @given(WHOLES)
    def check(whole: Whole) -> None:
        assert whole == codec.decode(codec.encode([whole])[0])

    check()


def test_shapes_that_protobuf_does_not_have() -> None:
    """A type without a Protobuf form is an error that names the field, when the codec is made."""
    lists = msgspec.defstruct("Lists", [("rows", list[list[int]])])
    null = msgspec.defstruct("Null", [("name", str | None, "unknown")])

    with pytest.raises(TypeError, match="Field rows has no Protobuf type"):
        file_descriptor(lists)
    with pytest.raises(TypeError, match=r"Null\.name may be None"):
        file_descriptor(null)


def test_source_of_a_protobuf_file() -> None:
    """The source for protoc declares the fields by number, in order, with what is nested in them."""
    assert (
        'syntax = "proto3";\n'
        "\n"
        "package headrace.test_schemas_formats;\n"
        "\n"
        "message Whole {\n"
        "  message Part {\n"
        "    optional string name = 1;\n"
        "  }\n"
        "  message HolesValue {\n"
        "    optional int64 value = 1;\n"
        "  }\n"
        "  message MixedValue {\n"
        "    oneof value {\n"
        "      int64 integer = 1;\n"
        "      string text = 2;\n"
        "    }\n"
        "  }\n"
        "  message FlagValue {\n"
        "    oneof value {\n"
        "      bool flag = 1;\n"
        "      string text = 2;\n"
        "    }\n"
        "  }\n"
        "  Part first = 1;\n"
        "  Part second = 2;\n"
        "  repeated Part many = 3;\n"
        "  map<string, Part> named = 4;\n"
        "  repeated HolesValue holes = 5;\n"
        "  repeated MixedValue mixed = 6;\n"
        "  optional bytes data = 7;\n"
        "  FlagValue flag = 8;\n"
        "}\n"
    ) == proto_text(file_descriptor(Whole))
