import itertools
from datetime import UTC, datetime, timedelta
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpulse.market.calendar import NO_DAY
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import parse_interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.times import micros
from stockpulse.storage import gap_filling
from stockpulse.storage.served_bars import SERVED_BARS

MONDAY = micros(datetime(2025, 11, 24, tzinfo=UTC))  # Thanksgiving on Thursday, half a day on Friday
MINUTE = 60_000_000
DAY = 1440 * MINUTE


def bars_at(ts, interval="5m"):
    """A bar at each of these times, no two of them alike."""
    n = len(ts)
    close = 100.0 + np.arange(n)
    return pl.DataFrame(
        {
            "symbol": ["AAPL"] * n,
            "interval": [interval] * n,
            "ts": pl.Series(ts, dtype=pl.Int64).cast(UTC_MICROS),
            "open": close - 1,
            "high": close + 2,
            "low": close - 2,
            "close": close,
            "volume": 10.0 * close,
            "trade_count": np.arange(n) + 1,
            "vwap": close - 0.5,
            "revision": np.arange(n) + 7,
            "final": np.arange(n) % 3 > 0,
            "source": ["trades"] * n,
            "filled": [False] * n,
        },
        schema=SERVED_BARS,
    )


def times(*texts):
    return [micros(datetime.fromisoformat(text)) for text in texts]


async def fill_pages(pages, calendar, interval):
    async def source():
        for page in pages:
            yield page

    filled = gap_filling.filled(source(), trading_calendar(calendar), parse_interval(interval))
    return [page async for page in filled]


async def fill(bars, calendar, interval):
    return pl.concat(await fill_pages([bars], calendar, interval))


async def test_a_filled_bar_repeats_the_close_and_says_that_nothing_traded():
    bars = bars_at(times("2025-11-24T15:00Z", "2025-11-24T15:15Z"))
    result = await fill(bars, "XNYS", "5m")
    assert result.schema == SERVED_BARS
    first, *repeats, last = result.to_dicts()
    assert [first, last] == bars.to_dicts()
    quiet = {
        **first,
        "open": 100.0,
        "high": 100.0,
        "low": 100.0,
        "close": 100.0,
        "volume": 0.0,
        "trade_count": 0,
        "vwap": None,
        "source": None,
        "filled": True,
    }
    assert repeats == [{**quiet, "ts": first["ts"] + timedelta(minutes=minutes)} for minutes in (5, 10)]


async def test_nothing_is_filled_outside_of_the_session():
    # 13:30 New York is after the close of the half day; the next bar is on Monday, half an hour after the open.
    bars = bars_at(times("2025-11-28T17:45Z", "2025-11-28T18:30Z", "2025-12-01T15:00Z"))
    result = await fill(bars, "XNYS", "5m")
    new_york = result.filter("filled")["ts"].dt.convert_time_zone("America/New_York").dt.strftime("%a %H:%M").to_list()
    assert new_york == [
        "Fri 12:50",
        "Fri 12:55",
        *(f"Mon {at}" for at in ("09:30", "09:35", "09:40", "09:45", "09:50", "09:55")),
    ]
    closes = result.filter("filled")["close"].to_list()
    assert closes == [100.0] * 2 + [101.0] * 6  # the bar after the close is what Monday repeats


@pytest.mark.parametrize(
    ("interval", "calendar", "ends", "expected"),
    [
        ("1d", "XNYS", ("2025-11-26T05:00Z", "2025-12-02T05:00Z"), ["2025-11-28T05", "2025-12-01T05"]),
        ("1d", "24/7", ("2025-11-26T00:00Z", "2025-11-29T00:00Z"), ["2025-11-27T00", "2025-11-28T00"]),
        ("1w", "XNYS", ("2025-11-17T05:00Z", "2025-12-08T05:00Z"), ["2025-11-24T05", "2025-12-01T05"]),
        ("1mo", "XNYS", ("2025-09-01T04:00Z", "2025-12-01T05:00Z"), ["2025-10-01T04", "2025-11-01T04"]),
        ("4h", "XNYS", ("2025-11-26T14:30Z", "2025-11-28T14:30Z"), ["2025-11-26T18"]),
        ("2h", "24/7", ("2025-11-28T22:00Z", "2025-11-29T02:00Z"), ["2025-11-29T00"]),
    ],
)
async def test_every_interval_has_its_grid(interval, calendar, ends, expected):
    result = await fill(bars_at(times(*ends), interval), calendar, interval)
    assert result.filter("filled")["ts"].dt.strftime("%Y-%m-%dT%H").to_list() == expected


