"""Transactions become scores or rejects, one each, whatever they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx_models
import pytest
from events import spoilt_values
from fraud_cases import KEY, NOW, answer, outputs, processor, record
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import DomainError, Setup, load
from processors._contract import ContractError
from processors._models import Manifest
from processors._session import Session
from processors._tokens import CardTokens
from processors._tree_shap import Paths
from processors.fraud.features import FEATURE_NAMES, HOUR_MS
from processors.fraud.reasons import GROUPS, SILENT, Reasons
from schemas.codec import codec_for
from schemas.envelope import Message, Record, Reject
from schemas.fraud import FraudScore, MerchantTally
from streams.inference import infer

if TYPE_CHECKING:
    from pathlib import Path


def test_a_score_says_everything_that_was_promised() -> None:
    """A result has the event's own fields, the token, the probability, the decision, the model and the times."""
    scorer = processor()
    events = [record(0, age=40, gender="F", region="north"), record(1, at=NOW + 1000)]
    prepared = scorer.prepare(events)
    first, second = scorer.interpret(prepared, outputs(prepared, 0.25), NOW + 20)
    token = CardTokens(KEY).of(["4111111111111111"])[0].hex()
    assert isinstance(first, Message)
    assert isinstance(second, Message)
    score = msgspec.json.decode(first.value, type=FraudScore)

    assert ("fraud-scores", token.encode()) == (first.topic, first.key)
    assert ("event-0-0", token, "merchant-1", 0.25, "approve") == (
        score.event_id, score.card_token, score.merchant, score.probability, score.decision,
    )  # fmt: skip
    assert ([], "fraud", NOW, NOW + 20, 20.0, False) == (
        score.reasons, score.model, score.event_time, score.scored_at, score.latency_ms, score.late,
    )  # fmt: skip
    assert (12.5, "grocery_pos", "USD", 40, "F", "north") == (
        score.amount, score.category, score.currency, score.age, score.gender, score.region,
    )  # fmt: skip
    assert list(FEATURE_NAMES) == list(score.features)
    assert (1, 12.5, 1.0, None) == tuple(
        msgspec.json.decode(second.value)["features"][name]
        for name in ("card_count_1h", "card_sum_1h", "seconds_since_last", "distance_km")
    )


def test_the_features_kept_are_those_that_the_model_saw() -> None:
    """The values in a result, as float32, are the model's input row."""
    scorer = processor()
    prepared = scorer.prepare([record(offset, at=NOW + offset * 1000, amount=offset + 0.1) for offset in range(50)])
    messages = scorer.interpret(prepared, outputs(prepared, 0.1), NOW)
    kept = [msgspec.json.decode(message.value, type=FraudScore).features for message in messages]
    rows = np.array([[np.nan if v is None else v for v in row.values()] for row in kept], np.float32)

    np.testing.assert_array_equal(prepared.inputs["features"], rows)


def test_features_are_left_out_where_they_are_not_kept() -> None:
    """`keep_features = false` makes results small and changes nothing else."""
    (with_features,), _ = answer(processor(), [record(0)])
    (without,), _ = answer(processor(keep_features=False), [record(0)])

    assert with_features | {"features": {}} == without


@pytest.mark.parametrize(
    ("probability", "decision"), [(0.0, "approve"), (0.25, "review"), (0.5, "decline"), (1.0, "decline")]
)
def test_decisions_follow_the_thresholds(probability: float, decision: str) -> None:
    """A probability at a threshold is on its upper side."""
    scores, _ = answer(processor(review=0.25, decline=0.5), [record(0)], probability)

    assert decision == scores[0]["decision"]


