"""Card transactions to fraud scores: prepare and interpret, around a model that somebody else runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors import DomainError, Prepared
from processors._contract import BATCH, Contract, Tensor
from processors._recent_ids import RecentIds
from processors._tokens import CardTokens
from processors._tree_shap import METADATA_KEY, TreeShap
from processors.fraud.admission import Admission, Admitted
from processors.fraud.fallback import fallback_scores
from processors.fraud.features import HOUR_MS, Columns, Features, FraudFeatures
from processors.fraud.merchant_risk import MerchantRiskTable
from processors.fraud.reasons import Reasons
from processors.fraud.state import FraudState
from processors.fraud.tallies import Tallies
from schemas.envelope import Message, Messages, Record, Records, Reject
from schemas.fraud import FraudScore, MerchantTally, Reason, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from processors import Arrays
    from processors.fraud.settings import FraudSettings
    from schemas.codec import Codec

INPUT_TOPIC = "transactions"
OUTPUT_TOPIC = "fraud-scores"
TALLY_TOPIC = "merchant-tallies"

MINUTE_MS = 60_000
# A float32 has seven digits; more would only make results longer.
_PROBABILITY_DIGITS = 8

# Numbers of so many rows are made at a time, and are written while they are still in a core's cache.
_KEPT_ROWS = 512

_WHOLE = frozenset({"hour", "weekday", "category", "age", "gender", "region"})
_NO_REASONS: list[Reason] = []

log = logging.getLogger(__name__)


class Codecs(Protocol):
    """Where the codec of a topic comes from: `schemas.codec.codec_for`, or one that knows the topics' settings."""

    def __call__(self, topic: str, type_: type[Any], /) -> Codec[Any]:
        """The codec of this topic's values."""


class _Batch(msgspec.Struct):
    """What interpret needs of a prepared micro-batch."""

    fields: dict[str, Sequence[Any]]
    tokens: list[str]
    times: NDArray[np.int64]
    features: Features


