"""The account of a chaos run finds each kind of wrong: topics and tables are doctored, and it must say so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from store_process import readings
from stores import TOKEN, Input, StoreProcess, wait_until

from processors._demo import Answer
from processors.fraud import chaos as fraud_chaos
from processors.fraud.demo import simulate
from processors.fraud.merchant_risk import HOUR_MS, MerchantRiskLedger
from schemas.dead_letter import DeadLetter, from_record, to_message
from schemas.envelope import Message, Record, Reject
from schemas.fraud import MerchantRisk
from streams.chaos.audit import (
    Found,
    compacted,
    lost_inputs,
    out_of_order,
    row_faults,
    state_faults,
    unaccounted,
)
from streams.chaos.evidence import Tables, Undisturbed, read_topic
from streams.demo.ledger import Coordinate
from streams.demo.run import load_demo
from streams.inference import infer_all
from streams.loading import open_domain
from streams.settings import Settings, StoreSettings


class Named:
    """A domain whose results are the identity of their event."""

    def read(self, value: bytes) -> Answer:
        return Answer(value.decode(), 0.5, False, ())


DEMO: Any = Named()
NOW_MS = time.time_ns() // 1_000_000


def at(offset: int, value: bytes | None, key: bytes | None = b"k", partition: int = 0, topic: str = "in") -> Record:
    return Record(topic, partition, offset, key, value, NOW_MS, ())


INPUTS = [at(0, b"a"), at(1, b"b"), at(2, b"no event"), at(3, b"c")]
KNOWN: dict[Coordinate, str | None] = {(0, 0): "a", (0, 1): "b", (0, 2): None, (0, 3): "c"}
RESULTS = [at(0, b"a", topic="out"), at(1, b"b", topic="out"), at(2, b"c", topic="out")]


def letter_of(record: Record, reason: str = "invalid_json") -> tuple[DeadLetter, Record]:
    message = to_message(Reject(record, reason), "dead", 1)
    return from_record(Record("dead", 0, 9, message.key, message.value, 1, message.headers))


LETTERS = [letter_of(INPUTS[2])]


def test_what_is_right_is_right() -> None:
    """Two results of a key, a dead letter and a result more: nothing is found."""
    account, letters = unaccounted(KNOWN, INPUTS, RESULTS, LETTERS, DEMO)
    order = out_of_order({"a": (0, 0), "b": (0, 1), "c": (0, 3)}, RESULTS, DEMO)

    assert (4, 3, 1, 0, 0) == account
    assert (Found(), Found(), Found()) == (letters, order, lost_inputs(KNOWN, INPUTS))


@pytest.mark.parametrize(
    ("results", "letters", "missing", "duplicates"),
    [
        (RESULTS[:-1], LETTERS, 1, 0),
        ([*RESULTS, at(3, b"a", topic="out")], LETTERS, 0, 1),
        ([*RESULTS, at(3, b"stranger", topic="out")], LETTERS, 0, 1),
        (RESULTS, [], 1, 0),
        (RESULTS, LETTERS * 2, 0, 1),
        ([*RESULTS, at(3, b"(0, 2)", topic="out")], LETTERS, 0, 1),
    ],
    ids=["no result", "two results", "a stranger's", "no dead letter", "two dead letters", "result of poison"],
)
def test_results_and_letters_missing_or_doubled_are_counted(
    results: list[Record], letters: list[tuple[DeadLetter, Record]], missing: int, duplicates: int
) -> None:
    """Each input must have one of the two, once; what nobody asked for is a double."""
    account, _ = unaccounted(KNOWN, INPUTS, results, letters, DEMO)

    assert (missing, duplicates) == (account.missing, account.duplicates)


def test_dead_letters_of_good_events_and_of_other_bytes_are_found() -> None:
    """A letter for what should have been scored is wrong, and so is one that holds something else than came."""
    _, good = unaccounted(KNOWN, INPUTS, RESULTS[1:], [*LETTERS, letter_of(INPUTS[0], "odd")], DEMO)
    _, other = unaccounted(KNOWN, INPUTS, RESULTS, [letter_of(at(2, b"other bytes"))], DEMO)

    assert ("a at (0, 0) is a good event and became a dead letter: odd",) == good.examples
    assert ("the dead letter of (0, 2) does not hold what lies there",) == other.examples


def test_inputs_that_kafka_lost_or_nobody_sent_are_found() -> None:
    """What was acknowledged must lie there; what lies there must have been sent, or be of the kind without a name."""
    lost = lost_inputs(KNOWN, INPUTS[1:])
    strange = lost_inputs(KNOWN, [*INPUTS, at(4, b"x"), at(5, b"ours")], lambda value: value == b"ours")

    assert ("a was acknowledged at (0, 0) and is not there",) == lost.examples
    assert ("nobody sent what lies at (0, 4)",) == strange.examples


def test_results_out_of_the_order_of_their_key_are_found() -> None:
    """Swapped results of one key count, those of two keys do not; a key whose partitions differ is not compared."""
    places = {"a": (0, 0), "b": (0, 1), "c": (1, 0)}
    swapped = out_of_order(places, [at(0, b"b"), at(1, b"a")], DEMO)
    two_keys = out_of_order(places, [at(0, b"b"), at(1, b"a", b"other")], DEMO)
    two_partitions = out_of_order(places, [at(0, b"b"), at(1, b"c")], DEMO)

    assert (1, 0, 0) == (swapped.count, two_keys.count, two_partitions.count)


def test_results_and_state_that_differ_are_found() -> None:
    """A field that differs is named; entries of state missing, too many or other are counted one by one."""
    right = [("a", b'{"n": 1, "at": 5}'), ("b", b'{"n": 2, "at": 5}')]
    found = {"a": b'{"n": 1, "at": 6}', "b": b'{"n": 3, "at": 6}'}

    def comparable(value: bytes) -> Any:
        return {name: part for name, part in json.loads(value).items() if name != "at"}

    states = [(0, {b"x": b"1", b"y": b"2"}, {b"x": b"1", b"z": b"3"}), (1, {b"x": b"1"}, {b"x": b"9"})]
    wrong = state_faults(right, found, comparable, states)

    assert 4 == wrong.count
    assert "b: n 2 is right, 3 was found" == wrong.examples[0]


def test_rows_missing_doubled_and_wrong_are_found() -> None:
    """Each coordinate has one row, which says what its message says; strangers' rows are too many."""
    right = {(0, 0): {"v": 1}, (0, 1): {"v": 2}, (0, 2): {"v": 3}}
    found = [((0, 0), {"v": 1}), ((0, 0), {"v": 1}), ((0, 1), {"v": 7}), ((5, 5), {"v": 1})]
    missing, doubled, wrong = row_faults(right, found)

    assert (1, 2, 1) == (missing.count, doubled.count, wrong.count)
    assert ("the row of (0, 1): v 2 is right, 7 was found",) == wrong.examples


