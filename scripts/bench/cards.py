"""The load of the benchmarks: simulated card transactions, and the model that scores them."""

from __future__ import annotations

import time
import tomllib
from typing import TYPE_CHECKING, Any

from processors.fraud.settings import CATEGORIES
from processors.fraud.simulator import Simulator
from scripts.bench.machine import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DOMAIN, TOPIC, OUTPUT = "fraud", "transactions", "fraud-scores"

_AT_ONCE = 10_000
_DAY_S = 86_400
# As often as the simulator's cards are used where their number is not given.
_EVENTS_PER_CARD_AND_DAY = 2.2


def transactions(
    events: int, cards: int, days: float, seed: int = 1, ends_days_ago: float = 0
) -> Iterator[tuple[bytes | None, bytes]]:
    """Key and value of so many transactions in time order; their ids are `t<seed>-` and a number of ten digits."""
    end_ms = round((time.time() - ends_days_ago * _DAY_S) * 1000)
    for batch in Simulator(seed, cards=cards, events=events, days=days, end_ms=end_ms).batches(_AT_ONCE):
        yield from zip(batch.keys, batch.values, strict=True)


def days_of(events: int, cards: int) -> float:
    """How many days so many events of so many cards are, a day at least."""
    return max(1.0, events / cards / _EVENTS_PER_CARD_AND_DAY)


def model_facts() -> dict[str, Any]:
    """What a contender needs of the model: the file, and what its manifest says."""
    folder = ROOT / "processors" / DOMAIN / "models"
    manifest = tomllib.loads((folder / f"{DOMAIN}.toml").read_text())
    return {
        "model": str(folder / manifest["file"]),
        "reference": f"{manifest['name']}@{manifest['version']}",
        "review": manifest["settings"]["review"],
        "decline": manifest["settings"]["decline"],
        "categories": list(CATEGORIES),
    }


def new_seed() -> int:
    """A seed whose event ids nobody has seen on this broker."""
    return int(time.time() * 1000) % 1_000_000_000
