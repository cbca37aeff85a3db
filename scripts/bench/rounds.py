"""Contenders in turns: every round runs all of them, in the opposite order of the round before."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def alternating(names: Sequence[str], rounds: int) -> Iterable[tuple[int, str]]:
    """(round, name): whatever the machine does meanwhile hits every contender alike, and no one is always first."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def spread(values: Iterable[float], digits: int = 3) -> dict[str, Any] | None:
    """Median, lowest and highest of what the rounds gave; None where none gave anything."""
    found = list(values)
    if not found:
        return None
    return {
        "median": round(median(found), digits),
        "low": round(min(found), digits),
        "high": round(max(found), digits),
        "rounds": len(found),
    }


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Ours divided by theirs, round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True) if a and b]


def thinned(samples: Sequence[Any], most: int = 200) -> list[Any]:
    """Evenly spaced ones of many, the first and the last among them: a plot shows no more."""
    if len(samples) <= most:
        return list(samples)
    return [samples[round(at * (len(samples) - 1) / (most - 1))] for at in range(most)]


def say(text: str) -> None:
    """One line of progress, beside the results."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