def test_a_compacted_topic_says_its_newest_values() -> None:
    """Later values replace earlier ones, tombstones take them away, partitions are apart."""
    records = [at(0, b"1"), at(1, b"2"), at(2, b"3", b"gone"), at(3, None, b"gone"), at(0, b"9", partition=1)]

    assert {0: {b"k": b"2"}, 1: {b"k": b"9"}} == compacted(records)


# Rows in a real store.


@pytest.fixture
def stored(tmp_path: Path, kafka: str, topic_name: Callable[..., str]) -> Iterator[tuple[Tables, list[Record]]]:
    """Sixty messages of three partitions with their rows and views, to be doctored by an administrator."""
    source = Input(kafka, topic_name("doctored"))
    options = {"admin_token": TOKEN, "flush_interval_ms": 20}
    with StoreProcess(tmp_path, kafka, source.topic, store=options) as store:
        tables = Tables(Settings(store=StoreSettings(admin_token=TOKEN)), "none", store.url)
        tables.tables = [readings(source.topic)]
        wait_until(lambda: tables.count(source.topic) == 0, 10, what="the table")
        tables.make_views()
        source.commit(range(60))
        wait_until(lambda: tables.count(source.topic) == 60, what="the rows")
        yield tables, read_topic({"bootstrap.servers": kafka}, source.topic)


