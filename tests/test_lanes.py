"""Slices that overlap: the order of their steps, and what becomes of those that raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors._contract import ModelError
from processors._lanes import stream
from processors._slices import spans


class Told:
    """A lane that writes down its steps, and raises in one of them where told to."""

    def __init__(self, name: str, steps: list[str], failing: dict[tuple[str, int], Exception]) -> None:
        self.name = name
        self.steps = steps
        self.failing = failing
        self.number = -1

    def fill(self, feed: dict[str, Any]) -> None:
        self.number = feed["number"]
        self._step("fill")

    def launch(self) -> None:
        self._step("launch")

    def wait(self) -> None:
        self._step("wait")

    def fetch(self) -> list[np.ndarray]:
        self._step("fetch")
        return [np.array(self.number)]

    def _step(self, step: str) -> None:
        self.steps.append(f"{step} {self.number}")
        if (step, self.number) in self.failing:
            raise self.failing[step, self.number]


def streamed(
    slices: int, failing: dict[tuple[str, int], Exception] | None = None
) -> tuple[list[str], list[int], list[tuple[int, int]]]:
    """The steps, the numbers that were kept, and the spans that failed."""
    steps: list[str] = []
    kept: list[int] = []
    pair = [Told(name, steps, failing or {}) for name in ("a", "b")]
    failed = stream(
        pair,  # type: ignore[arg-type]
        spans(slices, 1),
        lambda span: {"number": span[0]},  # type: ignore[dict-item,return-value]
        lambda span, results: kept.append(int(results[0])),
    )
    return steps, kept, failed


def test_copies_go_on_while_something_runs() -> None:
    """The next slice is filled before the last is waited for, and results are fetched after the next is launched."""
    steps, kept, failed = streamed(3)

    assert [
        "fill 0", "launch 0",
        "fill 1", "wait 0", "launch 1", "fetch 0",
        "fill 2", "wait 1", "launch 2", "fetch 1",
        "wait 2", "fetch 2",
    ] == steps  # fmt: skip
    assert ([0, 1, 2], []) == (kept, failed)


@given(
    slices=st.integers(1, 6),
    failing=st.sets(st.tuples(st.sampled_from(["fill", "launch", "wait", "fetch"]), st.integers(0, 5)), max_size=6),
)
def test_slices_that_raise_are_named_and_the_others_kept(slices: int, failing: set[tuple[str, int]]) -> None:
    """Whichever steps of whichever slices raise, every slice is either kept once or named once."""
    _, kept, failed = streamed(slices, {step: RuntimeError("no") for step in failing})

    wrong = sorted({number for _, number in failing if number < slices})
    assert wrong == [start for start, _ in failed]
    assert [number for number in range(slices) if number not in wrong] == kept


def test_nothing_runs_any_more_when_an_error_of_ours_is_raised() -> None:
    """What is under way is waited for, or the next micro-batch would overwrite its buffers."""
    steps: list[str] = []
    pair = [Told(name, steps, {("fetch", 1): ModelError("ours")}) for name in ("a", "b")]

    with pytest.raises(ModelError, match="ours"):
        stream(
            pair,  # type: ignore[arg-type]
            spans(4, 1),
            lambda span: {"number": span[0]},  # type: ignore[dict-item,return-value]
            lambda span, results: None,
        )
    assert ["launch 2", "fetch 1", "wait 2"] == steps[-3:]
