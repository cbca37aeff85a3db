"""Times as senders write them: the fast path agrees with the slow one, and nothing raises."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.codec import REASONS
from schemas.times import check_times, parse_times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = 1_795_521_600_000  # 2026-11-24T12:00:00Z

OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=OFFSETS)
UTC_MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


def milliseconds(moment: datetime) -> int:
    """The plain definition: whole milliseconds since the epoch, towards the past."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def one(value: str | float) -> int | str:
    """Milliseconds of a single value, or the reason why there are none."""
    times, reasons = parse_times([value])
    return reasons.get(0) or int(times[0])


@given(st.lists(MOMENTS, max_size=5))
def test_times_with_offsets(moments: list[datetime]) -> None:
    """RFC 3339 with any offset and fraction becomes UTC milliseconds."""
    times, reasons = parse_times([moment.isoformat() for moment in moments])

    assert [milliseconds(moment) for moment in moments] == times.tolist()
    assert {} == reasons


@given(st.lists(UTC_MOMENTS, min_size=1, max_size=5), st.sampled_from(["seconds", "milliseconds", "microseconds"]))
@example([datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC)], "microseconds")
@example([datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)], "microseconds")
@example([datetime(1900, 2, 28, tzinfo=UTC), datetime(2000, 2, 29, tzinfo=UTC)], "seconds")
def test_columns_of_one_layout(moments: list[datetime], precision: str) -> None:
    """The fast path for a column in UTC gives what the datetime module gives."""
    texts = [moment.isoformat(timespec=precision).replace("+00:00", "Z") for moment in moments]

    times, reasons = parse_times(texts)

    assert [milliseconds(datetime.fromisoformat(text)) for text in texts] == times.tolist()
    assert {} == reasons


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.from_regex(r"\A[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{3}[Zz+]\Z"),
        ).map(lambda parts: parts[0]),
        min_size=2,
        max_size=4,
    )
)
def test_fast_path_takes_and_refuses_what_the_strict_parser_does(texts: list[str]) -> None:
    """Near misses in a column of one width end as they do when each is parsed alone by the strict parser."""
    times, reasons = parse_times(texts)

    # A number in the column sends all of it through the strict parser.
    strict_times, strict_reasons = parse_times([*texts, 0])
    assert strict_times[:-1].tolist() == times.tolist()
    assert strict_reasons == reasons


@given(st.lists(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.booleans()), max_size=6))
def test_no_value_raises(values: list[str | float]) -> None:
    """Whatever a sender writes is a time or has a known reason, and then holds 0."""
    times, reasons = parse_times(values)

    assert len(values) == len(times)
    assert set(reasons.values()) <= {"naive_time", "invalid_time"} <= REASONS.keys()
    assert [0] * len(reasons) == times[sorted(reasons)].tolist()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-24T12:00:00Z", NOON),
        ("2026-11-24t12:00:00z", NOON),
        ("2026-11-24 12:00:00Z", NOON),
        ("2026-11-24T13:00:00+01:00", NOON),
        ("2026-11-24T12:00:00.9999Z", NOON + 999),
        ("2026-11-24T12:00:00.123456789Z", NOON + 123),
        (NOON, NOON),
        (float(NOON), NOON),
        (1.9, 1),
        (-0.5, -1),
        ("1970-01-01T00:00:00Z", 0),
        ("2200-01-01T00:00:00Z", 7_258_118_400_000),
        ("2026-11-24T12:00:00", "naive_time"),
        ("2026-11-24", "invalid_time"),
        ("2026-02-29T12:00:00Z", "invalid_time"),
        ("2026-11-24T24:00:00Z", "invalid_time"),
        ("2026-11-24T12:00:60Z", "invalid_time"),
        ("2026-11-24T12:00:00.Z", "invalid_time"),
        ("20261124T120000Z", "invalid_time"),
        ("yesterday", "invalid_time"),
        ("", "invalid_time"),
        (str(NOON), "invalid_time"),
        (True, "invalid_time"),
        (1e308, "invalid_time"),
        (10**30, "invalid_time"),
        (2**63, "invalid_time"),
        (-(2**63), "invalid_time"),
        (math.nan, "invalid_time"),
        (-math.inf, "invalid_time"),
    ],
)
def test_single_values(value: str | float, expected: int | str) -> None:
    """Each form that is accepted, and each that is not, alone in its column."""
    assert expected == one(value)


def test_bad_rows_do_not_hurt_their_neighbours() -> None:
    """In a column of one layout, each bad row has its reason and the others their times."""
    texts = ["2026-11-24T12:00:00.000Z", "2026-13-24T12:00:00.000Z", "2026-11-24T12:00:00.001Z", "x" * 24]

    times, reasons = parse_times(texts)

    assert [NOON, 0, NOON + 1, 0] == times.tolist()
    assert {1: "invalid_time", 3: "invalid_time"} == reasons


def test_bounds() -> None:
    """Times before the earliest and after the latest have their reasons; the bounds themselves are inside."""
    times = np.array([0, 9, 10, 20, 21, 40])
    latest = np.array([20, 20, 20, 20, 20, 40])

    assert {0: "time_too_old", 1: "time_too_old", 4: "time_in_future"} == check_times(times, 10, latest)
    assert {} == check_times(times, 0, 40)
    assert {"time_too_old", "time_in_future"} <= REASONS.keys()


def test_empty_column() -> None:
    """No values give no times."""
    times, reasons = parse_times([])

    assert ([], {}) == (times.tolist(), reasons)
