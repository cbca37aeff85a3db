"""What a domain brings to `headrace chaos` beside its `demo`: a module `chaos` of its own with these names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processors import Processor
    from schemas.envelope import Message

__all__ = ["Chaos"]


class Chaos(Protocol):
    """The module `processors.<domain>.chaos`."""

    told: tuple[str, ...]
    """Compacted topics that the monitor of the domain writes; none where it has none."""

    def comparable(self, value: bytes) -> Any:
        """A result without what differs between two runs over the same events, such as the time of its making."""

    def recall(self, processor: Processor, results: Sequence[bytes | None]) -> None:
        """Has the tables of a processor answer, event by event, what these results say that they answered.

        Called before a partition is answered again. Tables are eventually consistent: what they said is in the results.
        """

    def entries(self, processor: Processor, partition: int) -> Mapping[bytes, bytes]:
        """Every live entry of a partition's keyed state, as its changelog has them."""

    def living(self, entries: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """The entries that must be there; without those that nothing asks for any more, which go some day."""

    def compare_told(
        self,
        results: Sequence[bytes],
        side: Sequence[Message],
        told: Mapping[str, Mapping[bytes, bytes]],
        options: Mapping[str, Any],
    ) -> list[str]:
        """What is wrong with the last words of the monitor, each in a line.

        Args:
            results: Of all events.
            side: What was sent beside the events, such as labels.
            told: The newest value of each key, by topic.
            options: The monitor's settings.
        """
