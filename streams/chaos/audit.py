"""What is wrong with what a run left behind: pure, from everything that lies on the topics and in the tables.

Nothing here believes a counter: inputs are what Kafka said that it has, by coordinate, and what was found there
afterwards; results and dead letters are read from the beginning of their topics; rows are compared whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams.demo.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from processors._demo import Demo
    from schemas.dead_letter import DeadLetter
    from schemas.envelope import Record
    from streams.demo.ledger import Account, Coordinate

__all__ = ["Found", "compacted", "lost_inputs", "out_of_order", "row_faults", "state_faults", "unaccounted"]

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Found:
    """How many are wrong, and a few of them in words."""

    count: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, wrongs: Iterable[str]) -> Found:
        """As many as there are lines."""
        lines = list(wrongs)
        return cls(len(lines), tuple(lines[:_EXAMPLES]))

    def __add__(self, other: Found) -> Found:
        return Found(self.count + other.count, (*self.examples, *other.examples)[:_EXAMPLES])


def lost_inputs(
    acknowledged: Mapping[Coordinate, str | None],
    inputs: Sequence[Record],
    is_known: Callable[[bytes | None], bool] = lambda _value: False,
) -> Found:
    """Events that Kafka acknowledged and does not have, and messages that nobody sent.

    Args:
        acknowledged: Identity by coordinate.
        inputs: Everything on the input topic.
        is_known: Whether a value was sent in a way that tells no coordinates.
    """
    there = {(record.partition, record.offset): record.value for record in inputs}
    gone = [f"{name} was acknowledged at {at} and is not there" for at, name in acknowledged.items() if at not in there]
    strange = [at for at, value in there.items() if at not in acknowledged and not is_known(value)]
    return Found.of([*gone, *(f"nobody sent what lies at {at}" for at in strange)])


def unaccounted(
    acknowledged: Mapping[Coordinate, str | None],
    inputs: Sequence[Record],
    results: Sequence[Record],
    letters: Sequence[tuple[DeadLetter, Record]],
    demo: Demo,
) -> tuple[Account, Found]:
    """The account of everything on the topics; and dead letters of good events, or whose original is another."""
    ledger = Ledger()
    by_place = {(record.partition, record.offset): record for record in inputs}
    for at in by_place:
        ledger.sent(at, acknowledged.get(at), None, 0.0)
    for record in results:
        ledger.result(demo.read(record.value or b""), 0.0)
    wrong = []
    for letter, original in letters:
        at = (letter.partition, letter.offset)
        ledger.dead_letter(at, 0.0)
        source = by_place.get(at)
        if source is None or (source.key, source.value) != (original.key, original.value):
            wrong.append(f"the dead letter of {at} does not hold what lies there")
        elif acknowledged.get(at) is not None:
            wrong.append(f"{acknowledged[at]} at {at} is a good event and became a dead letter: {letter.reason}")
    return ledger.account(), Found.of(wrong)


def out_of_order(places: Mapping[str, Coordinate], results: Sequence[Record], demo: Demo) -> Found:
    """Results that lie behind one of their key whose event came later.

    Args:
        places: Where the event of each identity lies; of one key all lie in one partition.
        results: In the order of their partitions.
        demo: Knows their identities.
    """
    newest: dict[tuple[int, bytes | None], Coordinate] = {}
    wrong = []
    for record in results:
        identity = demo.read(record.value or b"").id
        at = places.get(identity)
        if at is None:
            continue
        key = (record.partition, record.key)
        before = newest.get(key)
        if before is not None and before[0] == at[0] and at < before:
            wrong.append(f"{identity} of {at} at offset {record.offset} comes behind the result of {before}")
        newest[key] = at if before is None else max(before, at)
    return Found.of(wrong)


def state_faults(
    right: Iterable[tuple[str, bytes]],
    found: Mapping[str, bytes],
    comparable: Callable[[bytes], Any],
    states: Iterable[tuple[int, Mapping[bytes, bytes], Mapping[bytes, bytes]]],
) -> Found:
    """Results that differ from those of an undisturbed run, and entries of keyed state that do.

    Args:
        right: What the undisturbed run answered, with its identity.
        found: What lies on the topic, by identity.
        comparable: A result without what differs between any two runs.
        states: Partition, its entries after the undisturbed run, and what its changelog says.
    """
    wrong = [
        f"{identity}: {_difference(comparable(value), comparable(found[identity]))}"
        for identity, value in right
        if identity in found and comparable(value) != comparable(found[identity])
    ]
    for partition, expected, actual in states:
        differing = (key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key))
        wrong += [f"state of partition {partition}: the entry {key!r} differs" for key in sorted(differing)]
    return Found.of(wrong)


def _difference(right: Any, found: Any) -> str:
    if not (isinstance(right, dict) and isinstance(found, dict)):
        return f"{right!r} is right, {found!r} was found"
    names = [name for name in (*right, *found) if right.get(name) != found.get(name)]
    return ", ".join(
        f"{name} {right.get(name)!r} is right, {found.get(name)!r} was found" for name in dict.fromkeys(names)
    )


def row_faults(right: Mapping[Coordinate, Any], found: Sequence[tuple[Coordinate, Any]]) -> tuple[Found, Found, Found]:
    """Messages without a row, rows too many, and rows that say something else than their message."""
    times = Counter(at for at, _ in found)
    missing = [f"no row of {at}" for at in right if at not in times]
    doubled = [f"{count} rows of {at}" for at, count in times.items() if count > 1 for _ in range(count - 1)]
    doubled += [f"a row of {at}, where no message is" for at in times if at not in right]
    wrong = [f"the row of {at}: {_difference(right[at], row)}" for at, row in found if at in right and right[at] != row]
    return Found.of(missing), Found.of(doubled), Found.of(wrong)


def compacted(records: Iterable[Record]) -> dict[int, dict[bytes, bytes]]:
    """What a compacted topic says in the end, by partition."""
    said: dict[int, dict[bytes, bytes]] = {}
    for record in records:
        entries = said.setdefault(record.partition, {})
        if record.value is None:
            entries.pop(record.key or b"", None)
        else:
            entries[record.key or b""] = record.value
    return said
