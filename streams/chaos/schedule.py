"""Which fault happens when, to whom and for how long: pure, and the same for the same seed.

Strategy: faults are drawn in rounds. A round holds every pair of a chosen kind and its target once, in random order, so
that no kind is rare in a long run, and a short one still has different kinds. Starts are spread evenly with some
jitter; faults of different kinds may overlap, as they do in life, but not two of the same kind on the same target.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KINDS", "PACE_S", "Fault", "UnknownFaultError", "read_kinds", "read_targets", "schedule"]

PACE_S = 10.0
"""Seconds from one start to the next, on average: a run of 20 minutes has more than 100 faults."""
_JITTER = 0.6
"""Share of the pace by which a start may be later or earlier than its turn."""
_QUIET_START_S, _QUIET_END_S = 2.0, 2.0
# Session time-outs are 6 s for workers and 10 s for monitor and store (see `run`), those of transactions 8 s.
_SHORT_S, _LONG_S = (0.5, 3.0), (11.0, 14.0)
_WORKERS = ("worker-0", "worker-1")


class Kind(NamedTuple):
    """What can go wrong."""

    name: str
    targets: tuple[str, ...]
    lasts_s: tuple[float, float]
    """Shortest and longest; both 0 where it is over at once."""
    says: str
    alone: bool = False
    """Whether it touches what its targets share, so that two of it cannot overlap."""


KINDS = (
    Kind("kill", (*_WORKERS, "store", "monitor", "broker"), (0, 0), "kill -9"),
    Kind("pause", (*_WORKERS, "store", "monitor", "broker"), _SHORT_S, "SIGSTOP for less than a session time-out"),
    Kind("freeze", (*_WORKERS, "store", "monitor", "broker"), _LONG_S, "SIGSTOP for longer than any session time-out"),
    Kind("cut", (*_WORKERS, "store"), (1.0, 9.0), "connections reset and refused"),
    Kind("hang", (*_WORKERS, "store"), (1.0, 9.0), "connections stay open, no byte gets through"),
    Kind("slow", (*_WORKERS, "store"), (3.0, 9.0), "every byte late, few a second"),
    Kind("disk", ("store",), (3.0, 9.0), "no room on the disk"),
    Kind("clock", _WORKERS, (3.0, 9.0), "the wall clock jumps, and back"),
    Kind("storm", ("group",), (6.0, 10.0), "members join and leave the group every second"),
    Kind("poison", ("input",), (0, 0), "messages that can be no event"),
    Kind("model", _WORKERS, (4.0, 8.0), "the model's file is another; the worker starts meanwhile", alone=True),
)
_BY_NAME = {kind.name: kind for kind in KINDS}


class Fault(NamedTuple):
    """One fault of a schedule."""

    number: int
    kind: str
    target: str
    at_s: float
    """When it begins, in seconds after the start of the load."""
    lasts_s: float
    chance: float
    """Between 0 and 1: whatever else is random about it follows from this."""

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.number:>3}  {self.at_s:7.1f} s  {self.kind:<6}  {self.target}{lasts}"


class UnknownFaultError(HeadraceError):
    """A kind of fault that does not exist."""


def read_kinds(text: str) -> tuple[Kind, ...]:
    """The kinds named in `a,b,c`, or all where it is empty.

    Raises:
        UnknownFaultError: One of them does not exist.
    """
    names = [name.strip() for name in text.split(",") if name.strip()] or list(_BY_NAME)
    for name in names:
        if name not in _BY_NAME:
            raise UnknownFaultError(f"there is no fault {name!r}; there are: {', '.join(_BY_NAME)}")
    return tuple(kind for kind in KINDS if kind.name in names)


def read_targets(text: str) -> tuple[str, ...]:
    """The targets named in `a,b,c`; none is all.

    Raises:
        UnknownFaultError: One of them does not exist.
    """
    known = list(dict.fromkeys(target for kind in KINDS for target in kind.targets))
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise UnknownFaultError(f"there is nobody {name!r} to break; there are: {', '.join(known)}")
    return names


def schedule(
    seed: int, seconds: float, kinds: Sequence[Kind] = KINDS, targets: Sequence[str] = (), pace_s: float = PACE_S
) -> list[Fault]:
    """The faults of a run, in the order of their starts.

    Args:
        seed: Everything random follows from it.
        seconds: How long the load lasts; every fault is over by then.
        kinds: What may happen.
        targets: To whom; everybody where empty.
        pace_s: Seconds from one start to the next, on average.
    """
    chance = random.Random(seed)  # noqa: S311  # no secret: it has to be the same every time
    pairs = [(kind, target) for kind in kinds for target in kind.targets if not targets or target in targets]
    last_s = seconds - _QUIET_END_S
    faults: list[Fault] = []
    busy_until: dict[tuple[str, str], float] = {}
    turn: list[tuple[Kind, str]] = []
    for number in range(int(max(0.0, last_s - _QUIET_START_S) / pace_s) if pairs else 0):
        turn = turn or chance.sample(pairs, len(pairs))
        kind, target = turn.pop()
        lasts = min(chance.uniform(*kind.lasts_s), last_s - _QUIET_START_S)
        due = _QUIET_START_S + pace_s * (number + 0.5 + chance.uniform(-_JITTER, _JITTER) / 2)
        at = max(busy_until.get((kind.name, "" if kind.alone else target), 0.0), min(due, last_s - lasts))
        if at + lasts <= last_s:
            faults.append(Fault(0, kind.name, target, round(at, 2), round(lasts, 2), chance.random()))
            busy_until[kind.name, "" if kind.alone else target] = at + lasts + 0.05
    faults.sort(key=lambda fault: fault.at_s)
    return [fault._replace(number=number) for number, fault in enumerate(faults, 1)]
