"""The inputs that the calendar of a symbol adds to its bars: session, regular hours, and the bars in a year."""

import functools
import math
from datetime import UTC, datetime
from typing import Final

import numpy as np

from stockpulse.market.arrays import Floats, Ints
from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import D1, W1, Interval
from stockpulse.market.times import micros

_YEARS: Final = range(2015, 2025)
"""The years whose sessions are counted. They are fixed, so that the same log gives the same values at any time."""

_WEEKS: Final = 52
_MONTHS: Final = 12


def calendar_inputs(calendar: Calendar, interval: Interval, ts: Ints) -> dict[str, Floats]:
    """Return the inputs of bars that begin at `ts`, named as in `CALENDAR_INPUTS`.

    `session` is the trading date as a number, `regular` is 1 for a bar of the regular session and 0 for one before or
    after it, and `bars_per_year` is the same for all bars.
    """
    return {
        "session": calendar.trading_date(ts).astype(np.float64),
        "regular": _is_regular(calendar, interval, ts).astype(np.float64),
        "bars_per_year": np.full(len(ts), bars_per_year(calendar, interval)),
    }


def _is_regular(calendar: Calendar, interval: Interval, ts: Ints) -> Ints:
    if interval.micros is None:
        return np.ones(len(ts), np.int64)
    # A bar that contains the open belongs to the session: not every exchange opens on the grid of 5 minutes.
    inside = calendar.in_session(ts) | calendar.in_session(ts + interval.micros - 1)
    return inside.astype(np.int64)


@functools.cache
def bars_per_year(calendar: Calendar, interval: Interval) -> float:
    """Return the usual number of bars in a year, by which volatility is annualised.

    It counts trading time, not calendar time: J. Hull, Options, Futures, and Other Derivatives, chapter "The
    Black-Scholes-Merton model", takes 252 days for a stock. Sessions are the calendar's own, averaged over ten years
    and rounded (XNYS 252, 24/7 365); bars in a session are those of its usual length (XNYS 78 of 5 minutes).
    """
    if interval == W1:
        return float(_WEEKS)
    if interval.micros is None and interval != D1:
        return float(_MONTHS)
    first, after = (micros(datetime(year, 1, 1, tzinfo=UTC)) for year in (_YEARS.start, _YEARS.stop))
    _, opens, closes = calendar.sessions(first, after)
    sessions = round(len(opens) / len(_YEARS))
    if interval.micros is None:
        return float(sessions)
    return float(sessions * math.ceil(int(np.median(closes - opens)) / interval.micros))
