"""The fraud domain in `headrace chaos`: how its results, its state and its monitor's figures are compared."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from processors.fraud.features import MERCHANT_FEATURES
from processors.fraud.merchant_risk import HOUR_MS, MerchantRiskLedger, MerchantRiskTable
from processors.fraud.processor import FraudProcessor
from schemas.fraud import MerchantRisk, TransactionLabel
from schemas.times import parse_times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from processors import Processor
    from schemas.envelope import Message

told: tuple[str, ...] = (MerchantRiskTable.topic,)

_OF_THE_RUN = ("scored_at", "latency_ms")
_LONGEST_WINDOW_H, _LATENESS_H = 30 * 24, 24
# Figures are told again from a relative change of 1 % on (`MerchantRiskLedger.changed`).
_TOLERANCE = 0.011


def comparable(value: bytes) -> dict[str, Any]:
    """A score without when and how fast it was made."""
    score: dict[str, Any] = json.loads(value)
    return {name: part for name, part in score.items() if name not in _OF_THE_RUN}


class _Recalled:
    """What the merchants' table said, score by score, in the order of the scores."""

    def __init__(self, results: Sequence[bytes | None]) -> None:
        self._rows = iter([_rates(value) for value in results])

    def rates(self, merchants: Sequence[str], /) -> NDArray[np.float32]:
        rows = list(islice(self._rows, len(merchants)))
        rows += [(np.nan,) * len(MERCHANT_FEATURES)] * (len(merchants) - len(rows))
        return np.array(rows, np.float32).reshape(len(merchants), len(MERCHANT_FEATURES))


def _rates(value: bytes | None) -> tuple[float, ...]:
    features = {} if value is None else json.loads(value)["features"]
    known = (features.get(name) for name in MERCHANT_FEATURES)
    return tuple(np.nan if number is None else number for number in known)


def recall(processor: Processor, results: Sequence[bytes | None]) -> None:
    """Rates of merchants come from the scores instead of from the table."""
    _ours(processor).features.merchants = _Recalled(results)


def entries(processor: Processor, partition: int) -> dict[bytes, bytes]:
    """Histories of cards and recent ids."""
    return _ours(processor).state.dump(partition)


def living(entries: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Without blocks of events that no window can reach any more: when those go is nobody's business."""
    if b"m" not in entries:
        return dict(entries)
    floor = int.from_bytes(entries[b"m"], "little") - (_LONGEST_WINDOW_H + _LATENESS_H) * HOUR_MS
    return {key: value for key, value in entries.items() if key[:1] != b"w" or _newest_ms(value) > floor}


def compare_told(
    results: Sequence[bytes],
    side: Sequence[Message],
    told: Mapping[str, Mapping[bytes, bytes]],
    options: Mapping[str, Any],
) -> list[str]:
    """The last figures of each merchant against a ledger that reads all scores and all labels once."""
    ledger = MerchantRiskLedger(options["label_delay_days"], options["prior_weight"])
    scores = [msgspec.json.decode(value, type=_Scored) for value in results]
    tally = Counter((score.merchant, score.event_time // HOUR_MS) for score in scores)
    if tally:
        merchants, hours = zip(*tally, strict=True)
        ledger.add_tallies(merchants, hours, list(tally.values()), "all", 0, len(scores))
    labels = [
        msgspec.json.decode(message.value or b"", type=TransactionLabel)
        for message in side
        if message.topic == "transaction-labels"
    ]
    times, _ = parse_times([label.event_time for label in labels])
    labelled, _ = parse_times([label.labelled_at for label in labels])
    for label, at, labelled_at in zip(labels, times.tolist(), labelled.tolist(), strict=True):
        ledger.add_label(label.event_id, label.merchant, label.is_fraud, at, labelled_at)
    expected = {risk.merchant: risk for risk in ledger.risk()}
    found = {
        key.decode(): msgspec.json.decode(value, type=MerchantRisk)
        for key, value in told.get(MerchantRiskTable.topic, {}).items()
    }
    return [
        f"{merchant}: {expected.get(merchant)} is right, told was {found.get(merchant)}"
        for merchant in sorted(expected.keys() | found.keys())
        if not _agree(expected.get(merchant), found.get(merchant))
    ]


class _Scored(msgspec.Struct):
    merchant: str
    event_time: int


def _agree(right: MerchantRisk | None, found: MerchantRisk | None) -> bool:
    if right is None or found is None:
        return right is found
    counts = ("count_1d", "count_7d", "count_30d", "frauds_1d", "frauds_7d", "frauds_30d")
    rates = ("rate_1d", "rate_7d", "rate_30d")
    return all(getattr(right, name) == getattr(found, name) for name in counts) and all(
        abs(getattr(right, name) - getattr(found, name)) <= _TOLERANCE * abs(getattr(right, name)) for name in rates
    )


def _newest_ms(block: bytes) -> int:
    """The time of the last event of a block, of which some carry 24 bytes more (see `_windows_log`)."""
    events = (len(block) - 24 * (len(block) % 16 == 8)) // 16
    return int.from_bytes(block[16 * events - 16 : 16 * events - 8], "little")


def _ours(processor: Processor) -> FraudProcessor:
    if not isinstance(processor, FraudProcessor):
        raise TypeError(f"{type(processor).__name__} is no processor of fraud. This is a bug.")
    return processor
