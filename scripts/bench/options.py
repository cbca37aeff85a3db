"""What a person can choose about a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T", int, float)


class Options(msgspec.Struct, frozen=True):
    """The same for every benchmark."""

    out: Path
    """Where the JSON files and the plots go."""
    quick: bool = False
    """Under a minute; the figures say little more than that it works."""
    chosen_rounds: int = 0
    """0 is the benchmark's own number."""
    minutes: float = 0
    """How long an overload lasts; 0 is five minutes, or a few seconds where it has to be quick."""
    settings: tuple[str, ...] = ()
    """`KEY=VALUE` for headrace's own processes."""

    def size(self, *, full: T, quick: T) -> T:
        """A number by how quick it has to be."""
        return quick if self.quick else full

    def rounds(self, *, full: int, quick: int) -> int:
        """How often every contender has its turn."""
        return self.chosen_rounds or (quick if self.quick else full)
