"""What `headrace reset` would do to each partition, and what that means. Pure but for asking where a time lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from schemas.times import parse_times

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streams.groups import Place

__all__ = ["Move", "Target", "moves", "parse_target"]


class Target(msgspec.Struct, frozen=True):
    """Where to go: `earliest`, `latest`, an offset, or a time (`at_ms`); in one partition or in all."""

    word: str = ""
    offset: int | None = None
    at_ms: int | None = None
    partition: int | None = None


def parse_target(text: str) -> Target:
    """Reads `earliest`, `3=1200` or `2026-11-24T12:00:00Z`.

    Raises:
        ValueError: It is something else.
    """
    named, equals, where = text.rpartition("=")
    if equals and not _is_number(named):
        msg = f"{text!r}: {named!r} is no partition; write 3=earliest or 3=1200"
        raise ValueError(msg)
    partition = int(named) if equals else None
    if where in ("earliest", "latest"):
        return Target(word=where, partition=partition)
    if _is_number(where):
        if partition is None:
            msg = f"{where} is an offset, and partitions have different ones: say which, as in 0={where}"
            raise ValueError(msg)
        return Target(offset=int(where), partition=partition)
    times, wrong = parse_times([where])
    if wrong:
        naive = " with an offset from UTC" if wrong[0] == "naive_time" else ""
        msg = f"{where!r} is neither earliest nor latest, no offset, and no time{naive}, such as 2026-01-31T12:00:00Z"
        raise ValueError(msg)
    return Target(at_ms=int(times[0]), partition=partition)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


class Move(msgspec.Struct, frozen=True):
    """What becomes of one partition; offsets are not events, since transactions leave markers among them."""

    partition: int
    begin: int
    end: int
    committed: int | None
    to: int | None
    """Where the group goes on; None where nothing is committed and nothing is to be."""
    state_entries: int | None = None
    """How many entries of the keyed state are dropped; None where it is left alone."""

    @property
    def again(self) -> int | None:
        """At most so many events are answered again; None where Kafka does not know how many were answered."""
        if self.to in (None, self.committed):
            return 0
        if self.committed is None or self.committed > self.end:
            return None if self.to < self.end else 0
        return max(0, self.committed - self.to)

    @property
    def passed_over(self) -> int:
        """At most so many events that are still there, and were not answered, are left out."""
        if self.to in (None, self.committed):
            return 0
        answered = self.committed if self.committed is not None and self.committed <= self.end else self.begin
        return max(0, self.to - max(answered, self.begin))

    @property
    def gone(self) -> int:
        """At most so many events were deleted by Kafka before they were answered."""
        return 0 if self.committed is None else max(0, self.begin - self.committed)


def moves(
    places: Sequence[Place], targets: Sequence[Target], offsets_at: Callable[[int], Mapping[int, int]]
) -> list[Move]:
    """What the targets mean, for the partitions that they name or for all where there is none.

    Args:
        places: Where the group stands.
        targets: Of two that mean one partition, the one that names it counts, else the later.
        offsets_at: Per partition the offset of a time; a partition without one goes to its end.

    Raises:
        ValueError: There is no such partition or offset.
    """
    known = {place.partition: place for place in places}
    if strange := sorted({t.partition for t in targets if t.partition is not None} - known.keys()):
        msg = f"there is no partition {strange[0]}; there are {min(known)} to {max(known)}"
        raise ValueError(msg)
    chosen: dict[int, Target] = {}
    for target in sorted(targets, key=lambda target: target.partition is not None):
        chosen |= dict.fromkeys(known if target.partition is None else [target.partition], target)
    if not chosen:
        return [Move(p.partition, p.begin, p.end, p.committed, p.committed) for p in places]
    times = {t.at_ms: offsets_at(t.at_ms) for t in chosen.values() if t.at_ms is not None}
    return [_move(known[partition], chosen[partition], times) for partition in sorted(chosen)]


def _move(place: Place, target: Target, times: Mapping[int, Mapping[int, int]]) -> Move:
    if target.at_ms is not None:
        to = times[target.at_ms].get(place.partition, place.end)
    elif target.offset is not None:
        to = target.offset
    else:
        to = place.begin if target.word == "earliest" else place.end
    if not place.begin <= to <= place.end:
        msg = f"partition {place.partition} has the offsets {place.begin} to {place.end}, and {to} is none of them"
        raise ValueError(msg)
    return Move(place.partition, place.begin, place.end, place.committed, to)
