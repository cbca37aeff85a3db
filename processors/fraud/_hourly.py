"""Counts per row and hour, and their sums over sliding windows that end a fixed delay behind the newest hour.

A row is whatever the caller numbers (here: a merchant). `head` is the newest hour; a window of w hours holds the
hours h with head - delay - w < h <= head - delay. Sums are integers, kept exactly while the head moves: the hour that
enters is added, the hour that leaves is subtracted, and a late count goes straight into the windows that hold it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

WINDOW_HOURS = (24, 7 * 24, 30 * 24)


class HourlyWindows:
    """Exact sliding sums of hourly counts, for all rows at once."""

    def __init__(self, delay_hours: int) -> None:
        self.span = delay_hours + max(WINDOW_HOURS)
        """Hours that can still be in a window, now or later; older ones are forgotten."""
        self.head: int | None = None
        self.sums: Ints = np.zeros((len(WINDOW_HOURS), 1024), np.int64)
        self._delay = delay_hours
        self._hours: dict[int, NDArray[np.int32]] = {}

    def reserve(self, rows: int) -> None:
        """Makes room for rows 0..rows-1."""
        have = self.sums.shape[1]
        if rows > have:
            self.sums = np.pad(self.sums, ((0, 0), (0, max(rows, 2 * have) - have)))

    def is_over(self, hour: int) -> bool:
        """Whether the hour has left every window for good."""
        return self.head is not None and hour <= self.head - self.span

    def advance(self, hour: int) -> None:
        """Moves the head forward; an earlier hour than the head changes nothing."""
        if self.head is None or hour - self.head > self.span:
            self.head = hour
            self._hours = {h: counts for h, counts in self._hours.items() if not self.is_over(h)}
            self._fill()
        while self.head < hour:
            self._step()

    def add(self, rows: Ints, hours: Ints, counts: Ints) -> None:
        """Adds counts; a row may occur many times. The caller leaves out hours that are over."""
        if not len(hours):
            return
        order = np.argsort(hours, kind="stable")
        rows, hours, counts = rows[order], hours[order], counts[order]
        edges = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)]
        for start, end in pairwise(edges):
            self._add_hour(int(hours[start]), rows[start:end], counts[start:end])

    def bump(self, row: int, hour: int, by: int) -> None:
        """Adds to one row and hour; nothing where the hour is over."""
        if self.is_over(hour):
            return
        self._counts_of(hour)[row] += by
        for window in self._windows_with(hour):
            self.sums[window, row] += by

    def history(self, rows: Ints) -> list[tuple[Ints, Ints]]:
        """Per row its hours with a count, ascending, and those counts."""
        hours = np.array(sorted(self._hours), np.int64)
        table = np.zeros((len(rows), len(hours)), np.int32)
        for column, hour in enumerate(hours.tolist()):
            counts = self._hours[hour]
            known = rows < len(counts)
            table[known, column] = counts[rows[known]]
        found, columns = np.nonzero(table)
        ends = np.searchsorted(found, np.arange(len(rows) + 1))
        values = table[found, columns].astype(np.int64)
        return [
            (hours[columns[start:end]], values[start:end])
            for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ]

    def occupied(self) -> NDArray[np.bool_]:
        """Per row whether any hour holds a count."""
        used = np.zeros(self.sums.shape[1], np.bool_)
        for counts in self._hours.values():
            used[: len(counts)] |= counts != 0
        return used

    def _step(self) -> None:
        assert self.head is not None
        self.head += 1
        enters = self._hours.get(self.head - self._delay)
        for window, width in enumerate(WINDOW_HOURS):
            leaves = self._hours.get(self.head - self._delay - width)
            if enters is not None:
                self.sums[window, : len(enters)] += enters
            if leaves is not None:
                self.sums[window, : len(leaves)] -= leaves
        self._hours.pop(self.head - self.span, None)

    def _fill(self) -> None:
        self.sums[:] = 0
        for hour, counts in self._hours.items():
            for window in self._windows_with(hour):
                self.sums[window, : len(counts)] += counts

    def _add_hour(self, hour: int, rows: Ints, counts: Ints) -> None:
        np.add.at(self._counts_of(hour), rows, counts.astype(np.int32))
        for window in self._windows_with(hour):
            np.add.at(self.sums[window], rows, counts)

    def _windows_with(self, hour: int) -> list[int]:
        if self.head is None:
            return []
        age = self.head - self._delay - hour
        return [window for window, width in enumerate(WINDOW_HOURS) if 0 <= age < width]

    def _counts_of(self, hour: int) -> NDArray[np.int32]:
        room = self.sums.shape[1]
        counts = self._hours.get(hour)
        if counts is None or len(counts) < room:
            grown = np.zeros(room, np.int32)
            if counts is not None:
                grown[: len(counts)] = counts
            self._hours[hour] = counts = grown
        return counts
