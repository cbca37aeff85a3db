"""Tables from Structs, on a real ClickHouse engine: what is declared is made, and what is written comes back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from clickhouse_engine import Engine
from events import CARD, SCORES, records, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas._rows import PackedMap
from schemas.clickhouse import (
    INSERTED_AT,
    JsonRows,
    arrow_schema,
    migrate_sql,
    read_rows,
    tables,
    to_arrow,
)
from schemas.codec import JsonCodec, encode
from schemas.dead_letter import to_message
from schemas.envelope import Record, Reject
from schemas.fraud import FraudScore, Reason, TransactionLabel

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = 1_795_521_600_000  # 2026-11-24T12:00:00Z
BY_NAME = {table.name: table for table in tables("fraud")}
SCORE = FraudScore(
    event_id="event-1",
    card_token="token",
    merchant="it's \\ a \u2028 merchant",
    probability=0.25,
    decision="decline",
    reasons=[Reason("amount", 1.5), Reason("hour", -0.5)],
    features={"amount": None, "card_count_1h": 3.0},
    model="fraud@1",
    event_time=NOON,
    scored_at=NOON + 5,
    latency_ms=0.5,
    late=True,
    amount=12.5,
    category=None,
    age=30,
    gender="f",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with the tables of every domain."""
    engine = Engine(tmp_path_factory.mktemp("clickhouse"))
    engine.query("CREATE DATABASE headrace")
    for table in tables():
        engine.query(table.create_sql("headrace", 30))
    yield engine
    engine.close()


def test_tables_of_fraud() -> None:
    """The names of the tables are the ones that others build on."""
    assert ["fraud_scores", "transaction_labels", "fraud_dead_letters"] == list(BY_NAME)
    assert {table.name for table in tables()} >= BY_NAME.keys()
    assert [] == tables("no such domain")


@pytest.mark.parametrize("name", BY_NAME)
def test_tables_are_as_declared(name: str, engine: Engine) -> None:
    """The engine makes each column as declared, making it again is harmless, and nothing is left to migrate."""
    table = BY_NAME[name]
    engine.query(table.create_sql("headrace", 30))

    found = engine.columns(name)

    assert [column.name for column in (*table.columns, INSERTED_AT)] == list(found)
    assert [] == migrate_sql(table, found, "headrace")
    assert [column.name for column in table.columns] == arrow_schema(table).names


def test_columns_of_scores() -> None:
    """Types fit what the fields hold: dictionaries for few values, small numbers, times with their zone."""
    found = {column.name: column.type for column in BY_NAME["fraud_scores"].columns}

    assert found == found | {
        "event_id": "String",
        "decision": "LowCardinality(String)",
        "category": "LowCardinality(Nullable(String))",
        "reasons": "Array(Tuple(feature LowCardinality(String), contribution Float64))",
        "features": "Map(LowCardinality(String), Nullable(Float64))",
        "age": "Nullable(UInt8)",
        "late": "Bool",
        "scored_at": "DateTime64(3, 'UTC')",
        "_topic": "LowCardinality(String)",
        "_partition": "UInt32",
        "_offset": "UInt64",
        "_timestamp": "DateTime64(3, 'UTC')",
    }


