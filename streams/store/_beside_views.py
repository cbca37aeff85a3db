"""Rows into a table and past the materialised views that hang on it.

Needed where an insert left its token and no rows of it: sent once more under that token, the table takes it for a
duplicate and hands it on to the views, which have it by then. Under another token the views would have it twice. So
the rows go into a table of the same shape, and its part is attached to the right one, of which views learn nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from streams.store._arrow import identifier, literal

if TYPE_CHECKING:
    from streams.store._progress import Claim
    from streams.store._reader import Place
    from streams.store.client import Store
    from streams.store.destination import Piece

__all__ = ["insert_beside_views"]


def insert_beside_views(store: Store, piece: Piece, place: Place, claim: Claim | None) -> None:
    """Inserts a piece, all of it or nothing; with a claim that is not the greatest any more, nothing.

    Call it only where the table was asked and does not hold the piece: nothing here knows it again.
    """
    where = hashlib.sha256(f"{place.topic}/{place.partition}".encode()).hexdigest()[:16]
    beside = f"_{piece.table}_{where}"
    table, staged = (f"{identifier(store.database)}.{identifier(name)}" for name in (piece.table, beside))
    # A process that was killed here left one, perhaps with rows.
    store.execute(f"DROP TABLE IF EXISTS {staged} SYNC")
    store.execute(f"CREATE TABLE {staged} AS {table}")
    store.insert(beside, piece.batch, piece.token(*place), claim)
    # Rows that an older claim did not let in are none to attach.
    store.execute(f"ALTER TABLE {table} ATTACH PARTITION ID {literal(piece.month)} FROM {staged}")
    store.execute(f"DROP TABLE {staged} SYNC")