def test_doctored_tables_are_seen_through(stored: tuple[Tables, list[Record]]) -> None:
    """Rows as they came are right; one changed, one deleted, one doubled and one of nobody are each found."""
    tables, records = stored
    table = tables.tables[0]
    as_they_came = tables.compare(table, records)
    views = tables.compare_views()
    columns = ", ".join(column.name for column in table.columns)
    doubled = f"INSERT INTO readings ({columns}) SELECT {columns} FROM readings WHERE _partition = 1 AND _offset = 3"
    tables.ask("ALTER TABLE readings DELETE WHERE _partition = 0 AND _offset = 5 SETTINGS mutations_sync = 1")
    tables.ask(
        "ALTER TABLE readings UPDATE number = 77 WHERE _partition = 2 AND _offset = 4 SETTINGS mutations_sync = 1"
    )
    tables.ask(doubled)
    tables.ask(doubled.replace("_topic, _partition, _offset, _timestamp FROM", "_topic, 9, _offset, _timestamp FROM"))
    missing, twice, wrong = tables.compare(table, records)

    assert (Found(), Found(), Found()) == as_they_came
    assert Found() == views
    assert (1, 1) == (missing.count, wrong.count)
    assert 2 == twice.count, twice
    assert tables.compare_views().count >= 1


# The domain's part.

PARTITIONS = 2


def transactions(count: int) -> tuple[list[Record], list[Message]]:
    """Simulated transactions on their partitions, and the labels that came meanwhile."""
    records: list[Record] = []
    side: list[Message] = []
    offsets = [0] * PARTITIONS
    for events in simulate(count, seed=8):
        for key, value in zip(events.keys, events.values, strict=True):
            partition = sum(key or b"") % PARTITIONS
            records.append(at(offsets[partition], value, key, partition, "transactions"))
            offsets[partition] += 1
        side += events.side
    return sorted(records, key=lambda record: (record.partition, record.offset)), side


def risk_of(merchant: str, rate: float) -> MerchantRisk:
    return MerchantRisk(merchant, 0, 7.0, 1, 2, 3, 0, 0, 1, rate, rate / 2, rate / 3)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Record], list[Message], dict[str, bytes]]:
    """Transactions, labels, and their scores by a worker whose table of merchants changed all the time."""
    settings = Settings(data=tmp_path_factory.mktemp("scored"))
    records, side = transactions(1_500)
    opened = open_domain(settings, "fraud")
    merchants = sorted({json.loads(record.value or b"")["merchant"] for record in records})
    results: dict[str, bytes] = {}
    for partition in range(PARTITIONS):
        own = [record for record in records if record.partition == partition]
        for number, (_record, answer) in enumerate(infer_all(opened.processor, opened.session, own, lambda: 7, 64)):
            assert isinstance(answer, Message)
            results[json.loads(answer.value or b"")["event_id"]] = answer.value or b""
            merchant = merchants[number % len(merchants)]
            opened.processor.tables[0].update(merchant.encode(), msgspec.json.encode(risk_of(merchant, number / 2_000)))
    return settings, records, side, results


def again(settings: Settings, records: list[Record], results: dict[str, bytes]) -> Found:
    """Compares results, and their state with itself, with those of an undisturbed run."""
    undisturbed = Undisturbed(settings, "fraud", load_demo("fraud"), fraud_chaos)
    names = {(r.partition, r.offset): json.loads(r.value or b"")["event_id"] for r in records}
    return state_faults(undisturbed.answers(records, set(), results, names), results, fraud_chaos.comparable, ())