class FraudProcessor:
    """Scores transactions by the history of their card and by what labels say of their merchant.

    Args:
        settings: Of the domain, over those of the model's manifest.
        model: `name@version` of the model that scores, as it is written into results.
        token_key: Secret of the card tokens.
        codecs: Gives the codec of each topic.
        probability_shape: Shape of the model's output; (batch,) or (batch, 1).
    """

    name = "fraud"
    input_topic = INPUT_TOPIC
    output_topics = (OUTPUT_TOPIC, TALLY_TOPIC)
    prepares_ahead = True
    """No feature is made of scores. An event that comes again within the micro-batch after the one in which the model
    failed on it is a duplicate."""

    def __init__(
        self,
        settings: FraudSettings,
        model: str,
        token_key: bytes,
        codecs: Codecs,
        probability_shape: tuple[int | str, ...] = (BATCH, 1),
    ) -> None:
        self.settings = settings
        self.max_age_ms = settings.max_age_ms
        self.model = model
        self.merchants = MerchantRiskTable()
        self.tables = (self.merchants,)
        self.features = FraudFeatures(settings, self.merchants)
        recent_ids = RecentIds(round(settings.duplicate_window_minutes * MINUTE_MS), settings.duplicate_max_ids)
        self.state = FraudState(self.features.windows, recent_ids)
        self.inputs = settings.inputs or self.features.names
        self.contract = Contract(
            inputs=(Tensor("features", "float32", (BATCH, len(self.inputs))),),
            outputs=(Tensor("probability", "float32", probability_shape),),
        )
        self._columns = self._input_columns()
        self._admission = Admission(settings, recent_ids, codecs(INPUT_TOPIC, Transaction))
        self._scores: Codec[FraudScore] = codecs(OUTPUT_TOPIC, FraudScore)
        self._tally_codec: Codec[MerchantTally] = codecs(TALLY_TOPIC, MerchantTally)
        self._tokens = CardTokens(token_key)
        self._tallies = Tallies()
        self._reasons = Reasons(self.inputs)
        self._shap: TreeShap | None = None
        self._late = 0
        kinds = [(name, float | None) for name in self.features.names]
        self._whole = [at for at, name in enumerate(self.features.names) if _is_whole(name)]
        self._values_type = msgspec.defstruct("FeatureValues", kinds, frozen=True, gc=False)

    def attach(self, metadata: Mapping[str, str]) -> None:
        """Takes what the loaded model's file says about itself: the trees that explain its scores."""
        if METADATA_KEY in metadata:
            self._shap = TreeShap.from_metadata(metadata)
        else:
            log.warning("%s has no trees in its metadata (%s): scores come without reasons", self.model, METADATA_KEY)

    def prepare(self, records: Sequence[Record]) -> Prepared:
        """Decodes and checks, then computes features in the order of the records; each becomes history of its card."""
        columns = Records.of(records)
        admitted = self._admission.admit(columns)
        batch = self._update(admitted)
        self._tallies.add(columns, admitted.records, admitted.fields["merchant"], admitted.times // HOUR_MS)
        inputs = batch.features.inputs
        return Prepared(
            inputs={"features": inputs if self._columns is None else inputs[:, self._columns]},
            records=admitted.records,
            context=batch,
            rejects=admitted.rejects,
            event_ids=admitted.fields["event_id"],
        )

    def interpret(self, prepared: Prepared, outputs: Arrays, now_ms: int) -> Sequence[Message | Reject]:
        """One score per row; a row for which the model gave no probability is rejected."""
        raw = outputs["probability"].reshape(len(prepared.records)).astype(np.float64)
        probabilities = np.round(raw, _PROBABILITY_DIGITS)
        values = self._scores.encode(self._score(prepared, probabilities, now_ms))
        results = Messages(OUTPUT_TOPIC, list(map(str.encode, prepared.context.tokens)), values)
        senseless = np.flatnonzero(~((raw >= 0) & (raw <= 1))).tolist()
        if not senseless:
            return results
        self.retract(prepared, senseless)
        answers: list[Message | Reject] = list(results)
        for row in senseless:
            detail = "The model's output is no probability."
            answers[row] = Reject(prepared.records[row], "model_error", detail=detail, event_id=prepared.event_id(row))
        return answers

    def retract(self, prepared: Prepared, rows: Iterable[int]) -> None:
        """Lets rows that the model failed on come again as no duplicates; they stay part of their card's history."""
        ids = prepared.context.fields["event_id"]
        for row in rows:
            record = prepared.records[row]
            self.state.recent_ids.retract(record.partition, [ids[row]], [record.offset])

    def fallback(self, prepared: Prepared, rows: Sequence[int], now_ms: int) -> Sequence[Message | Reject]:
        """The configured decision for rows that are too old for the model."""
        batch: _Batch = prepared.context
        derived = {
            "card_token": batch.tokens,
            "event_time": batch.times.tolist(),
            "late": batch.features.late.tolist(),
        }
        stamps = Records.of(prepared.records).timestamps_ms
        scores = fallback_scores(batch.fields, derived, stamps, rows, self.settings, now_ms)
        keys = [score.card_token.encode() for score in scores]
        return Messages(OUTPUT_TOPIC, keys, self._scores.encode(scores))

    def counters(self) -> dict[str, int]:
        """What this process has seen since its start, aborted transactions included."""
        return {"late_events": self._late, "events_over_cap": self.features.windows.capped}

    def drain(self) -> list[Message]:
        """Tallies of the transactions accepted since the last call, by source partition."""
        tallies = self._tallies.drain()
        return [
            Message(TALLY_TOPIC, f"{tally.topic}:{tally.partition}".encode(), value)
            for tally, value in zip(tallies, self._tally_codec.encode(tallies), strict=True)
        ]

    def _input_columns(self) -> list[int] | None:
        """Which features are inputs, or None where all are, in their order."""
        names = self.features.names
        unknown = [name for name in self.inputs if name not in names]
        if unknown:
            raise DomainError(f"[domains.fraud] inputs: {unknown[0]!r} is no feature; there are: {', '.join(names)}")
        return None if tuple(self.inputs) == names else [names.index(name) for name in self.inputs]

    def _update(self, admitted: Admitted) -> _Batch:
        fields = admitted.fields
        tokens = self._tokens.of(fields["card"])
        features = self.features.update(Columns.of_fields(fields, tokens, admitted.times, admitted.records.partitions))
        self._late += int(np.count_nonzero(features.late))
        return _Batch(fields, list(map(bytes.hex, tokens)), admitted.times, features)

    def _score(self, prepared: Prepared, probabilities: NDArray[np.float64], now_ms: int) -> Iterator[FraudScore]:
        """Column by column, as fast as C takes them; each score is made when it is encoded, and gone after it."""
        batch: _Batch = prepared.context
        fields = batch.fields
        stamps = Records.of(prepared.records).timestamps_ms
        latencies = np.where(stamps > 0, np.maximum(now_ms - stamps, 0), 0).astype(np.float64)
        columns: dict[str, Iterable[Any]] = {
            "event_id": fields["event_id"],
            "card_token": batch.tokens,
            "merchant": fields["merchant"],
            "probability": probabilities.tolist(),
            "decision": self._decide(probabilities),
            "reasons": self._explain(prepared.inputs["features"], probabilities),
            "features": self._kept_features(batch.features),
            "model": repeat(self.model),
            "event_time": batch.times.tolist(),
            "scored_at": repeat(now_ms),
            "latency_ms": latencies.tolist(),
            "late": batch.features.late.tolist(),
            **{name: fields[name] for name in ("amount", "category", "currency", "age", "gender", "region")},
        }
        return map(FraudScore, *(columns[name] for name in FraudScore.__struct_fields__))

    def _decide(self, probabilities: NDArray[np.float64]) -> list[str]:
        decisions = ["approve"] * len(probabilities)
        for row in np.flatnonzero(probabilities >= self.settings.review).tolist():
            decisions[row] = "decline" if probabilities[row] >= self.settings.decline else "review"
        return decisions

    def _explain(self, inputs: NDArray[np.float32], probabilities: NDArray[np.float64]) -> list[list[Reason]]:
        reasons = [_NO_REASONS] * len(probabilities)
        flagged = np.flatnonzero(probabilities >= self.settings.review)
        if self._shap is not None and len(flagged):
            found = self._reasons.of(self._shap.contributions(inputs[flagged]))
            for row, why in zip(flagged.tolist(), found, strict=True):
                reasons[row] = why
        return reasons

    def _kept_features(self, features: Features) -> Iterable[Any]:
        """The values by name: structs, which are made and written three times as fast as dictionaries."""
        if not self.settings.keep_features:
            return repeat({})
        rows = len(features.values)
        return chain.from_iterable(
            self._kept(features.values[start : start + _KEPT_ROWS]) for start in range(0, rows, _KEPT_ROWS)
        )

    def _kept(self, values: NDArray[np.float64]) -> Iterable[Any]:
        columns: list[list[float | None]] = values.T.tolist()
        for at in self._whole:
            columns[at] = _whole_numbers(values[:, at])
        return map(self._values_type, *columns)


def _whole_numbers(column: NDArray[np.float64]) -> list[float | None]:
    """Integers, None where unknown; what is whole is so by the feature alone, so that no neighbour changes a byte."""
    unknown = np.isnan(column)
    if not unknown.any():
        return column.astype(np.int64).tolist()  # type: ignore[no-any-return]
    numbers: list[float | None] = np.where(unknown, 0, column).astype(np.int64).tolist()
    for row in np.flatnonzero(unknown).tolist():
        numbers[row] = None
    return numbers


def _is_whole(name: str) -> bool:
    return name in _WHOLE or "_count_" in name
