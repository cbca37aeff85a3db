"""Exact Shapley values of boosted trees (path-dependent TreeSHAP), vectorised over a batch.

Lundberg, Erion and Lee, "Consistent Individualized Feature Attribution for Tree Ensembles" (2018), values a coalition
S of features, for one leaf, at

    leaf value * product over j in S of [x_j takes the path's way] * product over j outside S of cover_j

where a path's splits on one feature merge into one condition (an interval, and whether a missing value passes) and
cover_j is the share of training rows that went the path's way at those splits. The model's value is the sum over its
leaves, and Shapley values are linear, so each leaf can be treated alone. With D conditions on a path, the Shapley
values of its leaf depend on x only through which of the D conditions hold: 2^D patterns. They are tabulated once, a
batch then costs one comparison per condition and one look-up per path, without walking a tree.

Paths with fewer than D conditions are padded with conditions that always hold and have cover 1; such a player adds
nothing to any coalition, so the values of the others do not change.
"""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["METADATA_KEY", "Paths", "TreeShap"]

METADATA_KEY = "headrace.tree_shap"
"""Where an ONNX file holds the paths of its trees, so that contributions belong to the model that scored."""

# 2^10 patterns of 10 values are 80 kB a leaf: deeper trees want the walking algorithm, not tables.
_MAX_CONDITIONS = 10
# Rows at a time: keeps the look-ups of 1,500 paths within a core's second-level cache.
_ROWS = 16


