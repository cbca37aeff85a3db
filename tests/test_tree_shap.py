"""Contributions from tables equal LightGBM's own and the definition of the Shapley value."""

from __future__ import annotations

from itertools import permutations

import lightgbm
import numpy as np
import pytest

from processors._tree_shap import METADATA_KEY, Paths, TreeShap


def _data(seed: int, rows: int = 4000, columns: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, columns)).astype(np.float32)
    features[:, 1] = np.round(features[:, 1])
    features[rng.random(features.shape) < 0.1] = np.nan
    features[:, 2] = np.nan_to_num(features[:, 2])
    signal = np.nan_to_num(features)
    return features, (signal[:, 0] * 2 + signal[:, 1] * signal[:, 2] + rng.normal(size=rows) > 1).astype(int)


def _train(seed: int, depth: int, leaves: int, trees: int) -> tuple[lightgbm.Booster, np.ndarray]:
    features, truth = _data(seed)
    settings = {"objective": "binary", "num_leaves": leaves, "max_depth": depth, "verbose": -1, "num_threads": 1}
    return lightgbm.train(settings, lightgbm.Dataset(features, truth), trees), features[:300]


@pytest.mark.parametrize(("depth", "leaves", "trees"), [(1, 2, 5), (3, 8, 30), (6, 31, 60), (8, 40, 10)])
def test_contributions_equal_lightgbm(depth: int, leaves: int, trees: int) -> None:
    """Missing values and ties included, values and expectation are LightGBM's to 1e-6."""
    booster, features = _train(depth, depth, leaves, trees)
    expected = booster.predict(features, pred_contrib=True)

    actual = TreeShap(Paths.from_lightgbm(booster.dump_model()))

    np.testing.assert_allclose(actual.contributions(features), expected[:, :-1], atol=1e-6)
    assert abs(actual.expected - expected[0, -1]) < 1e-6


def test_contributions_add_up_to_the_calibrated_score() -> None:
    """Scaled and shifted as calibration wants, a row's contributions and the expectation make its log-odds."""
    booster, features = _train(11, 5, 15, 40)
    shap = TreeShap(Paths.from_lightgbm(booster.dump_model(), scale=0.8, offset=-0.3))

    total = shap.contributions(features).sum(axis=1) + shap.expected

    np.testing.assert_allclose(total, 0.8 * booster.predict(features, raw_score=True) - 0.3, atol=1e-9)


def test_paths_survive_metadata() -> None:
    """What is stored in a model's file explains exactly as what was stored, and fits in it."""
    booster, features = _train(3, 6, 15, 20)
    paths = Paths.from_lightgbm(booster.dump_model(), offset=0.25)

    metadata = paths.to_metadata()
    restored = TreeShap.from_metadata({"other": "text"} | metadata)

    assert len(metadata[METADATA_KEY]) < 20_000
    np.testing.assert_array_equal(TreeShap(paths).contributions(features), restored.contributions(features))
    assert TreeShap(paths).expected == restored.expected


def test_tables_equal_the_definition() -> None:
    """On a small tree the values are the mean marginal contribution over all orders of the features."""
    booster, features = _train(5, 3, 6, 1)
    paths = Paths.from_lightgbm(booster.dump_model())
    row = features[:1]

    def worth(known: frozenset[int]) -> float:
        x = row[0, paths.feature]
        holds = ((x > paths.low) & (x <= paths.high)) | (np.isnan(x) & paths.missing)
        factors = np.where(np.isin(paths.feature, list(known)), holds, paths.cover)
        return float((paths.value * factors.prod(axis=1)).sum())

    players = sorted({int(index) for index in np.unique(paths.feature)})
    orders = list(permutations(players))
    expected = np.zeros(row.shape[1])
    for order in orders:
        for place, player in enumerate(order):
            gain = worth(frozenset(order[: place + 1])) - worth(frozenset(order[:place]))
            expected[player] += gain / len(orders)

    np.testing.assert_allclose(TreeShap(paths).contributions(row)[0], expected, atol=1e-12)


def test_a_model_of_stumps_without_splits_contributes_nothing() -> None:
    """Leaves without conditions leave only the expectation."""
    tree = {"tree_info": [{"tree_structure": {"leaf_value": 0.5}}, {"tree_structure": {"leaf_value": -0.2}}]}
    shap = TreeShap(Paths.from_lightgbm(tree))

    np.testing.assert_array_equal(shap.contributions(np.zeros((3, 4), np.float32)), np.zeros((3, 4)))
    assert abs(shap.expected - 0.3) < 1e-12


def test_no_rows_give_no_contributions() -> None:
    """A batch without flagged rows is answered in shape."""
    booster, _ = _train(5, 3, 6, 2)

    assert TreeShap(Paths.from_lightgbm(booster.dump_model())).contributions(np.zeros((0, 9), np.float32)).shape == (
        0,
        9,
    )


def test_paths_that_test_too_much_are_refused() -> None:
    """A tree with more conditions than tables can hold is refused by name, not answered slowly."""
    node = {"leaf_value": 1.0, "leaf_count": 1}
    for feature in range(11):
        node = {
            "split_index": feature, "split_feature": feature, "threshold": 0.0, "decision_type": "<=",
            "missing_type": "NaN", "default_left": True, "internal_count": feature + 2,
            "left_child": node, "right_child": {"leaf_value": 0.0, "leaf_count": 1},
        }  # fmt: skip

    with pytest.raises(ValueError, match="11 features"):
        Paths.from_lightgbm({"tree_info": [{"tree_structure": node}]})


def test_categorical_splits_are_refused() -> None:
    """Only numeric splits have intervals."""
    node = {"split_index": 0, "decision_type": "==", "missing_type": "None"}

    with pytest.raises(ValueError, match="numeric"):
        Paths.from_lightgbm({"tree_info": [{"tree_structure": node}]})
