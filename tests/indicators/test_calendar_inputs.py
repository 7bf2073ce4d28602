"""The inputs from a calendar: the regular session, and the number of bars in a year."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from stockpulse.indicators.calendar_inputs import bars_per_year, calendar_inputs
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5, MO1, W1, parse_interval
from stockpulse.market.times import micros


@pytest.mark.parametrize(
    ("calendar", "interval", "bars"),
    [
        ("24/7", "1m", 365 * 1440),
        ("24/7", "5m", 365 * 288),
        ("24/7", "4h", 365 * 6),
        ("24/7", "1d", 365),
        ("24/7", "1w", 52),
        ("24/7", "1mo", 12),
        ("XNYS", "1m", 252 * 390),
        ("XNYS", "5m", 252 * 78),
        ("XNYS", "1h", 252 * 7),  # the last hour has half of one
        ("XNYS", "1d", 252),
        ("XNYS", "1w", 52),
        ("XNYS", "1mo", 12),
    ],
)
def test_bars_per_year(calendar, interval, bars):
    assert bars_per_year(trading_calendar(calendar), parse_interval(interval)) == bars


def regular(times, interval=M5):
    found = calendar_inputs(trading_calendar("XNYS"), interval, np.array([micros(one) for one in times]))
    return found["regular"].tolist()


def test_regular_bars_of_a_day_with_usual_hours():
    """9:30 to 16:00 in New York, which is 14:30 to 21:00 UTC in winter."""
    day = datetime(2026, 11, 24, tzinfo=UTC)
    hours = [timedelta(hours=9), timedelta(hours=14, minutes=25), timedelta(hours=14, minutes=30)]
    hours += [timedelta(hours=20, minutes=55), timedelta(hours=21), timedelta(hours=23)]
    assert regular([day + one for one in hours]) == [0, 0, 1, 1, 0, 0]
    assert regular([day + one for one in hours], M1) == [0, 0, 1, 1, 0, 0]


def test_regular_bars_of_a_half_day_and_of_a_closed_one():
    """The Friday after Thanksgiving closes at 13:00; on the day itself there is no session."""
    friday, thursday = datetime(2026, 11, 27, tzinfo=UTC), datetime(2026, 11, 26, 16, tzinfo=UTC)
    times = [friday + timedelta(hours=17, minutes=55), friday + timedelta(hours=18), thursday]
    assert regular(times) == [1, 0, 0]


def test_longer_bars_are_regular():
    day = [datetime(2026, 11, 24, 5, tzinfo=UTC), datetime(2026, 11, 28, 5, tzinfo=UTC)]
    for interval in (D1, W1, MO1):
        assert regular(day, interval) == [1, 1]


def test_the_session_is_the_trading_date():
    ts = np.array([micros(datetime(2026, 11, 24, hour, tzinfo=UTC)) for hour in (4, 6, 15, 23)])
    found = calendar_inputs(trading_calendar("XNYS"), M5, ts)["session"]
    assert len(set(found[1:].tolist())) == 1
    assert found[0] != found[1]  # before midnight in New York
