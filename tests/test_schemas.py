"""The registry of topics, and dead letters: names that others build on, and what must never be lost or leak."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

import msgspec
import pytest
from events import CARD, MESSAGES, TEXT, value
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas import dead_letter, topics
from schemas.codec import REASONS, RefusedError
from schemas.dead_letter import HEADERS, DeadLetter, from_record, to_message, to_row, topic_name
from schemas.envelope import Message, Record, Reject
from schemas.fraud import FraudScore, Transaction, TransactionLabel
from schemas.topics import MACHINERY, TopicType, find_topic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = st.tuples(TEXT | st.sampled_from(list(HEADERS.values())), st.none() | st.binary(max_size=10))

RECORDS = st.builds(
    Record,
    topic=TEXT,
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    key=st.none() | st.binary(max_size=10),
    value=st.none() | st.binary(max_size=10),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    headers=st.lists(HEADER, max_size=4).map(tuple),
)


def written(message: Message) -> Record:
    """The record that a consumer of the dead-letter topic reads."""
    return Record(message.topic, 3, 17, message.key, message.value, 1, message.headers)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Lets a test change what there is to be found, and the next one find what was there before."""
    topics.domains.cache_clear()
    topics.topics.cache_clear()
    yield
    topics.domains.cache_clear()
    topics.topics.cache_clear()


def test_topics_of_fraud() -> None:
    """The topics, their types, directions and tables are the ones that others build on."""
    found = {
        t.name: (t.message.__name__, t.direction, t.compacted, t.table and t.table.name)
        for t in topics.domains()["fraud"]
    }

    assert {
        "transactions": ("Transaction", "input", False, None),
        "fraud-scores": ("FraudScore", "output", False, "fraud_scores"),
        "transaction-labels": ("TransactionLabel", "input", False, "transaction_labels"),
        "merchant-tallies": ("MerchantTally", "internal", False, None),
        "merchant-risk": ("MerchantRisk", "internal", True, None),
        "fraud.dead-letters": ("DeadLetter", "dead-letter", False, "fraud_dead_letters"),
    } == found
    assert set(MESSAGES) == {t.message for t in topics.domains()["fraud"]} - {DeadLetter}


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (
            Transaction,
            "event_id card merchant amount event_time category currency merchant_lat merchant_lon home_lat home_lon"
            " age gender region",
        ),
        (
            FraudScore,
            "event_id card_token merchant probability decision reasons features model event_time scored_at latency_ms"
            " late amount category currency age gender region",
        ),
        (TransactionLabel, "event_id merchant is_fraud event_time labelled_at"),
    ],
)
def test_field_names(message: type[msgspec.Struct], names: str) -> None:
    """Field names, and their order, are a promise: Protobuf numbers fields by it."""
    assert names.split() == [field.encode_name for field in msgspec.structs.fields(message)]


def test_constant_is_the_function() -> None:
    """`TOPICS` holds what `topics()` returns; another name is missing as usual."""
    assert topics.TOPICS is topics.topics()
    with pytest.raises(AttributeError, match="NONSENSE"):
        _ = topics.NONSENSE  # type: ignore[attr-defined]


def test_every_module_is_machinery_or_a_domain() -> None:
    """A module of schemas declares topics, or is named as one that does not."""
    names = {module.name for module in pkgutil.iter_modules(schemas.__path__) if not module.name.startswith("_")}

    assert names == MACHINERY | topics.domains().keys()
    assert not MACHINERY & topics.domains().keys()


def test_unknown_topic() -> None:
    """A topic that nobody declares is an error that lists the declared ones."""
    with pytest.raises(KeyError, match=r"No topic 'transaction' is declared; known are fraud-scores, .*transactions\."):
        find_topic("transaction")


def test_topic_declared_twice() -> None:
    """One name has one type: two declarations are an error that names both."""
    twice = [TopicType("t", message, "", "input", "") for message in (Transaction, FraudScore)]

    with pytest.raises(ValueError, match=r"'t' is declared twice, as schemas.fraud.Transaction and as .*FraudScore"):
        topics.by_name(twice)


