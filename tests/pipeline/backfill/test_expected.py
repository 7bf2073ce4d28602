"""The ranges to ask for: expected bars, less the stored ones, less what was asked for."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.times import from_micros, micros
from stockpulse.pipeline.backfill.expected import common, expected_bars, minus, missing

MINUTE = 60_000_000
DAY = 1440 * MINUTE
NEW_YORK = trading_calendar("XNYS")


def at(text):
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def shown(spans):
    return [(f"{from_micros(int(a)):%m-%d %H:%M}", f"{from_micros(int(b)):%m-%d %H:%M}") for a, b in spans]


class TestExpectedBars:
    def test_are_those_of_sessions(self):
        """A week with Thanksgiving and a half day after it."""
        expected = expected_bars(NEW_YORK, M5, at("2026-11-23"), at("2026-11-30"))
        days, counts = np.unique(expected.starts // DAY, return_counts=True)
        assert [str(day.astype("M8[D]")) for day in days] == [f"2026-11-{day}" for day in (23, 24, 25, 27)]
        assert counts.tolist() == [78, 78, 78, 42]
        assert shown([(expected.bounds[0], expected.bounds[-1])]) == [("11-23 05:00", "11-30 00:00")]
        assert len(expected.bounds) == 5

    def test_of_days_are_labels(self):
        expected = expected_bars(NEW_YORK, D1, at("2026-11-23"), at("2026-11-30"))
        assert [f"{from_micros(int(ts)):%d %H}" for ts in expected.starts] == ["23 05", "24 05", "25 05", "27 05"]
        assert expected.bounds[-1] == at("2026-11-30")

    def test_end_before_the_running_bar(self):
        expected = expected_bars(NEW_YORK, M1, at("2026-11-24T05:00"), at("2026-11-24T15:30"))
        assert len(expected.starts) == 60
        assert shown(zip(expected.bounds[:-1], expected.bounds[1:], strict=True)) == [
            ("11-24 05:00", "11-24 15:00"),
            ("11-24 15:00", "11-24 15:30"),
        ]

    def test_begin_in_a_session(self):
        expected = expected_bars(NEW_YORK, M5, at("2026-11-23T20:30"), at("2026-11-24T22:00"))
        assert len(expected.starts) == 6 + 78
        assert expected.bounds[0] == at("2026-11-23T20:30")

    def test_of_a_market_that_opens_the_evening_before(self):
        expected = expected_bars(trading_calendar("CMES"), M5, at("2026-11-16T05:00"), at("2026-11-18T05:00"))
        assert len(expected.bounds) >= 3
        assert np.all(np.diff(expected.bounds) > 0)
        assert np.all(np.diff(expected.starts) > 0)

    @pytest.mark.parametrize("interval", [M1, M5, D1])
    def test_of_no_time(self, interval):
        expected = expected_bars(NEW_YORK, interval, at("2026-11-24"), at("2026-11-24"))
        assert len(expected.starts) == 0
        assert missing(expected, expected.starts, [], expected.starts) == []


class TestMissing:
    def test_asks_for_whole_dates_across_nights_and_weekends(self):
        expected = expected_bars(NEW_YORK, M5, at("2026-11-16T05:00"), at("2026-11-24T05:00"))
        stored = expected.starts[(expected.starts < at("2026-11-18")) | (expected.starts > at("2026-11-20T18:00"))]
        assert shown(missing(expected, stored, [])) == [("11-18 05:00", "11-23 05:00")]

    def test_asks_for_nothing_twice(self):
        expected = expected_bars(NEW_YORK, M5, at("2026-11-16T05:00"), at("2026-11-24T05:00"))
        asked = [(at("2026-11-16T05:00"), at("2026-11-18T16:00"))]
        assert shown(missing(expected, expected.starts[:0], asked)) == [("11-18 16:00", "11-24 05:00")]

    def test_bars_beside_a_gap_and_the_newest_one_may_be_incomplete(self):
        expected = expected_bars(NEW_YORK, M1, at("2026-11-24T05:00"), at("2026-11-24T18:00"))
        gap = (expected.starts >= at("2026-11-24T15:30")) & (expected.starts < at("2026-11-24T15:40"))
        stored = expected.starts[~gap]
        assert shown(missing(expected, stored, [])) == [("11-24 15:30", "11-24 16:00")]
        assert shown(missing(expected, stored, [], stored)) == [
            ("11-24 15:00", "11-24 16:00"),
            ("11-24 17:30", "11-24 18:00"),
        ]


spans = st.lists(st.tuples(st.integers(0, 5 * 1440), st.integers(1, 2000)), max_size=6).map(
    lambda pairs: minus([(a * MINUTE, (a + n) * MINUTE) for a, n in pairs], [])
)


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["XNYS", "24/7", "XLON", "CMES"]),
    st.sampled_from([M1, M5, D1]),
    st.integers(0, 4 * 1440),
    st.integers(1, 3 * 1440),
    st.data(),
)
def test_missing_is_expected_minus_stored_minus_asked(calendar, interval, first, length, data):
    """Every bar that is missing is in exactly one range; no range was asked for; each has a missing bar."""
    base = at("2026-03-05T00:00")  # with a change of the clocks
    start, end = base + first * MINUTE, base + (first + length) * MINUTE
    expected = expected_bars(trading_calendar(calendar), interval, start, end)
    kept = data.draw(st.lists(st.booleans(), min_size=len(expected.starts), max_size=len(expected.starts)))
    stored = expected.starts[np.array(kept, np.bool_)]
    asked = [(base + a, base + b) for a, b in data.draw(spans)]
    ranges = missing(expected, stored, asked)
    wanted = {int(ts) for ts in np.setdiff1d(expected.starts, stored)}
    wanted = {ts for ts in wanted if not any(a <= ts < b for a, b in asked)}
    assert all(sum(a <= ts < b for a, b in ranges) == 1 for ts in wanted)
    assert common(ranges, asked) == []
    assert all(start <= a < b <= end for a, b in ranges)
    assert all(any(a <= ts < b for ts in wanted) for a, b in ranges)
    # After these ranges are asked for, nothing is missing: it is never asked for again.
    assert missing(expected, stored, [*asked, *ranges]) == []
    wider = missing(expected, stored, asked, stored[::2])
    assert minus(ranges, wider) == []
    assert common(wider, asked) == []
    assert missing(expected, stored, [*asked, *wider], stored[::2]) == []


def test_ranges_are_subtracted_and_intersected():
    assert minus([(0, 10)], [(2, 3), (5, 7)]) == [(0, 2), (3, 5), (7, 10)]
    assert minus([(0, 10), (20, 30)], [(5, 25)]) == [(0, 5), (25, 30)]
    assert minus([(0, 10)], [(0, 10)]) == []
    assert common([(0, 10), (20, 30)], [(5, 25)]) == [(5, 10), (20, 25)]


def test_a_long_range_is_quick_to_compare():
    """A year and a half of 5-minute bars: 29,000 of them."""
    expected = expected_bars(NEW_YORK, M5, at("2025-05-01"), at("2026-11-01"))
    assert len(expected.starts) == pytest.approx(29_000, rel=0.05)
    assert expected.count(at("2025-06-02"), at("2025-06-03")) == 78
    assert timedelta(days=540) < from_micros(int(expected.bounds[-1])) - from_micros(int(expected.bounds[0]))