class Paths(msgspec.Struct, frozen=True):
    """Every leaf of every tree, with the conditions on the way to it; arrays are (leaves, conditions)."""

    feature: npt.NDArray[np.int16]
    low: npt.NDArray[np.float32]
    """The value must be above."""
    high: npt.NDArray[np.float32]
    """The value must be at most."""
    missing: npt.NDArray[np.bool_]
    """Whether NaN passes."""
    cover: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    """Of the leaves, (leaves,)."""
    offset: float = 0.0
    """Added to the sum of the leaves."""

    @classmethod
    def from_lightgbm(cls, dump: Mapping[str, Any], scale: float = 1.0, offset: float = 0.0) -> Paths:
        """Flattens `Booster.dump_model()`; the raw score becomes scale * score + offset, as calibration wants it.

        Raises:
            ValueError: a split is not numeric, or a path has too many features.
        """
        leaves = [leaf for tree in dump["tree_info"] for leaf in _walk(tree["tree_structure"], {})]
        width = max((len(conditions) for conditions, _ in leaves), default=0) or 1
        if width > _MAX_CONDITIONS:
            raise ValueError(f"A path tests {width} features, at most {_MAX_CONDITIONS} can be explained by tables.")
        shape = (len(leaves), width)
        low, high = np.full(shape, -np.inf, np.float32), np.full(shape, np.inf, np.float32)
        feature, missing, cover = np.zeros(shape, np.int16), np.ones(shape, np.bool_), np.ones(shape)
        for row, (conditions, _) in enumerate(leaves):
            for column, (index, condition) in enumerate(conditions.items()):
                feature[row, column] = index
                low[row, column], high[row, column], missing[row, column], cover[row, column] = condition
        value = np.array([value for _, value in leaves]) * scale
        return cls(feature, low, high, missing, cover, value, offset)

    def to_metadata(self) -> dict[str, str]:
        """What `TreeShap.from_metadata` reads, small enough to travel inside the model's file."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self.__struct_fields__}
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return {METADATA_KEY: base64.b85encode(file.getvalue()).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Paths:
        """The reverse of `to_metadata`; raises KeyError where the model has no paths inside."""
        with np.load(io.BytesIO(base64.b85decode(metadata[METADATA_KEY])), allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in cls.__struct_fields__}
        return cls(**(columns | {"offset": float(columns["offset"])}))


class TreeShap:
    """Contributions of features to the log-odds of rows, for one model."""

    expected: float
    """The model's mean over its training rows: a row's score is this plus the sum of its contributions."""

    def __init__(self, paths: Paths) -> None:
        """Builds the tables; 1,500 leaves of 6 conditions take about 20 ms and 5 MB."""
        self._paths = paths
        width = paths.feature.shape[1]
        self.expected = float((paths.value * paths.cover.prod(axis=1)).sum() + paths.offset)
        self._table = _table(paths.cover, paths.value).ravel()
        used = (paths.cover != 1) | (paths.low > -np.inf) | (paths.high < np.inf) | ~paths.missing
        leaf, column = np.nonzero(used)
        order = np.argsort(paths.feature[leaf, column], kind="stable")
        self._leaf = leaf[order]
        self._base = self._leaf * (width << width) + column[order]
        self._features, self._starts = np.unique(paths.feature[leaf, column][order], return_index=True)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> TreeShap:
        """Explains the model whose ONNX file has this metadata."""
        return cls(Paths.from_metadata(metadata))

    def contributions(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Shapley values, (n, k) for (n, k) features; a row sums to its log-odds less `expected`."""
        out = np.zeros(features.shape)
        for low in range(0, len(features), _ROWS):
            rows = features[low : low + _ROWS]
            at = self._patterns(rows)[:, self._leaf]
            at += self._base
            if len(self._starts):
                out[low : low + _ROWS, self._features] = np.add.reduceat(self._table[at], self._starts, axis=1)
        return out

    def _patterns(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Which conditions of each path hold, as a place in the table: (n, leaves)."""
        paths, width = self._paths, self._paths.feature.shape[1]
        pattern = np.zeros((len(rows), len(paths.value)), np.intp)
        for column in range(width):
            x = rows[:, paths.feature[:, column]]
            holds = (x > paths.low[:, column]) & (x <= paths.high[:, column])
            holds |= np.isnan(x) & paths.missing[:, column]
            pattern += holds * (width << column)
        return pattern


def _table(cover: npt.NDArray[np.float64], value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shapley values by leaf, pattern and condition: (leaves, 2^D, D).

    A coalition S counts only where all its conditions hold; it is then worth value * product of cover outside S.
    """
    width = cover.shape[1]
    sets = np.arange(1 << width)
    member = (sets[:, None] >> np.arange(width)) & 1 == 1
    worth = np.where(member, 1.0, cover[:, None, :]).prod(axis=2) * value[:, None]
    size = member.sum(axis=1)
    weight = np.array([1 / (width * math.comb(width - 1, count)) for count in range(width)])
    joined = np.where(member, weight[np.maximum(size - 1, 0)][:, None], -weight[np.minimum(size, width - 1)][:, None])
    inside = (sets[None, :] & ~sets[:, None]) == 0
    kernel = (inside[:, :, None] * joined[None, :, :]).transpose(1, 0, 2).reshape(len(sets), -1)
    table: npt.NDArray[np.float64] = (worth @ kernel).reshape(len(value), len(sets), width)
    return table


Condition = tuple[float, float, bool, float]


def _walk(node: Mapping[str, Any], conditions: dict[int, Condition]) -> Iterator[tuple[dict[int, Condition], float]]:
    """Leaves of a tree as (conditions by feature, value)."""
    if "split_index" not in node:
        yield conditions, float(node["leaf_value"])
        return
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        raise ValueError(f"Only numeric splits can be explained, not {node['decision_type']} {node['missing_type']}.")
    feature, threshold = int(node["split_feature"]), _round_down(float(node["threshold"]))
    # LightGBM reads a missing value as 0 where the feature never missed in training.
    left_takes_missing = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0
    low, high, missing, cover = conditions.get(feature, (-math.inf, math.inf, True, 1.0))
    for child, goes_left in ((node["left_child"], True), (node["right_child"], False)):
        share = _count(child) / node["internal_count"]
        bounds = (low, min(high, threshold)) if goes_left else (max(low, threshold), high)
        passes = missing and left_takes_missing == goes_left
        yield from _walk(child, conditions | {feature: (*bounds, passes, cover * share)})


def _count(node: Mapping[str, Any]) -> int:
    return int(node["internal_count"] if "split_index" in node else node["leaf_count"])


def _round_down(threshold: float) -> float:
    """The largest float32 that is not above: for float32 features the comparison stays the same."""
    limit = float(np.finfo(np.float32).max)
    inside = min(max(threshold, -limit), limit)  # a split that only asks whether a value is missing lies beyond
    rounded = np.float32(inside)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if rounded > inside else rounded)
