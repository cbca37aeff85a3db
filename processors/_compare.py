"""How far two sets of outputs for the same rows are apart. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors import Arrays

__all__ = ["beyond_rounding", "differences", "moved"]

# Sums in another order differ in the last digits; more than this share of an output's largest value is no rounding.
_ROUNDING = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-9}


def differences(expected: Arrays, actual: Arrays) -> dict[str, float]:
    """The largest difference per output, as a share of its largest value.

    Infinite where shapes differ, or where anything but floats is not equal. NaN equals NaN.
    """
    return {name: _difference(array, actual[name]) for name, array in expected.items()}


def moved(expected: Arrays, actual: Arrays) -> dict[str, float]:
    """How far another precision or device moved each output: floats as `differences` says it, else rows that changed.

    A label that flips between two nearly equal classes is no infinite difference here, but one value among many.
    """
    return {name: _moved(array, actual[name]) for name, array in expected.items()}


def beyond_rounding(found: Mapping[str, float], outputs: Arrays) -> dict[str, float]:
    """Those differences that another order of summing does not explain."""
    return {name: apart for name, apart in found.items() if not apart <= _ROUNDING.get(outputs[name].dtype.name, 0.0)}


def _moved(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.dtype.kind == "f" or expected.shape != actual.shape:
        return _difference(expected, actual)
    return float(np.mean(expected != actual)) if expected.size else 0.0


def _difference(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    want, got = expected.astype(np.float64), actual.astype(np.float64)
    equal = (want == got) | (np.isnan(want) & np.isnan(got))
    if equal.all():
        return 0.0
    scale = np.max(np.abs(want), initial=0.0, where=np.isfinite(want))
    apart = float(np.max(np.abs(want - got)[~equal])) / max(float(scale), 1e-6)
    return float("inf") if np.isnan(apart) else apart
