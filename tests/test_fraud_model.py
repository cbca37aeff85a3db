"""The model in the repository is what its card says, and training sees exactly what serving computes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

import processors
from processors import Setup
from processors._models import Registry
from processors._ranking import average_precision, roc_auc
from processors._tree_shap import TreeShap
from processors.fraud.features import FEATURE_NAMES, HOUR_MS, MERCHANT_FEATURES
from processors.fraud.merchant_risk import MerchantRiskLedger
from processors.fraud.simulator import Simulator
from schemas.codec import encode
from schemas.envelope import Record
from schemas.fraud import MerchantTally, TransactionLabel
from scripts.train.fraud_card import Report, card
from scripts.train.fraud_data import DATA, Stream, handbook, simulated
from scripts.train.fraud_figures import Rate, calibration_error, chance_of_gap, measure
from scripts.train.fraud_model import Trained, export, fit
from scripts.train.fraud_replay import Table, replay

END = 1_790_000_000_000
MODELS = Path(processors.__file__).parent / "fraud" / "models"


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _probability(session: onnxruntime.InferenceSession, features: np.ndarray) -> np.ndarray:
    return session.run(["probability"], {"features": features})[0][:, 0].astype(np.float64)


@pytest.fixture(scope="module")
def table() -> Table:
    """A world that the repository's model has never seen."""
    return replay(simulated(Simulator(11, events=100_000, days=60, end_ms=END)))


@pytest.fixture(scope="module")
def trained(table: Table) -> Trained:
    """A small model of the first part of that world."""
    return fit(table.between(0, 0.5), table.between(0.5, 0.7), FEATURE_NAMES, trees={"trees": 40, "num_threads": 1})


def test_the_manifest_keeps_its_promise() -> None:
    """The registry finds the model, its file is the one that was promised, and its inputs are the features."""
    model = Registry(environ={}).resolve("fraud")
    settings = model.manifest.settings

    assert len(model.read()) == model.manifest.size < 1_000_000
    assert list(FEATURE_NAMES) == settings["inputs"]
    assert 0 < settings["review"] < settings["decline"] < 1
    assert model.manifest.contract.inputs[0].shape == ("batch", len(FEATURE_NAMES))


def test_the_model_ranks_and_calibrates_on_a_world_it_never_saw(table: Table) -> None:
    """Figures of the repository's model on a small new world are near those of its card, and not too good."""
    later = table.between(0.5, 1)
    figures = measure(later.is_fraud, _probability(_session((MODELS / "fraud.onnx").read_bytes()), later.features))

    assert 0.87 < figures.roc_auc < 0.98
    assert 0.38 < figures.average_precision < 0.8
    assert figures.calibration_error < 0.005


def test_the_card_is_written_from_the_figures_and_they_are_good_enough() -> None:
    """The card is what the figures give; they are credible, and every ablation costs precision."""
    reports = msgspec.json.decode((MODELS / "fraud.figures.json").read_bytes(), type=dict[str, Report])
    mine = reports["simulator"]

    assert card(reports, "fraud@1.0.0") == (MODELS / "fraud.md").read_text(encoding="utf-8")
    assert 0.90 <= mine.test.roc_auc <= 0.97
    assert 0.5 <= mine.test.average_precision <= 0.75
    assert 0.005 <= mine.test.frauds / mine.test.rows <= 0.01
    assert all(ablated.average_precision < mine.test.average_precision - 0.02 for ablated in mine.ablations.values())
    assert mine.chance["region"] > 0.01
    assert reports["handbook"].test.average_precision >= 0.65
    assert reports["sparkov"].test.average_precision >= 0.90


def test_onnx_equals_lightgbm(table: Table, trained: Trained) -> None:
    """Probabilities agree to 1e-5, missing values and values on thresholds included."""
    features = table.features[:20_000].copy()
    features[np.random.default_rng(0).random(features.shape) < 0.15] = np.nan
    on_threshold = table.features[20_000:21_000].copy()
    on_threshold[:, 0] = np.resize(_thresholds(trained, 0), 1_000)
    rows = np.concatenate([features, on_threshold])
    raw = np.asarray(trained.booster.predict(rows, raw_score=True))
    expected = 1 / (1 + np.exp(-(raw * trained.scale + trained.offset)))

    model = export(trained, "small")
    actual = _probability(_session(model.SerializeToString()), rows)

    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def _thresholds(trained: Trained, feature: int) -> np.ndarray:
    def walk(node: dict) -> list[float]:
        if "split_index" not in node:
            return []
        mine = [node["threshold"]] if node["split_feature"] == feature else []
        return mine + walk(node["left_child"]) + walk(node["right_child"])

    trees = trained.booster.dump_model()["tree_info"]
    return np.array([value for tree in trees for value in walk(tree["tree_structure"])], np.float32)


def test_contributions_explain_the_scores_of_the_file_that_scored(table: Table) -> None:
    """Contributions read from the repository's file add up to its own log-odds; a changed feature moves its own."""
    session = _session((MODELS / "fraud.onnx").read_bytes())
    shap = TreeShap.from_metadata(session.get_modelmeta().custom_metadata_map)
    rows = table.features[-400:]
    contributions = shap.contributions(rows)

    logit = contributions.sum(axis=1) + shap.expected
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), _probability(session, rows), atol=1e-5)
    assert contributions[:, FEATURE_NAMES.index("amount")].std() > 0


