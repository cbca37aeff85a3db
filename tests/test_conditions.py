"""What a worker says is missing before it answers events."""

from __future__ import annotations

from typing import Any

from streams._conditions import missing


class Holding:
    """Stands for a source that holds partitions."""

    topic = "events"

    def __init__(self, *assignment: int) -> None:
        self.assignment = assignment


def state_of(source: Any, restoring: dict[int, tuple[int, int]], restored: set[int]) -> str:
    """What is said of the state alone."""
    return missing(None, True, source, restoring, restored)["state"]


def test_a_partition_assigned_a_moment_ago_has_no_state_yet() -> None:
    """Between the assignment and the first look at the changelog nobody knows how much there is to read."""
    source = Holding(0, 1)

    assert "restoring 2 partitions, 0 of 0 offsets read" == state_of(source, {}, set())
    assert "restoring 2 partitions, 5 of 9 offsets read" == state_of(source, {0: (5, 9)}, set())
    assert "restoring 1 partitions, 0 of 0 offsets read" == state_of(source, {}, {0, 7})
    assert not state_of(source, {}, {0, 1, 7})


def test_each_condition_that_is_not_met_says_why() -> None:
    """Nothing held is a condition of its own, and no state is missing then."""
    source: Any = Holding()

    assert {
        "kafka": "going back to what is committed: gone",
        "tables": "the global tables are not read to their end",
        "assignment": "holds no partition of events",
        "state": "",
    } == missing(OSError("gone"), False, source, {}, set())  # type: ignore[arg-type]
