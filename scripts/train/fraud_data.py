"""Data sets as streams: transactions in order of event time, with their truth and when it became known.

simulator   this project's own world, by seed
handbook    the fraud detection handbook's simulated set; labels 7 days late
sparkov     a set of the Sparkov generator; labels as they arrive in its label stream
"""

from __future__ import annotations

import csv
import gzip
import os
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from processors.fraud.presets import read
from schemas.codec import JsonCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from processors.fraud.simulator import Simulator

DATA = Path(os.environ.get("HEADRACE_TEST_DATA", "../shared/data")) / "fraud"
BLOCK = 20_000
DAY_MS = 86_400_000
HANDBOOK_LABEL_DELAY_DAYS = 7


class Block(NamedTuple):
    """Some transactions of a stream."""

    values: list[bytes]
    """As they would stand on the topic."""
    is_fraud: NDArray[np.bool_]
    labelled_at: NDArray[np.int64] | None
    """When the label of each arrives, 0 where none does; None is 7 days after a fraud."""


class Stream(NamedTuple):
    """A data set that can be replayed."""

    name: str
    blocks: Callable[[], Iterator[Block]]


def simulated(simulator: Simulator) -> Stream:
    """The stream of one seed."""
    return Stream(f"simulator-{simulator.seed}", lambda: _simulated_blocks(simulator))


def _simulated_blocks(simulator: Simulator) -> Iterator[Block]:
    arrival = np.zeros(simulator.events, np.int64)
    labels = simulator.labels()
    arrival[labels.event_number] = labels.labelled_at
    for batch in simulator.batches(BLOCK):
        known = arrival[batch.first_number : batch.first_number + len(batch)]
        yield Block(batch.values, batch.is_fraud, known)


def handbook(path: Path | None = None) -> Stream:
    """The handbook's transactions from April to July 2018."""
    file = path or DATA / "handbook_transactions.parquet"
    return Stream("handbook", lambda: _read_blocks(file, "handbook", None))


def sparkov(path: Path | None = None) -> Stream:
    """The Sparkov-like transactions from January to April 2026 and their label stream."""
    folder = path or DATA / "sparkov"
    return Stream("sparkov", lambda: _read_blocks(folder / "transactions.csv.gz", "sparkov", _arrivals(folder)))


def _arrivals(folder: Path) -> dict[str, int]:
    with gzip.open(folder / "labels.csv.gz", "rt") as lines:
        return {row["trans_num"]: int(row["label_unix_time"]) * 1000 for row in csv.DictReader(lines)}


class _Identified(msgspec.Struct):
    event_id: str


def _read_blocks(file: Path, preset: str, arrivals: dict[str, int] | None) -> Iterator[Block]:
    codec = JsonCodec(_Identified)
    source = read(file, preset)
    while rows := list(islice(source, BLOCK)):
        values = [row.value for row in rows]
        fraud = np.fromiter((bool(row.label) for row in rows), np.bool_, len(rows))
        if arrivals is None:
            yield Block(values, fraud, None)
        else:
            ids = (codec.decode(value).event_id for value in values)
            yield Block(values, fraud, np.fromiter(map(arrivals.get, ids, repeat(0)), np.int64, len(rows)))