def spoilt(reason: str, path: str, **fields: Any) -> Any:
    """A case of one bad transaction."""
    return pytest.param(fields, reason, path, id="-".join(fields) + f"-{reason}")


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        spoilt("missing_field", "$.amount", amount=...),
        spoilt("invalid_field", "$.amount", amount="12"),
        spoilt("invalid_field", "$.amount", amount=-1),
        spoilt("invalid_field", "$.amount", amount=0),
        spoilt("invalid_field", "$.amount", amount=1.1e8),
        spoilt("not_finite", "$.amount", amount=float("nan")),
        spoilt("not_finite", "$.amount", amount=float("inf")),
        spoilt("invalid_field", "$.event_id", event_id=""),
        spoilt("invalid_field", "$.card", card="4" * 300),
        spoilt("invalid_field", "$.category", category="x" * 65),
        spoilt("invalid_field", "$.region", region="x" * 1000),
        spoilt("time_too_old", "$.event_time", event_time="1970-01-01T00:00:00Z"),
        spoilt("time_too_old", "$.event_time", event_time=0),
        spoilt("time_in_future", "$.event_time", event_time="2200-01-01T00:00:00Z"),
        spoilt("time_in_future", "$.event_time", event_time=NOW + 24 * HOUR_MS + 1),
        spoilt("naive_time", "$.event_time", event_time="2026-01-01T00:00:00"),
        spoilt("invalid_time", "$.event_time", event_time="yesterday"),
        spoilt("invalid_field", "$.merchant_lat", merchant_lat=91),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], reason: str, path: str) -> None:
    """Each bad field is a reject with its reason and path; its neighbours are scored as if it had not been there."""
    bad = record(1, **{"event_time": NOW} | fields)
    scores, rejects = answer(processor(), [record(0), bad, record(2)])

    assert [(bad, reason, path)] == [(reject.record, reject.reason, reject.path) for reject in rejects]
    assert rejects[0].detail
    assert ["event-0-0", "event-0-2"] == [score["event_id"] for score in scores]
    assert [0, 1] == [score["features"]["card_count_1h"] for score in scores]


def test_odd_but_harmless_events_are_scored() -> None:
    """Unknown categories, null keys, times a day ahead and half a place are no reason to refuse."""
    events = [
        record(0, category="moon_rocks"),
        record(1, category=None),
        msgspec.structs.replace(record(2), key=None),
        record(3, event_time=NOW + 24 * HOUR_MS),
        record(4, merchant_lat=1.0),
        record(5, unknown_field={"nested": []}),
        record(6, amount=1e8),
        record(7, merchant="\u0000\U0001f4a5"),
        msgspec.structs.replace(record(8, event_time=NOW - 1), timestamp_ms=-1),
    ]
    scores, rejects = answer(processor(), events)

    assert ([], 9) == (rejects, len(scores))
    assert [None, None, 4] == [score["features"]["category"] for score in scores[:3]]
    assert 0.0 == scores[8]["latency_ms"]


def test_an_event_sent_twice_is_scored_once() -> None:
    """In one batch or in two, the first of equal ids is scored and the others are `duplicate_event`."""
    scorer = processor()
    twin, again = record(1, event_id="event-0-0"), record(2, event_id="event-0-0")
    first, rejected = answer(scorer, [record(0), twin])
    then, rejected_then = answer(scorer, [again])

    assert (["event-0-0"], []) == ([score["event_id"] for score in first], then)
    assert [(twin, "duplicate_event", "$.event_id")] == [(r.record, r.reason, r.path) for r in rejected]
    assert ["duplicate_event"] == [r.reason for r in rejected_then]


def test_an_event_that_was_refused_may_come_again() -> None:
    """Only what was scored counts as seen: a corrected event is scored."""
    scorer = processor()
    answer(scorer, [record(0, amount=-1)])
    scores, rejects = answer(scorer, [record(1, event_id="event-0-0")])

    assert (1, []) == (len(scores), rejects)


def test_the_same_id_may_come_again_after_the_window() -> None:
    """By the messages' own timestamps, an hour by default."""
    scorer = processor()
    later = record(1, event_id="event-0-0", at=NOW + HOUR_MS)
    after = record(2, event_id="event-0-0", at=NOW + HOUR_MS + 1)

    assert [1, 0, 1] == [len(answer(scorer, [event])[0]) for event in (record(0), later, after)]


@pytest.mark.parametrize("output", [np.nan, np.inf, -0.1, 1.1])
def test_an_output_that_is_no_probability_is_a_model_error(output: float) -> None:
    """A row whose model gave nonsense is rejected by itself."""
    scorer = processor()
    prepared = scorer.prepare([record(0), record(1)])
    answers = scorer.interpret(prepared, {"probability": np.array([output, 0.5], np.float32)}, NOW)

    assert isinstance(answers[0], Reject)
    assert ("model_error", prepared.records[0]) == (answers[0].reason, answers[0].record)
    assert isinstance(answers[1], Message)
    assert 1 == len(answer(scorer, [record(2, event_id="event-0-0")])[0])


