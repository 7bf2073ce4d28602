"""Steps with special rules, each for one indicator."""

from math import isnan, nan

from stockpulse.indicators.steps.pointwise import larger, smaller
from stockpulse.indicators.steps.running import approach


def adx_average(known: int, value: float, x: float, moves: float, n: int) -> tuple[int, float, float]:
    """Return Wilder's average of the directional index; it does not change while prices do not move."""
    if isnan(x) or isnan(moves):
        return known, value, nan
    if known < n:
        known += 1
        value += (x - value) / known
        return known, value, nan if known < n else value
    if moves == 0.0:
        return known, value, value
    value, shown = approach(value, x, 1.0 / n)
    return known, value, shown


def parabolic_sar(
    known: int,
    long: int,
    sar: float,
    extreme: float,
    factor: float,
    last_high: float,
    last_low: float,
    high: float,
    low: float,
    acceleration: float,
    maximum: float,
) -> tuple[int, int, float, float, float, float, float, float]:
    """Return Wilder's stop and reverse. It starts long unless the first move down exceeds the first move up."""
    if isnan(high) or isnan(low):
        return known, long, sar, extreme, factor, last_high, last_low, nan
    if known == 0:
        return 1, long, sar, extreme, factor, high, low, nan
    if known == 1:
        down, up = last_low - low, high - last_high
        long = 0 if down > 0.0 and down > up else 1
        extreme = high if long else low
        sar = last_low if long else last_high
        factor = acceleration
        last_high, last_low = high, low  # as in TA-Lib: the second bar is also its own previous bar
    if long and low <= sar:
        long = 0
        result = larger(larger(extreme, last_high), high)
        factor, extreme = acceleration, low
        sar = larger(larger(result + factor * (extreme - result), last_high), high)
    elif not long and high >= sar:
        long = 1
        result = smaller(smaller(extreme, last_low), low)
        factor, extreme = acceleration, high
        sar = smaller(smaller(result + factor * (extreme - result), last_low), low)
    else:
        result = sar
        if long and high > extreme:
            factor, extreme = smaller(factor + acceleration, maximum), high
        elif not long and low < extreme:
            factor, extreme = smaller(factor + acceleration, maximum), low
        sar = result + factor * (extreme - result)
        sar = smaller(smaller(sar, last_low), low) if long else larger(larger(sar, last_high), high)
    return 2, long, sar, extreme, factor, high, low, result


def supertrend(
    known: int,
    up: int,
    upper: float,
    lower: float,
    last_close: float,
    close: float,
    basic_upper: float,
    basic_lower: float,
) -> tuple[int, int, float, float, float, float, float]:
    """Return the band that trails the close, and the close's side of it: 1 above, -1 below. It starts below."""
    if isnan(close) or isnan(basic_upper) or isnan(basic_lower):
        return known, up, upper, lower, last_close, nan, nan
    if not known:
        return 1, 0, basic_upper, basic_lower, close, basic_upper, -1.0
    if basic_upper < upper or last_close > upper:
        upper = basic_upper
    if basic_lower > lower or last_close < lower:
        lower = basic_lower
    up = (1 if close >= lower else 0) if up else (1 if close > upper else 0)
    if up:
        return 1, up, upper, lower, close, lower, 1.0
    return 1, up, upper, lower, close, upper, -1.0
