"""Yahoo's charts as bars and prices.

Rows begin with their bucket, but the last one may be a live point with the time of the latest trade. Daily rows have
the time of the open. Prices are adjusted for splits, and not for dividends.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl

from stockpulse.market.intervals import MINUTES_OF
from stockpulse.market.schemas import BARS, TICKS, UTC_MICROS
from stockpulse.market.times import EPOCH, SECOND_MICROS
from stockpulse.providers.trade_conditions import PRICE_ONLY
from stockpulse.providers.yahoo.chart import Chart, chart_of
from stockpulse.providers.yahoo.currencies import in_major_units, units_of

NEW_YORK: Final = ZoneInfo("America/New_York")
_LATE_HOUR: Final = 22
"""Daily rows of some zones are stamped one or two hours before their day."""
_NEARLY: Final = 0.05


def bars_of(body: bytes, symbol: str, interval: str, *, extended: bool = False) -> pl.DataFrame:
    """Return a chart as BARS, ascending. Raises BadReply.

    Rows outside the regular session are left out, unless they were asked for (`extended`).
    """
    chart = chart_of(body)
    rows = in_major_units(chart)
    if interval == "1d":
        rows = _days(rows, chart)
    else:
        seconds = 60 * MINUTES_OF[interval]
        rows = _without_live_point(rows, seconds)
        rows = rows if extended else _in_sessions(rows, chart, seconds)
    named = rows.with_columns(
        symbol=pl.lit(symbol), interval=pl.lit(interval), ts=(pl.col("t") * SECOND_MICROS).cast(UTC_MICROS)
    )
    return pl.concat([BARS.to_frame(), named.drop("t")], how="diagonal")


def price_of(body: bytes, symbol: str) -> pl.DataFrame:
    """Return the latest price of the regular session as TICKS without a size; no row without a price."""
    chart = chart_of(body)
    price, at = chart.number("regularMarketPrice"), chart.seconds("regularMarketTime")
    if price is None or at is None:
        return TICKS.to_frame()
    row = {
        "symbol": symbol,
        "ts": EPOCH + timedelta(seconds=at),
        "price": round(price / units_of(chart), 10),
        "size": 0.0,
        "conditions": PRICE_ONLY,
    }
    return pl.DataFrame([row], schema=TICKS)


# Days -------------------------------------------------------------------------------------------


def _days(rows: pl.DataFrame, chart: Chart) -> pl.DataFrame:
    """Return daily rows with the beginning of their date as time; of two rows of a date, the last one counts."""
    newest, zone = chart.seconds("regularMarketTime"), chart.zone
    stamps = [_day_of(t, zone, live=t == newest) for t in rows["t"].to_list()]
    return rows.with_columns(t=pl.Series(stamps, dtype=pl.Int64)).unique("t", keep="last", maintain_order=True)


def _day_of(t: int, zone: ZoneInfo, *, live: bool) -> int:
    """Return the time that stands for the date of a row: midnight there, or in New York if that is later.

    At that time it is the same date in every zone from there to New York and further east: so the bar has the right
    date by the calendar of the exchange, by that of New York, and by UTC.
    """
    local = (EPOCH + timedelta(seconds=t)).astimezone(zone)
    ahead = timedelta(days=1 if local.hour >= _LATE_HOUR and not live else 0)
    day = (local + ahead).date()
    begins = (datetime.combine(day, time(), one) for one in (zone, NEW_YORK))
    return max(int(begin.timestamp()) for begin in begins)


# Intraday ---------------------------------------------------------------------------------------


def _without_live_point(rows: pl.DataFrame, seconds: int) -> pl.DataFrame:
    """Fold a last row between two buckets into the bucket before it; leave it out if that bucket has no row."""
    if rows.is_empty() or rows["t"][-1] % seconds == 0:
        return rows
    live, kept = rows.row(-1, named=True), rows.head(-1)
    if kept.is_empty() or live["t"] - kept["t"][-1] >= seconds:
        return kept
    before = kept.row(-1, named=True)
    nearly_same = abs(live["volume"] - before["volume"]) <= _NEARLY * before["volume"]
    folded = {
        **before,
        "high": max(before["high"], live["high"]),
        "low": min(before["low"], live["low"]),
        "close": live["close"],
        "volume": max(before["volume"], live["volume"]) if nearly_same else before["volume"] + live["volume"],
    }
    return pl.concat([kept.head(-1), pl.DataFrame([folded], schema=kept.schema)])


def _in_sessions(rows: pl.DataFrame, chart: Chart, seconds: int) -> pl.DataFrame:
    """Leave out rows outside the regular session of their day; days whose session is not known keep all rows."""
    periods = list(_sessions(chart.meta.get("tradingPeriods")))
    if not periods or rows.is_empty():
        return rows
    zone = chart.zone
    known = {_date(start, zone) for start, _ in periods}
    inside = [
        any(t + seconds > start and t < end for start, end in periods) or _date(t, zone) not in known
        for t in rows["t"].to_list()
    ]
    return rows.filter(pl.Series(inside))


def _date(t: int, zone: ZoneInfo) -> object:
    return (EPOCH + timedelta(seconds=t)).astimezone(zone).date()


def _sessions(periods: Any) -> Iterator[tuple[int, int]]:
    """Yield starts and ends of regular sessions, from any of the forms in which they come."""
    if isinstance(periods, Mapping) and "regular" in periods:
        yield from _sessions(periods["regular"])
    elif isinstance(periods, Mapping):
        start, end = periods.get("start"), periods.get("end")
        if type(start) is int and type(end) is int and 0 <= start < end <= _LAST_SECOND:
            yield start, end
    elif isinstance(periods, list):
        for one in periods:
            yield from _sessions(one)


_LAST_SECOND: Final = 7_000_000_000
