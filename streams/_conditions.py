"""What it takes for a worker to answer events, in words for whoever asks its health. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from streams.errors import WorldError
    from streams.source import Source

__all__ = ["missing"]


def missing(
    broken: WorldError | None,
    tables_read: bool,
    source: Source,
    restoring: Mapping[int, tuple[int, int]],
    restored: Collection[int],
) -> dict[str, str]:
    """Why each condition is not met; empty where it is.

    Args:
        broken: What went wrong and is being put right.
        tables_read: Whether the global tables were read to their end.
        source: Has the assignment.
        restoring: Per partition whose state is being read back, (read, to read).
        restored: Partitions whose state is there. What is in neither was assigned a moment ago.
    """
    waiting = [partition for partition in source.assignment if partition not in restored]
    read, to_read = (sum(column) for column in zip((0, 0), *restoring.values(), strict=True))
    return {
        "kafka": "" if broken is None else f"going back to what is committed: {broken}",
        "tables": "" if tables_read else "the global tables are not read to their end",
        "assignment": "" if source.assignment else f"holds no partition of {source.topic}",
        "state": f"restoring {len(waiting)} partitions, {read} of {to_read} offsets read" if waiting else "",
    }
