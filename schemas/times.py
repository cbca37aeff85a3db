"""Times as senders write them, to UTC epoch milliseconds, a column at a time.

Two forms are accepted: RFC 3339 with an offset (section 5.6 of the RFC; a leap second is refused) and a number of
milliseconds since 1970. Fractions are cut to whole milliseconds, towards the past.

The fast path reads the fixed layout `2026-01-31T12:00:00[.fraction]Z` of a whole column as a matrix of digits; the
day number comes from Howard Hinnant's `days_from_civil` (http://howardhinnant.github.io/date_algorithms.html).
Rows that do not fit go through msgspec's strict RFC 3339 parser.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["check_times", "parse_times"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_WITH_OFFSET = Annotated[datetime, msgspec.Meta(tz=True)]

# Beyond this a number of milliseconds is no time anybody means (year 9999), and float arithmetic loses milliseconds.
_LATEST_MS = 253_402_300_799_999

# Columns of `2026-01-31T12:00:00`: where its digits and its separators are.
_DIGITS = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_SEPARATORS = {4: b"-", 7: b"-", 10: b"T", 13: b":", 16: b":"}
_MONTH_LENGTHS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
_SHORTEST = len("2026-01-31T12:00:00Z")
_LONGEST = len("2026-01-31T12:00:00.123456789Z")


def parse_times(values: Sequence[str | float]) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Epoch milliseconds of each value, and the reason for each row that is no time (which then holds 0).

    Reasons are `naive_time` (no offset from UTC) and `invalid_time`.
    """
    kinds = set(map(type, values))
    if kinds == {int}:
        return _whole_numbers(values)
    if kinds == {str}:
        return _texts(values)  # type: ignore[arg-type]  # the line above says so
    return _one_by_one(values)


def check_times(times: NDArray[np.int64], earliest_ms: int, latest_ms: int | NDArray[np.int64]) -> dict[int, str]:
    """The reason for each row outside of its bounds, both of which are inside: `time_too_old`, `time_in_future`.

    `latest_ms` may be a column, such as the records' timestamps plus the drift that is accepted.
    """
    old, future = times < earliest_ms, times > latest_ms
    reasons = dict.fromkeys(np.flatnonzero(future).tolist(), "time_in_future")
    reasons.update(dict.fromkeys(np.flatnonzero(old).tolist(), "time_too_old"))
    return reasons


def _whole_numbers(values: Sequence[str | float]) -> tuple[NDArray[np.int64], dict[int, str]]:
    try:
        times = np.array(values, dtype=np.int64)
    except OverflowError:
        return _one_by_one(values)
    beyond = (times > _LATEST_MS) | (times < -_LATEST_MS)
    if not beyond.any():
        return times, {}
    return np.where(beyond, 0, times), dict.fromkeys(np.flatnonzero(beyond).tolist(), "invalid_time")


def _texts(values: Sequence[str]) -> tuple[NDArray[np.int64], dict[int, str]]:
    width = len(values[0])
    joined = "".join(values)
    if not (_SHORTEST <= width <= _LONGEST and joined.isascii() and set(map(len, values)) == {width}):
        return _one_by_one(values)
    characters = np.frombuffer(joined.encode("ascii"), dtype=np.uint8).reshape(len(values), width)
    times, fits = _fixed_layout(characters)
    if fits.all():
        return times, {}
    rest = np.flatnonzero(~fits).tolist()
    others, reasons = _one_by_one([values[row] for row in rest])
    times[rest] = others
    return times, {rest[row]: reason for row, reason in reasons.items()}


def _fixed_layout(characters: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of the rows of characters, and which of them have the layout and stand for a real date and time."""
    width = characters.shape[1]
    fraction = range(20, width - 1)
    columns = np.concatenate([_DIGITS, np.fromiter(fraction, dtype=np.int64)])
    digits = characters[:, columns] - np.uint8(ord("0"))  # what lies below "0" wraps around to above 9
    fits = (digits <= 9).all(axis=1) & (characters[:, -1] == ord("Z"))
    for column, separator in _SEPARATORS.items():
        fits &= characters[:, column] == ord(separator)
    if width > _SHORTEST:
        fits &= (characters[:, 19] == ord(".")) & (width > _SHORTEST + 1)
    d = digits.T.astype(np.int64)
    year, month, day = d[0] * 1000 + d[1] * 100 + d[2] * 10 + d[3], d[4] * 10 + d[5], d[6] * 10 + d[7]
    hour, minute, second = d[8] * 10 + d[9], d[10] * 10 + d[11], d[12] * 10 + d[13]
    fits &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= _month_length(year, month))
    fits &= (hour < 24) & (minute < 60) & (second < 60)
    milliseconds = sum((d[14 + place] * 10 ** (2 - place) for place in range(min(3, len(fraction)))), np.int64(0))
    seconds = ((_days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    return np.where(fits, seconds * 1000 + milliseconds, 0), fits


def _month_length(year: NDArray[np.int64], month: NDArray[np.int64]) -> NDArray[np.int64]:
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths: NDArray[np.int64] = _MONTH_LENGTHS[np.clip(month, 1, 12) - 1] + (leap & (month == 2))
    return lengths


def _days_from_civil(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant); the year starts in March."""
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days: NDArray[np.int64] = era * 146_097 + day_of_era - 719_468
    return days


def _one_by_one(values: Sequence[str | float]) -> tuple[NDArray[np.int64], dict[int, str]]:
    try:
        moments = msgspec.convert(values, list[_WITH_OFFSET], strict=True)
    except (msgspec.ValidationError, OverflowError):
        found = [_epoch_ms_of_text(value) if isinstance(value, str) else _epoch_ms(value) for value in values]
    else:
        found = [(moment - _EPOCH) // _MILLISECOND for moment in moments]
    times = np.array([time if isinstance(time, int) else 0 for time in found], dtype=np.int64)
    return times, {row: reason for row, reason in enumerate(found) if isinstance(reason, str)}


def _epoch_ms(value: float) -> int | str:
    """Epoch milliseconds, or the reason why there are none."""
    if isinstance(value, bool) or not abs(value) <= _LATEST_MS:  # NaN is not inside either
        return "invalid_time"
    return math.floor(value)


def _epoch_ms_of_text(text: str) -> int | str:
    try:
        return (msgspec.convert(text, _WITH_OFFSET, strict=True) - _EPOCH) // _MILLISECOND
    except (msgspec.ValidationError, OverflowError):
        return "naive_time" if _is_naive(text) else "invalid_time"


def _is_naive(text: str) -> bool:
    try:
        return msgspec.convert(text, datetime, strict=True).tzinfo is None
    except (msgspec.ValidationError, OverflowError):
        return False
