"""The monitor beside the hot path: Faust apps over compact tallies, whose every step may be repeated."""

MONITORED = ("fraud",)
"""The domains that have a monitor."""
