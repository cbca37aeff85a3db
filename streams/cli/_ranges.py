"""Which offsets of a partition were dealt with: all below one offset, and ranges above it. Pure.

Kept as a committed offset and its metadata, so that a retry that picks (by reason, by range) is remembered exactly.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["METADATA_LIMIT", "Dealt", "TooManyRangesError", "parse_ranges"]

# Kafka's default of `offset.metadata.max.bytes`.
METADATA_LIMIT = 4096


class TooManyRangesError(ValueError):
    """What was dealt with is too scattered to be remembered."""


class Dealt(msgspec.Struct, frozen=True):
    """Offsets dealt with in one partition."""

    below: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    """First and last of each, ascending, apart from each other and from `below`."""

    def __contains__(self, offset: int) -> bool:
        if offset < self.below:
            return True
        at = bisect_right(self.ranges, (offset, 2**63)) - 1
        return at >= 0 and self.ranges[at][0] <= offset <= self.ranges[at][1]

    def adding(self, offsets: set[int], present: Sequence[int]) -> Dealt:
        """With more offsets dealt with; `present` are the offsets that hold messages, ascending.

        Offsets without a message (transactions' markers) join the range around them.
        """
        if not present:
            return self
        below = present[-1] + 1
        ranges: list[tuple[int, int]] = []
        joins = False
        for offset in present:
            dealt = offset in self or offset in offsets
            if not dealt:
                below = min(below, offset)
            elif offset > below:
                ranges.append((ranges.pop()[0] if joins else offset, offset))
            joins = dealt and offset > below
        return Dealt(max(below, self.below), tuple(ranges))

    def metadata(self) -> str:
        """The ranges as text.

        Raises:
            TooManyRangesError: It is longer than Kafka keeps.
        """
        text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)
        if len(text) > METADATA_LIMIT:
            msg = f"{len(self.ranges)} separate ranges are too many to remember; retry everything, or whole ranges"
            raise TooManyRangesError(msg)
        return text

    @classmethod
    def read(cls, offset: int, metadata: str) -> Dealt:
        """What was committed; metadata that is not ours is ignored."""
        try:
            return cls(offset, parse_ranges(metadata))
        except ValueError:
            return cls(offset)


def parse_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Reads `3,7-9`: single offsets and ranges, ends included.

    Raises:
        ValueError: The text is something else.
    """
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"(\d+)(?:-(\d*))?", part)
        if found is None:
            msg = f"{part!r} is no offset (7) and no range (7-9, 7-)"
            raise ValueError(msg)
        first = int(found[1])
        last = first if found[2] is None else int(found[2] or 2**62)
        if last < first:
            msg = f"the range {part!r} ends before it begins"
            raise ValueError(msg)
        ranges.append((first, last))
    return tuple(sorted(ranges))
