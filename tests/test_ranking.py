"""Ranking figures equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from processors._ranking import average_precision, roc_auc


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60))
def test_figures_equal_those_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    """Both figures agree with scikit-learn, ties included."""
    truth = np.array([label for label, _ in rows])
    scores = np.array([score / 8 for _, score in rows])
    assume(truth.any() and not truth.all())

    assert pytest.approx(roc_auc_score(truth, scores), abs=1e-12) == roc_auc(truth, scores)
    assert pytest.approx(average_precision_score(truth, scores), abs=1e-12) == average_precision(truth, scores)


def test_figures_of_one_kind_only_are_unknown() -> None:
    """Without both kinds there is no figure, rather than a wrong one."""
    scores = np.array([0.1, 0.9])

    assert roc_auc(np.array([True, True]), scores) is None
    assert average_precision(np.array([False, False]), scores) is None