def test_history_and_merchant_risk_are_worth_having(table: Table, trained: Trained) -> None:
    """The same training without them ranks a later slice worse."""
    train, validation, test = table.between(0, 0.5), table.between(0.5, 0.7), table.between(0.7, 1)
    whole = average_precision(test.is_fraud, trained.probability(test))
    kept = [name for name in FEATURE_NAMES if not name.startswith(("card_", "merchant_", "amount_r", "seconds"))]
    reduced = fit(train, validation, kept, trees={"trees": 40, "num_threads": 1})
    less = average_precision(test.is_fraud, reduced.probability(test))

    assert whole is not None
    assert less is not None
    assert less < whole - 0.1


def test_thresholds_let_the_wanted_share_of_genuine_through(table: Table, trained: Trained) -> None:
    """On the part that set them, 0.5 % and 0.1 % of the genuine are above."""
    validation = table.between(0.5, 0.7)
    genuine = trained.probability(validation)[~validation.is_fraud]

    assert abs((genuine >= trained.review).mean() - 0.005) < 0.001
    assert abs((genuine >= trained.decline).mean() - 0.001) < 0.0005


def test_training_sees_what_serving_computes() -> None:
    """The running processor, told of merchants by its own tallies, computes the very features of the replay."""
    simulator = Simulator(5, events=6_000, days=50, end_ms=END)
    offline = replay(simulated(simulator))

    online = _serve(simulator)

    assert online.shape == (6_000, len(FEATURE_NAMES))
    np.testing.assert_array_equal(offline.features, online)
    assert (np.isfinite(online).mean(axis=0) > 0.2).all()
    assert np.nanmax(online[:, FEATURE_NAMES.index("merchant_rate_7d")]) > 0.05


def _serve(simulator: Simulator) -> np.ndarray:
    """Features of a processor that reads hour by hour, with a ledger that reads its tallies and the labels."""
    processor = processors.load(
        "fraud", Setup(manifest=Registry(environ={}).resolve("fraud").manifest, token_key=b"k" * 16)
    )
    ledger, tallies = MerchantRiskLedger(7.0), msgspec.json.Decoder(MerchantTally)
    labels, due = simulator.labels(), 0
    known = [msgspec.json.decode(value, type=TransactionLabel) for value in labels.values]
    parts = []
    (batch,) = simulator.batches(simulator.events)
    hours = batch.event_time // HOUR_MS
    for hour in np.unique(hours).tolist():
        while due < len(known) and labels.labelled_at[due] <= hour * HOUR_MS:
            label = known[due]
            ledger.add_label(label.event_id, label.merchant, label.is_fraud, label.event_time, label.labelled_at)
            due += 1
        for merchant, risk in ledger.changed(tolerance=0):
            processor.tables[0].update(merchant.encode(), None if risk is None else encode([risk])[0])
        rows = np.flatnonzero(hours == hour).tolist()
        records = [
            Record("transactions", 0, at, batch.keys[at], batch.values[at], int(batch.event_time[at])) for at in rows
        ]
        prepared = processor.prepare(records)
        assert prepared.rejects == []
        parts.append(prepared.inputs["features"])
        for message in processor.drain():
            ledger.add_tally(tallies.decode(message.value))
    return np.concatenate(parts)


def test_a_replay_leaves_out_what_serving_refuses(tmp_path: Path) -> None:
    """A row that cannot be decoded has no features, and the others keep theirs."""
    simulator = Simulator(5, events=500, days=20, end_ms=END)
    whole = replay(simulated(simulator))
    (block,) = simulated(simulator).blocks()
    broken = block._replace(values=[b"not json", *block.values[1:]])

    rest = replay(Stream("broken", lambda: iter([broken])))

    assert len(whole) - 1 == len(rest)
    whole.save(tmp_path / "t.npz")
    np.testing.assert_array_equal(whole.features, Table.load(tmp_path / "t.npz").features)


def test_figures_are_what_they_are_called() -> None:
    """Calibration error, Wilson intervals and the permutation test give known values."""
    truth = np.arange(3000) % 10 == 0
    cards = np.array([f"c{row % 300}" for row in range(3000)])
    group = np.array([f"g{row % 2}" for row in range(3000)])
    of_one_group, of_one_card = (group == "g0") & (np.arange(3000) % 50 < 5), cards == "c7"

    assert calibration_error(truth, np.full(3000, 0.1)) < 0.01
    assert abs(calibration_error(truth, np.full(3000, 0.3)) - 0.2) < 0.01
    assert (0.0552, 0.1744) == tuple(round(bound, 4) for bound in Rate(10, 100).interval)
    assert chance_of_gap(group, cards, of_one_group, 200) < 0.01
    assert chance_of_gap(group, cards, of_one_card, 200) > 0.5
    assert roc_auc(truth, truth.astype(float)) == 1.0


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the public data sets in {DATA}; see HEADRACE_TEST_DATA")
def test_the_start_of_the_handbook_replays() -> None:
    """The public set goes through the same code: windows fill, merchants become known after the label delay."""
    blocks = handbook().blocks()
    first = [next(blocks) for _ in range(5)]

    table = replay(Stream("handbook", lambda: iter(first)))

    rates = table.features[:, [FEATURE_NAMES.index(name) for name in MERCHANT_FEATURES]]
    assert len(table) > 99_900
    assert np.isnan(rates[:50_000]).all()
    assert np.isfinite(rates[-20_000:]).mean() > 0.5
    assert table.features[:, FEATURE_NAMES.index("card_count_7d")].max() > 10