def test_score_comes_back(engine: Engine) -> None:
    """Every field of a score is in its row, and so are the coordinates of its message."""
    table = BY_NAME["fraud_scores"]
    record = Record("fraud-scores", 3, 17, b"token", encode([SCORE])[0], NOON + 6)

    rows, kept, rejects = read_rows(table, [record])
    engine.insert("headrace.fraud_scores", to_arrow(table, rows, kept))

    assert [] == rejects
    (row,) = engine.query("SELECT * FROM headrace.fraud_scores WHERE event_id = 'event-1' AND _partition = 3")
    assert (
        msgspec.to_builtins(SCORE)
        | {
            "event_time": "2026-11-24 12:00:00.000",
            "scored_at": "2026-11-24 12:00:00.005",
            "_topic": "fraud-scores",
            "_partition": 3,
            "_offset": 17,
            "_timestamp": "2026-11-24 12:00:00.006",
            "_inserted_at": row["_inserted_at"],
        }
        == row
    )
    assert [{"names": ["amount", "hour"], "count": 3}] == engine.query(
        "SELECT reasons.feature AS names, features['card_count_1h'] AS count FROM headrace.fraud_scores"
        " WHERE event_id = 'event-1' AND _partition = 3"
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SCORES, min_size=1, max_size=5))
def test_any_scores_become_rows(engine: Engine, scores: list[FraudScore]) -> None:
    """Any scores that can be encoded can be stored, each as one row with its own values."""
    table = BY_NAME["fraud_scores"]
    engine.query("TRUNCATE TABLE headrace.fraud_scores")

    engine.insert("headrace.fraud_scores", to_arrow(table, *read_rows(table, records(list(encode(scores))))[:2]))

    rows = engine.query(
        "SELECT event_id, merchant, features, length(reasons) AS reasons, amount, decision, category"
        " FROM headrace.fraud_scores ORDER BY _offset"
    )
    assert [(s.event_id, s.merchant, s.features, len(s.reasons), s.amount, s.decision, s.category) for s in scores] == [
        (
            row["event_id"],
            row["merchant"],
            as_floats(row["features"]),
            row["reasons"],
            float(row["amount"]),
            row["decision"],
            row["category"],
        )
        for row in rows
    ]