def test_new_domain_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    """A module with TOPICS is a domain, without an edit elsewhere; one that fails is left out with a warning."""
    (tmp_path / "shipping.py").write_text(
        "import msgspec\nfrom schemas.topics import TopicType\n"
        "class Parcel(msgspec.Struct):\n    weight: float\n"
        'TOPICS = [TopicType("parcels", Parcel, "the parcel", "input", "Parcels.")]\n'
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('half written')\n")
    monkeypatch.setattr(schemas, "__path__", [*schemas.__path__, str(tmp_path)])

    with pytest.warns(UserWarning, match=r"Domain 'broken' is left out, .*half written"):
        found = topics.domains()

    assert ["fraud", "shipping"] == sorted(found)
    assert "Parcel" == find_topic("parcels").message.__name__


@given(RECORDS, st.sampled_from(sorted(REASONS)), TEXT, st.integers(0, 2**53))
def test_dead_letter_gives_the_record_back(record: Record, reason: str, text: str, now_ms: int) -> None:
    """Through a dead letter, the original record comes back byte for byte, even where its headers look like ours."""
    message = to_message(Reject(record, reason, f"$.{text}", text), "fraud.dead-letters", now_ms)

    letter, original = from_record(written(message))

    assert record == original
    assert (record.key, record.value) == (message.key, message.value)
    assert (
        DeadLetter(
            reason=reason,
            path=f"$.{text}",
            detail=text,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            rejected_at=now_ms,
        )
        == letter
    )


@given(RECORDS, st.integers(0, 2000))
def test_dead_letter_fits_its_topic_or_leaves_the_original_out(record: Record, max_bytes: int) -> None:
    """A letter that would be too large says how much it leaves out; one that is not is whole."""
    whole = to_message(Reject(record, "invalid_json"), "fraud.dead-letters", 4)
    letter, original = from_record(written(to_message(Reject(record, "invalid_json"), whole.topic, 4, max_bytes)))

    size = sum(len(part or b"") for part in (whole.key, whole.value, *(v for _, v in whole.headers)))
    assert letter.omitted or record == original
    assert letter.omitted or size <= max_bytes or not (record.key or record.value or record.headers)
    if letter.omitted:
        assert (None, None, ()) == (original.key, original.value, original.headers)
        assert len(record.key or b"") + len(record.value or b"") <= letter.omitted


def test_headers_of_a_dead_letter() -> None:
    """The names of the headers are a promise to whoever reads the topic without this library."""
    record = Record("transactions", 1, 2, b"key", b"value", 3, (("trace", b"x"),))

    message = to_message(Reject(record, "invalid_field", "$.amount", "Too much."), topic_name("fraud"), 4)

    assert (
        ("trace", b"x"),
        ("headrace-reason", b"invalid_field"),
        ("headrace-path", b"$.amount"),
        ("headrace-detail", b"Too much."),
        ("headrace-topic", b"transactions"),
        ("headrace-partition", b"1"),
        ("headrace-offset", b"2"),
        ("headrace-timestamp", b"3"),
        ("headrace-rejected-at", b"4"),
        ("headrace-omitted", b"0"),
    ) == message.headers
    assert "fraud.dead-letters" == message.topic


@given(st.lists(HEADER, max_size=10))
def test_record_that_is_no_dead_letter(headers: list[tuple[str, bytes | None]]) -> None:
    """A foreign message on the topic is refused with a reason, whatever its headers."""
    with pytest.raises(RefusedError) as caught:
        from_record(Record("fraud.dead-letters", 0, 0, None, b"", 0, tuple(headers)))

    assert caught.value.reason in {"missing_field", "invalid_field"}


@pytest.mark.parametrize("bad", [b"minus one", b"-1", b"\xff", None, b"9" * 30])
def test_headers_that_hold_no_offset(bad: bytes | None) -> None:
    """A header that holds no offset makes the message none of ours."""
    record = Record("transactions", 1, 2, None, None, 3)
    headers = dict(to_message(Reject(record, "tombstone"), "t", 4).headers) | {"headrace-offset": bad}

    with pytest.raises(RefusedError, match="invalid_field"):
        from_record(Record("t", 0, 0, None, None, 0, tuple(headers.items())))


def test_row_holds_no_card() -> None:
    """What goes to ClickHouse tells the size and hash of the value, and nothing that the record held."""
    record = Record("transactions", 1, 2, CARD.encode(), value(), 3, (("card", CARD.encode()),))
    letter, original = from_record(written(to_message(Reject(record, "invalid_field", "$.amount"), "t", 4)))

    row = to_row(letter, original.value)

    assert CARD.encode() not in msgspec.json.encode(row)
    assert len(value()) == row.value_size
    assert 0 == to_row(letter, None).value_size


def test_header_fields_are_the_structs() -> None:
    """Every field of a dead letter has its header."""
    assert [field.name for field in msgspec.structs.fields(DeadLetter)] == list(dead_letter.HEADERS)