def test_an_undisturbed_run_knows_what_the_table_said(
    scored: tuple[Settings, list[Record], list[Message], dict[str, bytes]],
) -> None:
    """Scores are equal to the bit, probabilities and reasons included, though the table came and went meanwhile."""
    settings, records, _, results = scored
    rates = [json.loads(value)["features"]["merchant_rate_7d"] for value in results.values()]

    assert 100 < sum(rate is not None for rate in rates) < len(rates)
    assert Found() == again(settings, records, results)


def test_a_doctored_score_is_found(scored: tuple[Settings, list[Record], list[Message], dict[str, bytes]]) -> None:
    """A feature, a probability or a decision that is another counts, each once; the times of scoring do not."""
    settings, records, _, results = scored
    doctored = dict(results)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda score: score.update(probability=score["probability"] + 1e-7),
        lambda score: score.update(decision="unheard of"),
        lambda score: score["features"].update(card_count_30d=score["features"]["card_count_30d"] + 1),
        lambda score: score.update(scored_at=1, latency_ms=2.0),
    ]
    for identity, change in zip(results, changes, strict=False):
        score = json.loads(results[identity])
        change(score)
        doctored[identity] = json.dumps(score).encode()

    assert 3 == again(settings, records, doctored).count


def told_by(results: dict[str, bytes], side: list[Message]) -> dict[bytes, bytes]:
    """The figures of a ledger that was told hour by hour, in the order of the events."""
    ledger = MerchantRiskLedger()
    found = sorted((json.loads(value) for value in results.values()), key=lambda score: score["event_time"])
    for number, score in enumerate(found):
        ledger.add_tallies([score["merchant"]], [score["event_time"] // HOUR_MS], [1], "t/0", number, number)
    for message in side:
        label = json.loads(message.value or b"")
        ledger.add_label(
            label["event_id"], label["merchant"], label["is_fraud"], label["event_time"], label["labelled_at"]
        )
    return {risk.merchant.encode(): msgspec.json.encode(risk) for risk in ledger.risk()}


def test_figures_of_the_monitor_are_recomputed(
    scored: tuple[Settings, list[Record], list[Message], dict[str, bytes]],
) -> None:
    """Right figures are right; a count less, a merchant missing, a merchant too many and a label lost are found."""
    settings, _, side, results = scored
    told = told_by(results, side)
    first, second = sorted(told)[:2]
    fewer = msgspec.json.decode(told[first], type=MerchantRisk)
    fewer = msgspec.structs.replace(fewer, count_30d=fewer.count_30d - 1)
    frauds = [message for message in side if b'"is_fraud":true' in (message.value or b"")]

    def wrong(figures: dict[bytes, bytes]) -> int:
        options = msgspec.structs.asdict(settings.monitor)
        return len(fraud_chaos.compare_told(list(results.values()), side, {"merchant-risk": figures}, options))

    assert len(frauds) > 3
    assert 0 == wrong(told)
    assert 1 == wrong({**told, first: msgspec.json.encode(fewer)})
    assert 1 == wrong({merchant: risk for merchant, risk in told.items() if merchant != second})
    assert 1 == wrong({**told, b"stranger": msgspec.json.encode(risk_of("stranger", 0.5))})
    lost = [wrong(told_by(results, [message for message in side if message is not fraud])) for fraud in frauds]
    assert max(lost) >= 1  # one whose hour no window holds any more is no loss


def test_entries_that_nothing_asks_for_are_no_difference() -> None:
    """A block of events behind every window may be gone or not; one within a window may not."""
    newest = 1_790_000_000_000
    mark = newest.to_bytes(8, "little")
    old = (newest - 40 * 86_400_000).to_bytes(8, "little") + bytes(8)
    young = (newest - 86_400_000).to_bytes(8, "little") + bytes(8)

    assert {b"m": mark, b"wy": young, b"d": b"1"} == fraud_chaos.living(
        {b"m": mark, b"wo": old, b"wy": young, b"d": b"1"}
    )
