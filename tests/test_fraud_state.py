"""The state of the fraud domain survives: what is restored goes on as if nothing had happened."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fraud_cases import NOW, answer, processor, record

from processors.fraud import FraudProcessor
from schemas.envelope import Record

DAY_MS = 86_400_000


def stream(seed: int, count: int) -> list[Record]:
    """Transactions of 40 cards over 50 days in two partitions, with late ones, twins and bad ones among them."""
    rng = np.random.default_rng(seed)
    offsets = [0, 0]
    records = []
    for row, at in enumerate((NOW + np.sort(rng.integers(0, 50 * DAY_MS, count))).tolist()):
        card = int(rng.integers(0, 40))
        fields: dict[str, Any] = {"card": f"{card:016d}", "amount": round(float(rng.random()) * 100 + 1, 2)}
        if rng.random() < 0.1:
            fields["event_time"] = at - int(rng.integers(0, 3 * DAY_MS))
        if rng.random() < 0.05 and row:
            fields["event_id"] = json.loads(records[-1].value or b"")["event_id"]
        if rng.random() < 0.02:
            fields["amount"] = -1
        if rng.random() < 0.5:
            fields |= {"merchant_lat": float(rng.uniform(-60, 60)), "merchant_lon": float(rng.uniform(-60, 60))}
        records.append(record(offsets[card % 2], card % 2, at, **fields))
        offsets[card % 2] += 1
    return records


def write(log: dict[int, dict[bytes, bytes]], scorer: FraudProcessor) -> None:
    """Applies the changes to a compacted changelog."""
    for partition, key, value in scorer.state.changes():
        if value is None:
            log[partition].pop(key, None)
        else:
            log[partition][key] = value


def test_a_moved_partition_answers_like_one_that_stayed() -> None:
    """Results and rejects after restores equal those of an undisturbed run, and dumps equal the changelog."""
    records = stream(1, 3000)
    steady, moved, log = processor(), processor(), {0: {}, 1: {}}
    rejected = 0
    for at in range(0, len(records), 250):
        batch = records[at : at + 250]
        expected, actual = answer(steady, batch), answer(moved, batch)

        assert expected == actual

        rejected += len(actual[1])
        write(log, moved)
        assert log == {p: moved.state.dump(p) for p in log}
        if at % 750 == 0:
            moved = processor()
            for partition, entries in log.items():
                moved.state.restore(partition, entries)

    assert rejected > 100


def test_an_aborted_transaction_leaves_no_trace() -> None:
    """After a drop and a restore the same records get the same answers again."""
    records = stream(2, 600)
    scorer, log = processor(), {0: {}, 1: {}}
    answer(scorer, records[:300])
    write(log, scorer)
    first = answer(scorer, records[300:])
    for partition, entries in log.items():
        scorer.state.drop(partition)
        scorer.state.restore(partition, entries)

    assert [] == list(scorer.state.changes())
    assert first == answer(scorer, records[300:])


def test_an_empty_changelog_is_an_empty_state() -> None:
    """A partition that nobody had before begins with nothing."""
    scorer = processor()
    scorer.state.restore(3, {})

    assert {} == scorer.state.dump(3)
    assert 1 == len(answer(scorer, [record(0, partition=3)])[0])
