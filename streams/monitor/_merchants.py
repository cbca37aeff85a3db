"""Records in, records out: what the merchant risk monitor does, without Faust, Kafka or a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from processors.fraud.merchant_risk import HOUR_MS, MerchantRecord, MerchantRiskLedger
from schemas.codec import Codec
from schemas.dead_letter import to_message
from schemas.envelope import Message
from schemas.fraud import MerchantRisk, MerchantTally, TransactionLabel
from streams.monitor._refuse import decode_labels, decode_tallies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from schemas.envelope import Record
    from streams.settings import MonitorSettings

TALLIES, LABELS = "merchant-tallies", "transaction-labels"
RISK, DEAD_LETTERS = "merchant-risk", "monitor.dead-letters"
INPUTS = (TALLIES, LABELS)

# An event time beyond this says more about a clock than about time; it would end every window at once.
_AHEAD_OF_CLOCK_HOURS = 24
_AHEAD_OF_EVENTS_HOURS = 30 * 24
_FIRST_AHEAD_HOURS = 366 * 24
_IDLE_SWEEP_HOURS = 24


class Codecs(msgspec.Struct, frozen=True):
    """How the values of the topics are encoded."""

    tallies: Codec[MerchantTally]
    labels: Codec[TransactionLabel]
    risk: Codec[MerchantRisk]


class Merchants:
    """The ledger between its topics and its changelog."""

    def __init__(self, settings: MonitorSettings, codecs: Codecs) -> None:
        self._codecs = codecs
        self._ledger = MerchantRiskLedger(settings.label_delay_days, settings.prior_weight)
        self._next_sweep_ms = 0

    def __len__(self) -> int:
        return len(self._ledger)

    @property
    def as_of_ms(self) -> int | None:
        """Newest event time that a tally mentioned."""
        return self._ledger.as_of_ms

    @property
    def skipped(self) -> Mapping[str, int]:
        """Rows and labels that changed nothing, by reason."""
        return {**self._ledger.skipped, "over_limit": self._ledger.labels_over_limit}

    def restore(self, kept: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes over the table's entries; called once, before anything else."""
        self._ledger.restore((key.decode(), _unpack(value)) for key, value in kept)

    def apply(self, records: list[Record], now_ms: int) -> list[Message]:
        """Sums what was read; returns the dead letters."""
        latest_hour = self._latest_hour(now_ms)
        tallies, bad_tallies = decode_tallies([r for r in records if r.topic == TALLIES], self._codecs.tallies)
        for tally in tallies:
            self._ledger.add_tally(tally, latest_hour)
        labels, event_ms, labelled_ms, bad_labels = decode_labels(
            [r for r in records if r.topic == LABELS], self._codecs.labels
        )
        for label, at, labelled_at in zip(labels, event_ms, labelled_ms, strict=True):
            self._ledger.add_label(label.event_id, label.merchant, label.is_fraud, at, labelled_at, latest_hour)
        return [to_message(reject, DEAD_LETTERS, now_ms) for reject in (*bad_tallies, *bad_labels)]

    def news(self) -> list[Message]:
        """Figures that changed since the last call; a tombstone for a merchant that has none any more."""
        changed = self._ledger.changed()
        values = iter(self._codecs.risk.encode(risk for _, risk in changed if risk is not None))
        return [Message(RISK, name.encode(), None if risk is None else next(values)) for name, risk in changed]

    def keep(self) -> dict[bytes, bytes]:
        """Table entries of the merchants that changed since the last call."""
        return {name.encode(): _pack(record) for name, record in self._ledger.drain()}

    def forget_idle(self) -> list[bytes]:
        """Once per day of event time: keys of the merchants that nothing is known of any more."""
        as_of = self._ledger.as_of_ms
        if as_of is None or as_of < self._next_sweep_ms:
            return []
        self._next_sweep_ms = as_of + _IDLE_SWEEP_HOURS * HOUR_MS
        return [name.encode() for name in self._ledger.forget_idle()]

    def _latest_hour(self, now_ms: int) -> int:
        now, as_of = now_ms // HOUR_MS, self._ledger.as_of_ms
        if as_of is None:
            return now + _FIRST_AHEAD_HOURS
        return max(now + _AHEAD_OF_CLOCK_HOURS, as_of // HOUR_MS + _AHEAD_OF_EVENTS_HOURS)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(MerchantRecord).decode
