"""Batches into ClickHouse, one at a time, on a thread of its own: the engine works while the next one is decoded."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from streams.errors import StopError, WorldError
from streams.store._beside_views import insert_beside_views

if TYPE_CHECKING:
    from streams.observe.metrics import SinkMetrics
    from streams.store._partition import Partition
    from streams.store._progress import Claim, Progress
    from streams.store._reader import Place
    from streams.store.client import Store
    from streams.store.destination import Piece

__all__ = ["Batch", "Writer"]


class Batch(NamedTuple):
    """What waited of a partition, ready to be stored."""

    partition: Partition
    pieces: list[Piece]
    claim: Claim | None
    first: int
    """The least offset in it."""
    last: int
    rows: int
    rejects: int

    @property
    def place(self) -> Place:
        """Where on Kafka it comes from."""
        return self.partition.place

    @property
    def table(self) -> str:
        """Where its rows go."""
        return self.partition.destination.table.name


class Writer:
    """Stores one batch at a time. While one is in flight nobody else may use the store: `finish` first."""

    def __init__(self, store: Store, progress: Progress, metrics: SinkMetrics) -> None:
        self._store = store
        self._progress = progress
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._flight: tuple[Batch, Future[bool]] | None = None

    @property
    def free(self) -> bool:
        """Whether the next batch would not have to wait."""
        return self._flight is None or self.done

    @property
    def done(self) -> bool:
        """Whether a batch waits to be finished and finishing it takes no time."""
        return self._flight is not None and self._flight[1].done()

    def begin(self, batch: Batch) -> None:
        """Starts to store a batch; the one before must have been finished."""
        assert self._flight is None, "This is a bug: one batch at a time."
        self._flight = batch, self._thread.submit(self._write, batch)

    def finish(self) -> tuple[Batch, bool | Exception] | None:
        """Waits for the batch in flight: whether its rows are there, or why that is not known; None without one.

        They are not there where another sink claimed the partition.

        Raises:
            StopError: ClickHouse took the rows and does not hold them, though the partition is ours.
            StoreRefusedError: ClickHouse will not take them.
        """
        if self._flight is None:
            return None
        (batch, future), self._flight = self._flight, None
        try:
            return batch, future.result()
        except (WorldError, OSError) as error:
            return batch, error

    def close(self) -> None:
        """Waits for the batch in flight, whatever becomes of it."""
        self._thread.shutdown()

    def _write(self, batch: Batch) -> bool:
        """Announced where it takes more than one insert, or a view makes something of it; proved afterwards."""
        has_views = self._progress.has_views(batch.table)
        if len(batch.pieces) > 1 or has_views:
            self._progress.announce(batch.table, *batch.place, batch.first, batch.last, batch.claim)
        missing, began = batch.pieces, time.monotonic()
        # An insert that failed in the middle may leave its token behind and no rows: they then go under another one,
        # or past the views, which have them by now: what a table takes for a duplicate they are given nevertheless.
        for again in (False, True):
            for piece in missing:
                if again and has_views:
                    insert_beside_views(self._store, piece, batch.place, batch.claim)
                else:
                    self._insert(piece, batch, ":again" if again else "")
            if batch.claim is not None and not self._progress.owns(batch.claim):
                return False
            missing = self._missing(batch)
            if not missing:
                return True
            if passing := self._store.why_not(time.monotonic() - began):
                raise passing
        table = missing[0].table
        raise StopError(
            f"ClickHouse took rows of {batch.place} up to offset {missing[0].last} for {table} but does not hold them:"
            f" something deletes or hides rows of {table}. Look for it; or drop {table}, and it will be made anew from"
            " what Kafka holds."
        )

    def _insert(self, piece: Piece, batch: Batch, again: str) -> None:
        began = time.perf_counter()
        self._store.insert(piece.table, piece.batch, piece.token(*batch.place) + again, batch.claim)
        self._metrics.observe_insert(piece.table, piece.batch.num_rows, time.perf_counter() - began)
        self._metrics.observe_delay(time.time_ns() // 1_000_000, piece.batch["_timestamp"].to_numpy())

    def _missing(self, batch: Batch) -> list[Piece]:
        """The pieces that the tables do not hold.

        Before a batch of one piece the table holds nothing behind that piece. Of a batch of several, or of the rest of
        one, it does: other months, but never the same.
        """
        by_month = len(batch.pieces) > 1 or bool(batch.partition.seen)
        stored = [
            self._progress.stored_until(piece.table, *batch.place, piece.month if by_month else "")
            for piece in batch.pieces
        ]
        return [piece for piece, until in zip(batch.pieces, stored, strict=True) if until is None or until < piece.last]
