"""Transactions from files: plain ones, two public data sets by name, and any other by a mapping file.

read("transactions.jsonl")             lines of `schemas.fraud.Transaction`, passed byte for byte
read("transactions.csv", "sparkov")    a preset
read("mine.parquet", "mine.toml")      a mapping file, see `processors._tabular.ColumnMapping`
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from processors._tabular import ColumnMapping, MappingError, Row, Truth, read_mapping, read_rows
from schemas.fraud import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PRESETS", "MappingError", "Row", "read"]

PLAIN = ColumnMapping(key="card", id="event_id", label="is_fraud")

PRESETS = {
    # github.com/Fraud-Detection-Handbook/simulated-data-raw: customers are cards, terminals are merchants.
    "handbook": ColumnMapping(
        fields={
            "event_id": "TRANSACTION_ID",
            "card": "CUSTOMER_ID",
            "merchant": "TERMINAL_ID",
            "amount": "TX_AMOUNT",
            "event_time": "TX_DATETIME",
        },
        times={"event_time": "iso"},
        key="card",
        id="event_id",
        label="TX_FRAUD",
        others=False,
    ),
    # github.com/namebrandon/Sparkov_Data_Generation and the set of that name on Kaggle, whose `unix_time` is seven
    # years behind: the text is the clock of both. Names, streets and jobs are left where they are.
    "sparkov": ColumnMapping(
        fields={
            "event_id": "trans_num",
            "card": "cc_num",
            "merchant": "merchant",
            "category": "category",
            "amount": "amt",
            "event_time": "trans_date_trans_time",
            "merchant_lat": "merch_lat",
            "merchant_lon": "merch_long",
            "home_lat": "lat",
            "home_lon": "long",
            "gender": "gender",
            "region": "state",
        },
        times={"event_time": "iso"},
        ages={"age": "dob"},
        key="card",
        id="event_id",
        label="is_fraud",
        truth=Truth(file="truth_full.csv.gz", id="trans_num", label="is_fraud"),
        others=False,
    ),
}


def read(path: Path | str, preset_or_mapping: str | Path | None = None) -> Iterator[Row]:
    """Transactions of a file, in its order; what cannot be read comes as it stands and will be refused downstream.

    Args:
        path: JSON lines, CSV (both also `.gz`) or Parquet.
        preset_or_mapping: A name of `PRESETS`, the path of a mapping file, or None for files of plain fields.

    Raises:
        MappingError: preset, mapping or kind of file are unknown, or the file lacks a column.
        OSError: the file cannot be read.
    """
    if preset_or_mapping is None:
        return read_rows(Path(path), Transaction, PLAIN, plain=True)
    return read_rows(Path(path), Transaction, _mapping(preset_or_mapping))


def _mapping(preset_or_mapping: str | Path) -> ColumnMapping:
    preset = PRESETS.get(str(preset_or_mapping))
    if preset is not None:
        return preset
    path = Path(preset_or_mapping)
    if path.suffix != ".toml":
        near = difflib.get_close_matches(str(preset_or_mapping), PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"presets are {sorted(PRESETS)}, mapping files end in .toml."
        raise MappingError(f"There is no preset {str(preset_or_mapping)!r}; {hint}")
    mapping = read_mapping(path)
    # A mapping for transactions means their card and their id unless it says otherwise.
    return ColumnMapping(
        **{name: getattr(mapping, name) for name in mapping.__struct_fields__ if name not in ("key", "id")},
        key=mapping.key or "card",
        id=mapping.id or "event_id",
    )
