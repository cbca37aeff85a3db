"""What the monitor may do in Kafka."""

from __future__ import annotations

from streams.monitor._merchants import DEAD_LETTERS, INPUTS, RISK
from streams.monitor.merchant_risk import CHANGELOG, GROUP
from streams.rights import Right

__all__ = ["monitor_rights", "monitor_topics"]


def monitor_rights() -> list[Right]:
    """Of the one monitor there is."""
    compacted = "whether it is compacted"
    return [
        *(Right("Read", "topic", topic, "tallies and labels") for topic in INPUTS),
        Right("Read", "group", GROUP, "its place, and its offsets"),
        Right("Write", "topic", RISK, "figures"),
        Right("DescribeConfigs", "topic", RISK, compacted),
        Right("Write", "topic", DEAD_LETTERS, "dead letters"),
        Right("Read", "topic", CHANGELOG, "its memory, at the start"),
        Right("Write", "topic", CHANGELOG, "its memory"),
        Right("DescribeConfigs", "topic", CHANGELOG, compacted),
    ]


def monitor_topics() -> tuple[str, ...]:
    """Those that are nobody else's."""
    return (DEAD_LETTERS, CHANGELOG)
