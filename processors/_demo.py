"""What a domain brings to `headrace demo`: a module `demo` of its own with these names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from schemas.envelope import Message

__all__ = ["Answer", "Demo", "Events"]


class Events(NamedTuple):
    """Some events in the order in which they are sent; the columns are of equal length."""

    keys: list[bytes | None]
    values: list[bytes]
    ids: list[str | None]
    """What the result will carry; None where the value cannot be read, which must end as a dead letter."""
    truth: list[bool | None]
    side: list[Message]
    """Messages on other topics that are due once these events are sent, such as labels."""


class Answer(NamedTuple):
    """What the demo shows of a result."""

    id: str
    score: float
    flagged: bool
    row: tuple[str, ...]
    """Cells under `Demo.columns`; empty where it is not flagged."""


class Demo(Protocol):
    """The module `processors.<domain>.demo`."""

    columns: tuple[str, ...]
    """Headings of the table of flagged results."""
    flagged: str
    """What flagged means, in a word or two."""

    def simulate(self, events: int, seed: int) -> Iterator[Events]:
        """So many events, from a seed."""

    def from_file(self, path: Path, preset: str, mapping: Path | None) -> Iterator[Events]:
        """The events of a file."""

    def read(self, value: bytes) -> Answer:
        """A result as it lies on the output topic."""

    def next_steps(self) -> Iterable[tuple[str, str]]:
        """(command, what it does) to try after the demo."""
