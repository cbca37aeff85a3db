"""Dead letters as they lie on their topic, and the way back to the topic that they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from schemas.codec import RefusedError
from schemas.dead_letter import DeadLetter, from_record, retry_identity, topic_name
from schemas.envelope import Message, Record
from schemas.topics import domains, topics
from streams.cli._ranges import Dealt
from streams.clients import Mover, Reader, partitions_of
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

__all__ = ["RETRIES", "Choice", "Letter", "Retrying", "retries_of", "retry_message", "topic_of", "walk"]

RETRIES = "headrace-retries"
"""Header that counts how often a record was retried, so that what can never work does not go round for ever."""


class UnknownDeadLettersError(HeadraceError):
    """Neither a domain nor a topic of dead letters."""


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: where it lies, what it says, the original record; `dead` is None where it is none of ours."""

    record: Record
    dead: DeadLetter | None
    original: Record


def topic_of(name: str) -> str:
    """The topic of dead letters of a domain, or the topic itself where its name is given.

    Raises:
        UnknownDeadLettersError: It is neither.
    """
    if name in domains():
        return topic_name(name)
    known = topics().get(name)
    if known is not None and known.direction == "dead-letter":
        return name
    raise UnknownDeadLettersError(
        f"{name!r} is no domain and no topic of dead letters; domains are {', '.join(domains())}"
    )


def walk(config: Mapping[str, Any], topic: str, partition: int | None = None, offset: int = 0) -> Iterator[Letter]:
    """Every dead letter of a topic, or of one partition from an offset on; none where there is no such partition."""
    if partition is not None and partition >= partitions_of(config, topic):
        return
    start = "beginning" if partition is None else {partition: offset}
    with Reader(config, topic, start) as reader:  # type: ignore[arg-type]
        for record in reader.records():
            try:
                dead, original = from_record(record)
            except RefusedError:
                yield Letter(record, None, record)
            else:
                yield Letter(record, dead, original)


def retries_of(original: Record) -> int:
    """How often a record was retried before."""
    counts = [value for name, value in original.headers if name == RETRIES]
    try:
        return int(counts[-1] or b"0") if counts else 0
    except ValueError:
        return 0


def retry_message(original: Record) -> Message:
    """The original record again, for its own topic: its bytes, key and headers, and one retry more."""
    headers = tuple(header for header in original.headers if header[0] != RETRIES)
    count = str(retries_of(original) + 1).encode()
    return Message(original.topic, original.key, original.value, headers=(*headers, (RETRIES, count)))


class Choice(msgspec.Struct, frozen=True):
    """Which dead letters to retry."""

    reasons: frozenset[str] = frozenset()
    """None is all."""
    partition: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    """First and last offset of each; none is all."""
    max_retries: int = 3
    again: bool = False
    """Also what was retried before."""

    def why_not(self, letter: Letter, *, done: bool) -> str:
        """Why the letter is left out; empty where it is not."""
        at = letter.record
        if self.partition not in (None, at.partition):
            return "not_chosen"
        if self.ranges and not any(first <= at.offset <= last for first, last in self.ranges):
            return "not_chosen"
        if letter.dead is None:
            return "not_a_dead_letter"
        if self.reasons and letter.dead.reason not in self.reasons:
            return "not_chosen"
        if letter.dead.omitted:
            return "original_omitted"
        # A letter says where its original lay: whoever may write letters must not choose where we write.
        source = topics().get(letter.original.topic)
        if source is None or source.direction != "input":
            return "not_from_an_input"
        if done and not self.again:
            return "already_retried"
        return "retried_too_often" if retries_of(letter.original) >= self.max_retries else ""


class Retrying:
    """Moves dead letters back, and remembers which in the same transaction; a context manager.

    The topic is read twice: once for the offsets that there are, so that what is remembered needs few words, then for
    the letters, which may be more than fit into memory.
    """

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._config = config
        self._topic = topic
        self._present: dict[int, list[int]] = {}
        self._partitions = range(partitions_of(config, topic))
        self._mover = Mover(config, retry_identity(topic), topic)
        self._dealt = {
            partition: Dealt.read(offset, metadata)
            for partition, (offset, metadata) in self._mover.remembered(self._partitions).items()
        }

    def __enter__(self) -> Retrying:
        return self

    def __exit__(self, *_: object) -> None:
        self._mover.close()

    def choose(self, choice: Choice, left_out: Counter[str]) -> Iterator[Letter]:
        """The letters to be retried; why others are left out is counted."""
        self._present = {partition: [] for partition in self._partitions}
        for letter in walk(self._config, self._topic):
            self._present[letter.record.partition].append(letter.record.offset)
        for letter in walk(self._config, self._topic):
            partition, offset = letter.record.partition, letter.record.offset
            if offset > max(self._present[partition][-1:], default=-1):
                continue  # it came since
            why = choice.why_not(letter, done=offset in self._dealt[partition])
            if why:
                left_out[why] += 1
            else:
                yield letter

    def retry(self, letters: Sequence[Letter]) -> None:
        """Sends the originals of the letters to their topics.

        Raises:
            DeliveryError: Nothing was sent, and nothing is remembered.
            TooManyRangesError: The choice is too scattered to be remembered; nothing was sent.
        """
        chosen: dict[int, set[int]] = {}
        for letter in letters:
            chosen.setdefault(letter.record.partition, set()).add(letter.record.offset)
        dealt = {p: self._dealt[p].adding(offsets, self._present[p]) for p, offsets in chosen.items()}
        remember = {p: (after.below, after.metadata()) for p, after in dealt.items()}
        self._mover.move([retry_message(letter.original) for letter in letters], remember)
        self._dealt |= dealt