async def test_neither_no_bar_nor_one_has_a_gap():
    assert await fill_pages([], "24/7", "1m") == []
    assert await fill_pages([SERVED_BARS.to_frame()], "24/7", "1m") == []
    bar = bars_at([MONDAY])
    (page,) = await fill_pages([SERVED_BARS.to_frame(), bar], "24/7", "1m")
    assert page.equals(bar)


@pytest.mark.thorough
@pytest.mark.slow
async def test_a_gap_of_years_comes_in_pieces():
    bars = bars_at([MONDAY - 20 * 365 * DAY, MONDAY], "1m")
    rows = most = 0
    async for page in gap_filling.filled(_one(bars), trading_calendar("24/7"), parse_interval("1m")):
        rows += page.height
        most = max(most, page.height)
    assert rows == 20 * 365 * 1440 + 1
    assert most <= 22_000


async def _one(page):
    yield page


INTERVALS = {"1m": 1, "5m": 3, "7m": 3, "1h": 10, "4h": 10, "1d": 200, "1w": 600, "1mo": 1500}  # and days to look at


@st.composite
def scattered(draw):
    """Some buckets of a calendar that traded, in pages."""
    calendar, interval = draw(st.sampled_from(["24/7", "XNYS", "CMES"])), draw(st.sampled_from(list(INTERVALS)))
    begin = MONDAY - draw(st.integers(0, 20 * 365)) * DAY
    minutes = draw(st.lists(st.integers(0, INTERVALS[interval] * 1440), min_size=1, max_size=12))
    known = trading_calendar(calendar)
    labels = known.label(begin + np.array(minutes) * MINUTE, parse_interval(interval))
    labels = np.unique(labels[labels != NO_DAY])
    cuts = sorted(draw(st.lists(st.integers(0, len(labels)), max_size=4)))
    bars = bars_at(labels, interval)
    pages = [bars[a:b] for a, b in itertools.pairwise([0, *cuts, len(bars)])]
    return known, interval, bars, pages, draw(st.sampled_from([3, 100, 20_000]))


@pytest.mark.thorough
@pytest.mark.slow
@given(scattered())
@settings(max_examples=60)
async def test_filled_bars_come_between_the_others_and_nowhere_else(case):
    calendar, interval, bars, pages, buckets = case
    with mock.patch.object(gap_filling, "_BUCKETS", buckets):
        result = pl.concat([SERVED_BARS.to_frame(), *await fill_pages(pages, calendar.name, interval)])
    assert result.filter(~pl.col("filled")).equals(bars)
    assert result["ts"].is_sorted()
    assert result["ts"].n_unique() == result.height
    repeated = result.select(pl.when(~pl.col("filled")).then("close").forward_fill())
    assert result["close"].to_list() == repeated["close"].to_list()
    if len(bars) == 0:
        return
    # Every bucket in which the market is open at some minute, and no other.
    first, last = (int(bars["ts"].to_physical()[at]) for at in (0, -1))
    step = MINUTE if parse_interval(interval).is_intraday else 30 * MINUTE
    moments = np.arange(first, last, step)
    labels = np.unique(calendar.label(moments[calendar.trading_day(moments) != NO_DAY], parse_interval(interval)))
    expected = {int(label) for label in labels if first < label < last} - set(bars["ts"].to_physical())
    assert set(result.filter("filled")["ts"].to_physical()) == expected