class FailingOnTheFirst:
    """A session that fails on the first row of each run."""

    def run(self, inputs: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Zeros for the row that failed."""
        probability = np.full((len(inputs["features"]), 1), 0.5, np.float32)
        probability[0] = 0
        return {"probability": probability}, {0: "poison"}


def test_an_event_that_the_model_failed_on_may_be_retried() -> None:
    """Its dead letter can be sent again and is scored then; its neighbour is still a duplicate."""
    scorer = processor()
    outcomes = infer(scorer, FailingOnTheFirst(), [record(0), record(1)], NOW)
    again = [record(2, event_id="event-0-0"), record(3, event_id="event-0-1")]
    scores, rejects = answer(scorer, again)

    assert [Reject, Message] == [type(reply) for _, reply in outcomes]
    assert ["event-0-0"] == [reject.event_id for reject in outcomes.rejects]
    assert (["event-0-0"], ["duplicate_event"]) == ([s["event_id"] for s in scores], [r.reason for r in rejects])


def test_late_events_are_counted() -> None:
    """An event more than a day behind its partition is scored, marked and counted."""
    scorer = processor()
    scores, _ = answer(scorer, [record(0), record(1, event_time=NOW - 25 * HOUR_MS), record(2)])

    assert [False, True, False] == [score["late"] for score in scores]
    assert {"late_events": 1, "events_over_cap": 0} == scorer.counters()


def tallies(scorer: Any) -> list[MerchantTally]:
    """What drain gives, decoded."""
    return [msgspec.json.decode(message.value, type=MerchantTally) for message in scorer.drain()]


def test_tallies_count_what_was_scored_and_cover_what_was_read() -> None:
    """Per source partition: merchants by hour, over all offsets since the last drain, refused records included."""
    scorer = processor()
    later = NOW + HOUR_MS
    scorer.prepare([record(7, amount=-1), record(8), record(3, partition=2, merchant="other")])
    scorer.prepare([record(9), record(10, at=later), record(11, amount="x")])
    keys = [(message.topic, message.key) for message in scorer.drain()]
    scorer.prepare([record(12)])
    again = tallies(scorer)

    assert [("merchant-tallies", b"transactions:0"), ("merchant-tallies", b"transactions:2")] == keys
    assert [MerchantTally("transactions", 0, 12, 12, ["merchant-1"], [NOW // HOUR_MS], [1])] == again
    assert [] == tallies(scorer)


def test_tallies_of_several_batches_add_up() -> None:
    """Counts of the batches of one transaction are summed by merchant and hour."""
    scorer = processor()
    scorer.prepare([record(7, amount=-1), record(8), record(3, partition=2, merchant="other")])
    scorer.prepare([record(9), record(10, at=NOW + HOUR_MS), record(11, amount="x")])
    hour = NOW // HOUR_MS

    assert [
        MerchantTally("transactions", 0, 7, 11, ["merchant-1", "merchant-1"], [hour, hour + 1], [2, 1]),
        MerchantTally("transactions", 2, 3, 3, ["other"], [hour], [1]),
    ] == tallies(scorer)


@pytest.mark.parametrize("size", [100, 2000])
def test_tallies_are_never_too_large_to_be_read(size: int) -> None:
    """However many and long names are, each tally is a message that its readers take, and together they are exact."""
    scorer, topic = processor(), "merchant-tallies"
    events = [
        record(n // 2, partition=n % 2, merchant="\0" * 250 + f"{n:06}", amount=-1 if n % 7 == 3 else 1)
        for n in range(4000)
    ]
    for start in range(0, len(events), size):
        scorer.prepare(events[start : start + size])
    messages = scorer.drain()

    read, _, refused = codec_for(topic, MerchantTally).decode_records(
        [Record(topic, 0, at, message.key, message.value, NOW) for at, message in enumerate(messages)]
    )

    assert [] == refused
    for partition in (0, 1):
        mine = [tally for tally in read if tally.partition == partition]
        ranges = [(tally.first_offset, tally.last_offset) for tally in mine]
        assert [0, *(last + 1 for _, last in ranges)] == [*(first for first, _ in ranges), 2000]
        for tally in mine:
            covered = [e for e in events if e.partition == partition]
            covered = covered[tally.first_offset : tally.last_offset + 1]
            names = [json.loads(e.value or b"")["merchant"] for e in covered if b'"amount": 1,' in (e.value or b"")]
            assert (names, [1] * len(names)) == (tally.merchants, tally.counts)


def test_merchant_risk_is_used_and_kept() -> None:
    """What the table says of a merchant is the model's input and stands in the result."""
    scorer = processor()
    risk = {f"{what}_{span}": 0 for what in ("count", "frauds", "rate") for span in ("1d", "7d", "30d")}
    known = risk | {"merchant": "merchant-1", "as_of": NOW, "delay_days": 7.0, "rate_7d": 0.25, "count_30d": 12}
    scorer.tables[0].update(b"merchant-1", json.dumps(known).encode())
    scores, _ = answer(scorer, [record(0), record(1, merchant="unknown")])

    assert (0.25, 12) == (scores[0]["features"]["merchant_rate_7d"], scores[0]["features"]["merchant_count_30d"])
    assert scores[1]["features"]["merchant_rate_7d"] is None


def paths(feature: str, value: float) -> Paths:
    """One tree with one split, which makes a feature above 10 raise the score."""
    column = np.full((2, 1), FEATURE_NAMES.index(feature), np.int16)
    return Paths(
        feature=column,
        low=np.array([[-np.inf], [10]], np.float32),
        high=np.array([[10], [np.inf]], np.float32),
        missing=np.array([[True], [False]]),
        cover=np.array([[0.5], [0.5]]),
        value=np.array([-value, value]),
    )


def test_reasons_come_from_the_model_that_scored() -> None:
    """A flagged row has the contributions of the model's own trees; an approved one has no reasons."""
    scorer = processor(review=0.5)
    scorer.attach(paths("amount", 2.0).to_metadata())
    prepared = scorer.prepare([record(0), record(1), record(2, amount=5)])
    answers = scorer.interpret(prepared, {"probability": np.array([0.9, 0.1, 0.9], np.float32)}, NOW)

    assert [[{"feature": "amount", "contribution": 2.0}], [], []] == [
        msgspec.json.decode(message.value)["reasons"] for message in answers
    ]


def test_reasons_are_summed_by_what_they_say() -> None:
    """Windows of a card are one reason, at most three are given, none of them lowers the score or is a group's."""
    names = (*FEATURE_NAMES, "age")
    row = dict.fromkeys(names, 0.0) | {
        "card_count_1h": 1.0, "card_sum_24h": 0.5, "amount": 0.25, "hour": -1.0, "merchant_rate_1d": 2.0,
        "merchant_rate_7d": -0.75, "category": 0.125, "age": 9.0,
    }  # fmt: skip
    found = Reasons(names).of(np.array([[row[name] for name in names]]))[0]

    assert [("card_velocity", 1.5), ("merchant_risk", 1.25), ("amount", 0.25)] == [
        (reason.feature, reason.contribution) for reason in found
    ]
    assert GROUPS.keys() <= set(FEATURE_NAMES)
    assert {"age", "gender", "region"} == SILENT


def manifest(**changed: Any) -> Manifest:
    """A manifest of a model with one output and these settings."""
    fields = {
        "name": "mine", "version": "3", "file": "mine.onnx", "sha256": "0" * 64, "size": 1, "licence": "MIT",
        "contract": {
            "inputs": [{"name": "features", "dtype": "float32", "shape": ["batch", 2]}],
            "outputs": [{"name": "probability", "dtype": "float32", "shape": ["batch"]}],
        },
    } | changed  # fmt: skip
    return msgspec.convert(fields, Manifest)


def test_the_manifest_brings_defaults_and_the_options_win() -> None:
    """Thresholds and inputs belong to a model; what the user sets goes over them."""
    mine = manifest(settings={"review": 0.1, "decline": 0.2, "inputs": ["hour", "amount"]})
    scorer = load("fraud", Setup({"decline": 0.9}, mine, KEY))
    prepared = scorer.prepare([record(0)])
    scores = [msgspec.json.decode(m.value) for m in scorer.interpret(prepared, outputs(prepared, 0.3), NOW)]

    assert ["mine@3", "review"] == [scores[0]["model"], scores[0]["decision"]]
    assert [[NOW // HOUR_MS % 24, 12.5]] == prepared.inputs["features"].tolist()
    assert ("batch", 2) == scorer.contract.inputs[0].shape
    assert ("batch",) == scorer.contract.outputs[0].shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reveiw": 0.5}, r"\[domains.fraud\] has no key 'reveiw'; did you mean 'review'"),
        ({"review": 2}, r"\[domains.fraud\].*review"),
        ({"review": 0.9, "decline": 0.1}, "decline"),
        ({"inputs": ["amount", "age"]}, "'age' is no feature"),
        ({"max_amount": 1e12}, "overflow"),
    ],
)
def test_wrong_options_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    """An option that cannot be used is an error with its place."""
    with pytest.raises(DomainError, match=message):
        processor(**options)


@settings(max_examples=300, deadline=None)
@given(st.lists(spoilt_values(), min_size=1, max_size=8))
def test_whatever_bytes_come_each_is_answered_once(values: list[bytes]) -> None:
    """Every record ends as one score or one reject, valid JSON or a reason, and nothing raises."""
    records = [Record("transactions", 0, offset, None, value, NOW) for offset, value in enumerate(values)]
    scorer = processor()
    prepared = scorer.prepare(records)
    answers = scorer.interpret(prepared, outputs(prepared, 0.95), NOW)
    list(scorer.state.changes())

    assert sorted([r.offset for r in prepared.records] + [r.record.offset for r in prepared.rejects]) == list(
        range(len(values))
    )
    assert len(answers) == len(prepared.records)
    assert all(reject.reason for reject in prepared.rejects)
    for message in answers:
        msgspec.json.decode(message.value, type=FraudScore)


def test_a_batch_of_nothing_but_bad_records_is_answered() -> None:
    """No row is left for the model, and nothing breaks."""
    scores, rejects = answer(processor(), [record(0, amount=None), Record("transactions", 0, 1, None, None, NOW)])

    assert ([], ["invalid_field", "tombstone"]) == (scores, [reject.reason for reject in rejects])


def test_a_real_session_scores_what_prepare_gives(tmp_path: Path) -> None:
    """ONNX Runtime takes the inputs as they are, NaN included, and one micro-batch is answered in the input's order."""
    scorer = processor(review=0.6, decline=0.9)
    columns = {"features": (onnx_models.FLOAT, ["batch", len(FEATURE_NAMES)])}
    probability = {"probability": (onnx_models.FLOAT, ["batch", 1])}
    nodes = [
        onnx_models.helper.make_node("Gather", ["features", "amount"], ["x"], axis=1),
        onnx_models.helper.make_node("Sigmoid", ["x"], ["probability"]),
    ]
    path = onnx_models.save(tmp_path / "m.onnx", nodes, columns, probability, {"amount": np.array([0], np.int64)})
    session = Session.open(path, expects=scorer.contract, slice=4)
    records = [record(offset, amount=offset - 2.0) for offset in range(8)]
    outcomes = infer(scorer, session, records, NOW)
    decisions = [
        reply.reason if isinstance(reply, Reject) else msgspec.json.decode(reply.value)["decision"]
        for _, reply in outcomes
    ]

    assert records == [answered for answered, _ in outcomes]
    assert ["invalid_field"] * 3 + ["review", "review", "decline", "decline", "decline"] == decisions


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A file with another number of inputs is an error that names both numbers."""
    with pytest.raises(ContractError, match=str(len(FEATURE_NAMES))):
        Session.open(onnx_models.perceptron(tmp_path / "m.onnx"), expects=processor().contract)


def test_no_neighbour_changes_a_byte_of_a_score() -> None:
    """A score is written the same whether it was computed alone or among others, known and unknown values mixed."""
    events = [record(n, at=NOW + n * 1000, amount=10.0 * n + 1, category=None if n % 3 else "travel") for n in range(9)]
    together, alone = processor(), processor()
    prepared = together.prepare(events)
    joint = together.interpret(prepared, outputs(prepared, 0.25), NOW)

    single = []
    for event in events:
        prepared = alone.prepare([event])
        single += alone.interpret(prepared, outputs(prepared, 0.25), NOW)

    assert [answer.value for answer in joint] == [answer.value for answer in single]