FIELDS = st.sampled_from(["features", "reasons", "event_id", "amount", "late", "age", "category", "other"])
NAMES = st.sampled_from(["a", "b", "c", "", '\u00e4 "\\', "long" * 64, "too long" * 40])
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.lists(st.none())
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A score with features of few names, in any order, now and then broken."""
    score = msgspec.to_builtins(draw(SCORES))
    score["features"] = draw(st.dictionaries(NAMES, st.none() | st.floats(allow_nan=False), max_size=4))
    if draw(st.booleans()):
        score["features"] |= draw(st.dictionaries(NAMES, VALUES, max_size=1))
    if draw(st.integers(0, 5)) == 0:
        score[draw(FIELDS)] = draw(VALUES)
    if draw(st.integers(0, 9)) == 0:
        del score[draw(st.sampled_from(sorted(score)))]
    text = json.dumps(score, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        text = text.replace(b'"features": {', b'"features": {"a": 5, "b": "x", ')
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@settings(deadline=None)
@given(st.lists(st.lists(messages() | st.just(b"") | st.none(), max_size=6), max_size=4))
def test_learnt_names_change_no_row(batches: list[list[bytes | None]]) -> None:
    """Whatever the messages before have taught, rows, rejects and columns are those of plain decoding."""
    table = BY_NAME["fraud_scores"]
    learning, plain = JsonRows(table.row), JsonCodec(table.row)
    for batch in batches:
        rows, kept, rejects = read_rows(table, records(batch), learning)
        expected, expected_kept, expected_rejects = read_rows(table, records(batch), plain)

        assert list(expected_kept) == list(kept)
        assert expected_rejects == rejects
        assert to_arrow(table, expected, expected_kept).equals(to_arrow(table, rows, kept))


def test_names_are_learnt_and_learnt_anew() -> None:
    """Rows are packed by the names of the first of them, and another set of names is packed in its turn."""
    table = BY_NAME["fraud_scores"]
    learning = JsonRows(table.row)
    first = encode([msgspec.structs.replace(SCORE, features={"b": 1.0, "a": None})] * 3)
    second = encode([msgspec.structs.replace(SCORE, features={"c": float(n)}) for n in range(3)])

    rows, _, rejects = learning.decode_records(records([*first, *second, *first]))

    assert [] == rejects
    assert [("a", "b")] * 3 + [("c",)] * 3 + [("a", "b")] * 3 == [
        row.features.names for row in rows if isinstance(row.features, PackedMap)
    ]


def test_names_that_always_differ_are_not_learnt_for_ever() -> None:
    """Where every row has names of its own, all but the first are decoded the plain way, and few types are made."""
    learning = JsonRows(BY_NAME["fraud_scores"].row)
    scores = [msgspec.structs.replace(SCORE, features={f"name {n}": 1.0}) for n in range(200)]

    rows, _, _ = learning.decode_records(records(list(encode(scores))))

    assert scores[20:] == rows[20:]
    assert len(learning._shapes) < 20


def as_floats(numbers: dict[str, float | None]) -> dict[str, float | None]:
    """Numbers as they were: the engine writes whole ones without a point, and long ones rounded."""
    return {name: None if number is None else float(number) for name, number in numbers.items()}


def test_row_inserted_twice_is_one_row(engine: Engine) -> None:
    """The last net: a message that a sink inserts again is one row to FINAL, and the greatest offset is known."""
    table = BY_NAME["fraud_scores"]
    engine.query("TRUNCATE TABLE headrace.fraud_scores")
    batch = to_arrow(table, *read_rows(table, records(list(encode([SCORE] * 3))))[:2])

    engine.insert("headrace.fraud_scores", batch)
    engine.insert("headrace.fraud_scores", batch.slice(1))

    assert [{"rows": 3}] == engine.query("SELECT count() AS rows FROM headrace.fraud_scores FINAL")
    asked = "SELECT _topic, _partition, max(_offset) AS offset FROM headrace.fraud_scores GROUP BY _topic, _partition"
    assert [{"_topic": "transactions", "_partition": 0, "offset": 2}] == engine.query(asked)
    assert "positions" in str(engine.query(f"EXPLAIN {asked}"))


def test_labels_with_times_of_any_form(engine: Engine) -> None:
    """Times of senders become columns of times; a label whose time is none, or beyond the column, is refused."""
    table = BY_NAME["transaction_labels"]
    times: list[Any] = [
        "2026-11-24T13:00:00+01:00",
        NOON,
        NOON + 0.5,
        "2026-11-24T12:00:00",
        "9999-01-01T00:00:00Z",
        1e300,
    ]
    labels = [TransactionLabel(f"event-{n}", "m", True, time, NOON) for n, time in enumerate(times)]

    rows, kept, rejects = read_rows(table, records([*encode(labels), b"{"], "transaction-labels"))
    engine.insert("headrace.transaction_labels", to_arrow(table, rows, kept))

    assert [("invalid_json", ""), ("naive_time", "$.event_time"), ("time_in_future", "$.event_time")] == [
        (r.reason, r.path) for r in rejects[:3]
    ]
    assert ["invalid_time"] == [r.reason for r in rejects[3:]]
    assert [0, 1, 2] == [record.offset for record in kept]
    assert [{"event_time": "2026-11-24 12:00:00.000"}] * 3 == engine.query(
        "SELECT event_time FROM headrace.transaction_labels ORDER BY _offset"
    )


def test_dead_letters_hold_no_card(engine: Engine) -> None:
    """A dead letter's row tells why and where, and neither card nor value; a foreign message is refused."""
    table = BY_NAME["fraud_dead_letters"]
    origin = Record("transactions", 1, 2, CARD.encode(), value(), -(2**63))
    message = to_message(Reject(origin, "invalid_field", "$.amount", "Too much."), "fraud.dead-letters", NOON)
    letters = [
        Record("fraud.dead-letters", 0, 5, message.key, message.value, NOON, message.headers),
        Record("fraud.dead-letters", 0, 6, None, value(), NOON),
    ]

    rows, kept, rejects = read_rows(table, letters)
    engine.insert("headrace.fraud_dead_letters", to_arrow(table, rows, kept))

    (row,) = engine.query("SELECT * FROM headrace.fraud_dead_letters")
    assert CARD not in str(row)
    assert ("invalid_field", "$.amount", "transactions", 2) == (
        row["reason"],
        row["path"],
        row["topic"],
        row["offset"],
    )
    assert "1900-01-01 00:00:00.000" == row["timestamp"]
    assert [(letters[1], "missing_field")] == [(r.record, r.reason) for r in rejects]
