"""From a table of features to one ONNX file: boosted trees, calibrated, with their explanation inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightgbm
import msgspec
import numpy as np
import onnx
import onnxmltools
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression

from processors._tree_shap import Paths
from processors.fraud.features import MERCHANT_FEATURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scripts.train.fraud_replay import Table

Floats = NDArray[np.float64]

REVIEW_FALSE_POSITIVES = 0.005
DECLINE_FALSE_POSITIVES = 0.001

# Trees and leaves are chosen for speed: 100 x 15 scores 4-5 times as fast as 331 x 31 for 0.01 average precision.
TREES = {
    "objective": "binary",
    "num_leaves": 15,
    "max_depth": 6,
    "learning_rate": 0.12,
    "min_data_in_leaf": 100,
    "lambda_l2": 5.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 2,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
MOST_TREES = 120

# What a sender may leave out: so many training rows are shown without it, so that the model knows what to do then.
OPTIONAL = (
    ("category",),
    ("distance_km", "speed_kmh", "distance_home_km"),
    ("distance_home_km",),
    MERCHANT_FEATURES,
)
BLANKED = 0.03


class Trained(msgspec.Struct, frozen=True):
    """A model: log-odds are scale * (sum of the trees) + offset."""

    booster: lightgbm.Booster
    inputs: tuple[str, ...]
    scale: float
    offset: float
    review: float
    decline: float

    def log_odds(self, table: Table) -> Floats:
        """Calibrated, for every row."""
        raw = self.booster.predict(_columns(table, self.inputs), raw_score=True)
        return np.asarray(raw, np.float64) * self.scale + self.offset

    def probability(self, table: Table) -> Floats:
        """Calibrated, for every row."""
        probability: Floats = 1 / (1 + np.exp(-self.log_odds(table)))
        return probability


def fit(
    train: Table, validation: Table, inputs: Sequence[str], seed: int = 1, trees: Mapping[str, object] | None = None
) -> Trained:
    """Trains on one table; stops, calibrates (Platt, 1999, on the log-odds) and sets thresholds on another."""
    settings = {**TREES, "seed": seed, **(trees or {})}
    most = int(settings.pop("trees", MOST_TREES))  # type: ignore[call-overload]
    shown = _blanked(_columns(train, inputs), inputs, seed)
    booster = lightgbm.train(
        settings,
        lightgbm.Dataset(shown, train.is_fraud, feature_name=list(inputs)),
        most,
        valid_sets=[lightgbm.Dataset(_columns(validation, inputs), validation.is_fraud)],
        callbacks=[lightgbm.early_stopping(25, verbose=False)],
    )
    booster = lightgbm.Booster(model_str=_rounded(booster.model_to_string(num_iteration=booster.best_iteration)))
    raw = np.asarray(booster.predict(_columns(validation, inputs), raw_score=True), np.float64)
    platt = LogisticRegression(C=1e6).fit(raw[:, None], validation.is_fraud)
    scale, offset = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    genuine = 1 / (1 + np.exp(-(raw[~validation.is_fraud] * scale + offset)))
    review, decline = np.quantile(genuine, [1 - REVIEW_FALSE_POSITIVES, 1 - DECLINE_FALSE_POSITIVES])
    return Trained(booster, tuple(inputs), scale, offset, round(float(review), 6), round(float(decline), 6))


def export(trained: Trained, name: str, doc: str = "") -> onnx.ModelProto:
    """One graph: `features` float32 [batch, k] to `probability` float32 [batch, 1]; explains itself by metadata."""
    width = len(trained.inputs)
    converted = onnxmltools.convert_lightgbm(
        trained.booster, initial_types=[("features", FloatTensorType([None, width]))], target_opset=15, zipmap=False
    )
    nodes = [
        _trees_only(converted),
        helper.make_node("Mul", ["score", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([value], np.float32), key)
        for key, value in (("scale", trained.scale), ("offset", trained.offset))
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="headrace", doc_string=doc, ir_version=8)
    paths = Paths.from_lightgbm(trained.booster.dump_model(), trained.scale, trained.offset)
    helper.set_model_props(model, {**paths.to_metadata(), "headrace.inputs": ",".join(trained.inputs)})
    onnx.checker.check_model(model)
    return model


def _trees_only(converted: onnx.ModelProto) -> onnx.NodeProto:
    """The classifier that onnxmltools makes, as a plain sum of its trees: no label, no second class, no sigmoid."""
    (classifier,) = [node for node in converted.graph.node if node.op_type == "TreeEnsembleClassifier"]
    renamed = {"class_ids": "target_ids", "class_nodeids": "target_nodeids", "class_treeids": "target_treeids"}
    attributes: dict[str, Any] = {}
    for attribute in classifier.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name.startswith("nodes_"):
            attributes[attribute.name] = value
        elif attribute.name in renamed:
            attributes[renamed[attribute.name]] = value
        elif attribute.name == "class_weights":
            attributes["target_weights"] = value
    attributes["target_ids"] = [0] * len(attributes["target_weights"])
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["score"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        **attributes,
    )


def _rounded(model: str) -> str:
    """The same model with thresholds that are float32: otherwise a value between the two ends elsewhere in ONNX."""
    lines = []
    for line in model.splitlines():
        if line.startswith("threshold="):
            exact = np.array(line.removeprefix("threshold=").split(), np.float64)
            limit = float(np.finfo(np.float32).max)
            exact = np.clip(exact, -limit, limit)
            near = exact.astype(np.float32)
            below = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
            line = "threshold=" + " ".join(repr(float(value)) for value in below)
        if not line.startswith("tree_sizes="):  # sizes in characters, which have changed
            lines.append(line)
    return "\n".join(lines)


def _columns(table: Table, inputs: Sequence[str]) -> NDArray[np.float32]:
    return table.features[:, [table.names.index(name) for name in inputs]]


def _blanked(features: NDArray[np.float32], inputs: Sequence[str], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    shown = features.copy()
    for names in OPTIONAL:
        hidden = np.flatnonzero(rng.random(len(shown)) < BLANKED)
        for name in names:
            if name in inputs:
                shown[hidden, inputs.index(name)] = np.nan
    return shown
