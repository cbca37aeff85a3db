"""Members of the workers' consumer group that come and go and do no work: a storm of rebalances."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer

from streams._reading import READING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Storm"]

# A member joins and another leaves this often.
_EVERY_S = 1.0
_STAYS_S = 1.5
_POLL_S = 0.1


class Storm:
    """Blows from when it is made until `end`: what its members are assigned they hold, do not answer and give back.

    Args:
        kafka: librdkafka's settings.
        group: Whose peace is disturbed.
        topic: What the group reads.
        session_timeout_ms: As the group's other members have it.
    """

    def __init__(self, kafka: Mapping[str, Any], group: str, topic: str, session_timeout_ms: int) -> None:
        self.joined = 0
        """Members that came so far."""
        self.assigned = 0
        """Times that one of them was given partitions: whether it was a storm at all."""
        self._config = {
            **READING,
            **kafka,
            "group.id": group,
            "session.timeout.ms": session_timeout_ms,
            "heartbeat.interval.ms": 500,
            "log_level": 0,
        }
        self._topic = topic
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow, name="storm", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Lets no more members join; those that are there leave."""
        self._over.set()

    def gone(self, timeout_s: float = 30.0) -> bool:
        """Whether all have left."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _blow(self) -> None:
        staying: list[threading.Thread] = []
        while not self._over.wait(_EVERY_S):
            member = threading.Thread(target=self._visit, daemon=True)
            member.start()
            staying.append(member)
        for member in staying:
            member.join()

    def _visit(self) -> None:
        self.joined += 1
        member = Consumer(self._config)
        member.subscribe([self._topic], on_assign=self._assigned)
        for _ in range(round(_STAYS_S / _POLL_S)):
            member.poll(_POLL_S)
        member.close()

    def _assigned(self, _member: object, partitions: list[Any]) -> None:
        self.assigned += bool(partitions)
