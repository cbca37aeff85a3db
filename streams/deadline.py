"""What is too old for the model is answered without it: by the processor's fallback, or as a dead letter.

Strategy: prepare sees every event, so keyed state moves as it always does, and what later events are scored by does
not depend on how earlier ones were answered. Only then the rows that are too old are left out of the model's run, and
their answers are replaced. Pure: the clock is an argument.

An event's age is the worker's clock less the message's timestamp. A message from the future, or without a timestamp, is
never too old. A clock that steps forward makes events look old: they get their fallback, once, as they would for their
age; one that steps back makes them look young, and the model answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from processors._contract import BATCH
from schemas.envelope import Records, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from processors import Arrays, Prepared, Processor
    from processors._contract import Contract
    from schemas.envelope import Message, Record
    from streams.inference import Runs

__all__ = ["DEAD_LETTER", "FALLBACK", "TOO_OLD", "Deadline", "max_age_of"]

TOO_OLD = "too_old"
"""The reason of a dead letter for what came too late, where the processor has no fallback."""
FALLBACK, DEAD_LETTER = "fallback", "dead_letter"
"""What became of an event that was too old, as metrics count it."""

_NO_FALLBACK = "The event was older than max_age_ms when its turn came, and this domain has no fallback."


def max_age_of(processor: Processor, default_ms: int) -> int:
    """The deadline of a domain in milliseconds: the processor's own `max_age_ms` where it has one; 0 is none."""
    own: int | None = getattr(processor, "max_age_ms", None)
    return default_ms if own is None else own


class Deadline:
    """The deadline of one domain.

    Args:
        processor: Whose events; its `fallback(prepared, rows, now_ms)`, where it has one, answers for the model.
        max_age_ms: From which age on.
        observe: Told how many events had which outcome, once per micro-batch that had some.
    """

    def __init__(
        self, processor: Processor, max_age_ms: int, observe: Callable[[str, int], None] = lambda _outcome, _n: None
    ) -> None:
        self._processor = processor
        self._max_age_ms = max_age_ms
        self._observe = observe

    def rows(self, records: Sequence[Record], now_ms: int) -> list[int]:
        """The rows whose event is too old, in order."""
        stamps = Records.of(records).timestamps_ms
        rows: list[int] = np.flatnonzero((stamps > 0) & (stamps < now_ms - self._max_age_ms)).tolist()
        return rows

    def sparing(self, session: Runs, old: Sequence[int]) -> Runs:
        """The session, run without these rows; their outputs are zeros, as those of rows that failed."""
        return _Sparing(session, self._processor.contract, old)

    def answer(
        self, prepared: Prepared, others: Sequence[Message | Reject], old: Sequence[int], now_ms: int
    ) -> Sequence[Message | Reject]:
        """The answers of all rows, those that are too old in place of what interpret made of their zeros.

        Args:
            prepared: What prepare gave.
            others: The answers of interpret; not looked at where all rows are too old.
            old: Which rows.
            now_ms: When they are answered.
        """
        records = prepared.records
        fallback = getattr(self._processor, "fallback", None)
        answers: Sequence[Message | Reject] = (
            [Reject(records[row], TOO_OLD, "", _NO_FALLBACK, prepared.event_id(row)) for row in old]
            if fallback is None
            else fallback(prepared, old, now_ms)
        )
        if len(answers) != len(old):
            name = self._processor.name
            raise RuntimeError(f"{name}: fallback answered {len(answers)} of {len(old)} rows. This is a bug.")
        refused = [row for row, answer in zip(old, answers, strict=True) if isinstance(answer, Reject)]
        if refused and (retract := getattr(self._processor, "retract", None)) is not None:
            retract(prepared, refused)
        for outcome, count in ((FALLBACK, len(old) - len(refused)), (DEAD_LETTER, len(refused))):
            if count:
                self._observe(outcome, count)
        if len(old) == len(records):
            return answers
        by_row = dict(zip(old, answers, strict=True))
        return [by_row.get(row) or other for row, other in enumerate(others)]


class _Sparing:
    def __init__(self, session: Runs, contract: Contract, old: Sequence[int]) -> None:
        self._session = session
        self._inputs = {tensor.name: tensor.batch_axis for tensor in contract.inputs}
        self._outputs = {tensor.name: tensor.shape.index(BATCH) for tensor in contract.outputs}
        self._old = old

    def run(self, inputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        axis_of = self._inputs
        rows = next(array.shape[axis] for name, array in inputs.items() if (axis := axis_of[name]) is not None)
        fresh = np.delete(np.arange(rows), self._old)
        outputs, failed = self._session.run(
            {n: array if (axis := axis_of[n]) is None else array.take(fresh, axis) for n, array in inputs.items()}
        )
        spread = {name: _spread(array, fresh, rows, self._outputs[name]) for name, array in outputs.items()}
        return spread, {int(fresh[row]): why for row, why in failed.items()}


def _spread(array: np.ndarray, to: np.ndarray, rows: int, axis: int) -> np.ndarray:
    """Rows in their places among all; zeros (empty strings) elsewhere."""
    whole = np.full(
        (*array.shape[:axis], rows, *array.shape[axis + 1 :]), "" if array.dtype.kind == "O" else 0, array.dtype
    )
    whole[(slice(None),) * axis + (to,)] = array
    return whole
