"""The definition of the windows in plain Python: slow, obvious, and written apart from the code that it checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

NEVER = -(1 << 62)


@dataclass
class PlainAnswer:
    """What is known of an event's key when its turn comes."""

    counts: list[int]
    sums: list[int]
    previous: int
    late: bool
    mark_time: int = NEVER
    mark: tuple[float, float] = (nan, nan)


@dataclass
class PlainWindows:
    """Every event that was ever kept, looked through from the beginning each time."""

    spans: tuple[int, ...]
    lateness: int
    max_events: int = 1 << 40
    watermarks: dict[int, int] = field(default_factory=dict)
    kept: dict[tuple[int, bytes], list[tuple[int, int, int]]] = field(default_factory=dict)
    marks: dict[tuple[int, bytes], list[tuple[int, int, tuple[float, float]]]] = field(default_factory=dict)
    arrivals: int = 0

    def answer(
        self, partition: int, key: bytes, time: int, amount: int, mark: tuple[float, float] | None = None
    ) -> PlainAnswer:
        """Answers one event, and keeps it."""
        watermark = self.watermarks.get(partition, NEVER)
        floor = watermark - max(self.spans) - self.lateness
        kept = self.kept.setdefault((partition, key), [])
        live = [(t, a) for t, _, a in kept if t > floor]
        windows = [[a for t, a in live if time - span < t <= time] for span in self.spans]
        answer = PlainAnswer(
            counts=[len(window) for window in windows],
            sums=[sum(window) for window in windows],
            previous=max((t for t, _ in live if t <= time), default=NEVER),
            late=time < watermark - self.lateness,
        )
        marks = [entry for entry in self.marks.get((partition, key), []) if entry[0] > floor]
        if marks:
            answer.mark_time, _, answer.mark = max(marks, key=lambda entry: entry[:2])
        self.arrivals += 1
        self.watermarks[partition] = max(watermark, time)
        if time > floor:
            kept.append((time, self.arrivals, amount))
            kept.sort()
            del kept[: max(0, len(kept) - self.max_events)]
            if mark is not None:
                self.marks.setdefault((partition, key), []).append((time, self.arrivals, mark))
        return answer
