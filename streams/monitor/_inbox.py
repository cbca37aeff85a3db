"""What was read and is not kept yet, bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faust.types import EventT

# A tally of a full transaction (20,000 events) is about 500 kB, and ten times that while it is decoded; labels are
# small, so the count bounds them.
_MAX_BYTES = 16 * 1024 * 1024
_MAX_MESSAGES = 20_000


class Inbox:
    """A list of events; `put` waits while it is full."""

    def __init__(self) -> None:
        self._events: list[EventT[bytes]] = []
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._events)

    async def put(self, event: EventT[bytes]) -> None:
        """Adds an event, as soon as there is room."""
        await self._room.wait()
        self._events.append(event)
        self._bytes += len(event.message.value or b"")
        if self._bytes >= _MAX_BYTES or len(self._events) >= _MAX_MESSAGES:
            self._room.clear()

    def take(self) -> list[EventT[bytes]]:
        """Everything that is there, in the order of its arrival."""
        events, self._events, self._bytes = self._events, [], 0
        self._room.set()
        return events
