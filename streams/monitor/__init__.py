"""The monitor beside the hot path: Faust apps over compact tallies, whose every step may be repeated."""
