"""The account of a run: what is missing, what is doubled, and what cannot hide."""

from __future__ import annotations

from processors._demo import Answer
from streams.demo.ledger import Account, Ledger


def sent(ledger: Ledger, *names: str | None) -> None:
    for offset, name in enumerate(names):
        ledger.sent((0, offset), name, None, at=0.0)


def answered(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger.result(Answer(name, 0.5, False, ()), at=1.0)


def test_everything_answered_once_is_exact() -> None:
    """Results and dead letters together account for every input."""
    ledger = Ledger()
    sent(ledger, "a", "b", None)
    answered(ledger, "a", "b")
    ledger.dead_letter((0, 2), at=1.0)

    assert Account(events_in=3, scored=2, dead_letters=1, missing=0, duplicates=0) == ledger.account()


def test_an_unanswered_input_is_missing() -> None:
    """An input with neither result nor dead letter is missing, whatever the totals are."""
    ledger = Ledger()
    sent(ledger, "a", "b")
    answered(ledger, "a", "a")

    assert Account(events_in=2, scored=2, dead_letters=0, missing=1, duplicates=1) == ledger.account()


def test_one_event_sent_twice_has_one_result_and_one_dead_letter() -> None:
    """A duplicate in the input is no duplicate in the output when it became a dead letter."""
    ledger = Ledger()
    sent(ledger, "a", "a")
    answered(ledger, "a")
    ledger.dead_letter((0, 1), at=1.0)

    assert Account(events_in=2, scored=1, dead_letters=1, missing=0, duplicates=0) == ledger.account()


def test_a_result_beside_a_dead_letter_is_a_duplicate() -> None:
    """One input that was both answered and dead-lettered is counted as doubled."""
    ledger = Ledger()
    sent(ledger, "a")
    answered(ledger, "a")
    ledger.dead_letter((0, 0), at=1.0)

    assert Account(events_in=1, scored=1, dead_letters=1, missing=0, duplicates=1) == ledger.account()


def test_a_dead_letter_twice_is_a_duplicate() -> None:
    """The same coordinate dead-lettered twice is doubled."""
    ledger = Ledger()
    sent(ledger, None)
    ledger.dead_letter((0, 0), at=1.0)
    ledger.dead_letter((0, 0), at=1.0)

    assert 1 == ledger.account().duplicates


def test_figures_compare_scores_with_the_truth() -> None:
    """Latency from sending to reading, and ranking figures over the events whose truth is known."""
    ledger = Ledger()
    for offset, (name, truth) in enumerate([("a", True), ("b", False), ("c", None)]):
        ledger.sent((0, offset), name, truth, at=10.0)
    for name, score in [("a", 0.9), ("b", 0.2), ("c", 0.5)]:
        ledger.result(Answer(name, score, False, ()), at=10.5)

    figures = ledger.figures()

    assert (500.0, 500.0, 6.0) == (figures["p50_ms"], figures["p99_ms"], figures["events_per_s"])
    assert (0.5, 1.0, 1.0) == (figures["fraud_rate"], figures["roc_auc"], figures["average_precision"])
