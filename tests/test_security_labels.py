"""What a hostile sender of labels can do to a merchant's rate, and what is left when the labels are taken back."""

from __future__ import annotations

from processors.fraud._label_book import MAX_FRAUDS, MAX_GENUINE, LabelBook
from processors.fraud.merchant_risk import HOUR_MS, MerchantRiskLedger
from schemas.fraud import MerchantTally

HOUR = 485_000
LATER = HOUR + 12


def ledger(transactions: int) -> MerchantRiskLedger:
    """Two merchants with as many transactions each, behind the delay of labels."""
    made = MerchantRiskLedger(delay_days=0.25)
    counts = [transactions, transactions, 1]
    hours = [HOUR, HOUR, LATER]
    made.add_tally(
        MerchantTally("transactions", 0, 0, 9, merchants=["mine", "other", "clock"], hours=hours, counts=counts)
    )
    return made


def label(made: MerchantRiskLedger, events: range, is_fraud: bool, at: int) -> None:
    """Labels of transactions of one merchant, all sent at one time."""
    for event in events:
        made.add_label(f"e{event}", "mine", is_fraud, HOUR * HOUR_MS, at)


def rates(made: MerchantRiskLedger) -> dict[str, float | None]:
    """Rates of the 30 days."""
    return {risk.merchant: risk.rate_30d for risk in made.risk()}


def test_a_flood_of_labels_raises_a_rate_to_one_and_no_further() -> None:
    """Labels of events that never were make a merchant look bad, not worse than that, and others by the mean alone."""
    made = ledger(100)
    before = rates(made)
    label(made, range(5_000), True, 1)
    after = rates(made)

    assert 0 == before["mine"]
    assert 1 == after["mine"]
    assert 0 < (after["other"] or 0) < 0.2


def test_labels_that_are_taken_back_leave_nothing() -> None:
    """Once the poisoning is known, later labels of the same events undo it to the last figure."""
    made = ledger(100)
    before = made.risk()
    label(made, range(500), True, 1)
    label(made, range(500), False, 2)

    assert before == made.risk()


def test_labels_that_are_kept_are_bounded() -> None:
    """More frauds of one merchant than are kept are counted and not taken; so memory ends somewhere."""
    book = LabelBook(24)
    taken = sum(book.take(0, event, True, 1, HOUR) for event in range(MAX_FRAUDS + 1_000))
    for event in range(1_000):
        book.take(1, event, False, 1, HOUR)
    frauds, _ = book.pack(0)
    _, genuine = book.pack(1)

    assert (MAX_FRAUDS, 1_000) == (taken, book.over_limit)
    assert MAX_FRAUDS * 20 == len(frauds)
    assert MAX_GENUINE * 20 == len(genuine)
