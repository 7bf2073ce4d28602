"""The indicators that TA-Lib does not have, once more: written down plainly from their published formulas.

Each takes bars and parameters and gives all outputs in the order of the catalogue. Nothing of StockPulse is used.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from indicator_data import Array, Bars

nan = math.nan


def windowed(values: Array, size: int, function: Callable[[Array], float]) -> Array:
    """A function of each value and those before it; null where there are not enough, or a null is among them."""
    found = np.full(len(values), nan)
    for end in range(size, len(values) + 1):
        window = values[end - size : end]
        if not np.isnan(window).any():
            found[end - 1] = function(window)
    return found


def mean(values: Array, size: int) -> Array:
    return windowed(values, size, lambda window: math.fsum(window) / size)


def weighted_mean(values: Array, size: int) -> Array:
    weights = np.arange(1, size + 1)
    return windowed(values, size, lambda window: math.fsum(weights * window) / weights.sum())


def highest(values: Array, size: int) -> Array:
    return windowed(values, size, np.max)


def lowest(values: Array, size: int) -> Array:
    return windowed(values, size, np.min)


def deviation(values: Array, size: int, degrees: int = 0) -> Array:
    """The standard deviation; exactly zero for equal values."""
    return windowed(values, size, lambda window: np.std(window, ddof=degrees) if np.ptp(window) > 0 else 0.0)


def smoothed(values: Array, size: int, alpha: float) -> Array:
    """Exponential smoothing that begins with the mean of the first values; nulls come before them only."""
    found = np.full(len(values), nan)
    start = int(np.isnan(values).sum())
    if start + size <= len(values):
        value = found[start + size - 1] = math.fsum(values[start : start + size]) / size
        for now in range(start + size, len(values)):
            value = found[now] = alpha * values[now] + (1 - alpha) * value
    return found


def exponential_mean(values: Array, size: int) -> Array:
    return smoothed(values, size, 2 / (size + 1))


def true_ranges(bars: Bars) -> Array:
    found = np.full(len(bars["close"]), nan)
    for now in range(1, len(found)):
        high, low, before = bars["high"][now], bars["low"][now], bars["close"][now - 1]
        found[now] = max(high - low, abs(high - before), abs(low - before))
    return found


def average_true_range(bars: Bars, size: int) -> Array:
    return smoothed(true_ranges(bars), size, 1 / size)


def changes(values: Array) -> Array:
    return np.diff(values, prepend=nan)


def quotient(a: Array, b: Array, otherwise: float = nan) -> Array:
    """A / b, and something else where b is zero."""
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return np.array([nan if math.isnan(x + y) else otherwise if y == 0 else x / y for x, y in pairs])


def later(values: Array, bars: int) -> Array:
    """The values, shifted by this number of bars."""
    return np.concatenate([np.full(bars, nan), values])[: len(values)]


# ------------------------------------------------------------------------------------------------


def hma(bars: Bars, period: int) -> Sequence[Array]:
    close = bars["close"]
    raw = 2 * weighted_mean(close, period // 2) - weighted_mean(close, period)
    return [weighted_mean(raw, math.floor(math.sqrt(period)))]


def vwma(bars: Bars, period: int) -> Sequence[Array]:
    return [quotient(mean(bars["close"] * bars["volume"], period), mean(bars["volume"], period))]


def vwap(bars: Bars, *, extended: bool) -> Sequence[Array]:
    typical = (bars["high"] + bars["low"] + bars["close"]) / 3
    found = np.full(len(typical), nan)
    for session in np.unique(bars["session"]):
        of_it = bars["session"] == session
        volume = np.where(bars["regular"][of_it] + extended > 0, bars["volume"][of_it], 0)
        found[of_it] = quotient(np.cumsum(typical[of_it] * volume), np.cumsum(volume))
    return [found]


def supertrend(bars: Bars, period: int, multiplier: float) -> Sequence[Array]:
    """As ta.supertrend of Pine Script, whose direction has the other sign."""
    middle = (bars["high"] + bars["low"]) / 2
    reach = multiplier * average_true_range(bars, period)
    close, upper, lower = bars["close"], middle + reach, middle - reach
    band, side = np.full(len(close), nan), np.full(len(close), nan)
    for now in range(len(close)):
        if math.isnan(reach[now]):
            continue
        last = now - 1
        if math.isnan(reach[last]) or now == 0:
            side[now] = -1
        else:
            if not (lower[now] > lower[last] or close[last] < lower[last]):
                lower[now] = lower[last]
            if not (upper[now] < upper[last] or close[last] > upper[last]):
                upper[now] = upper[last]
            if side[last] == -1:
                side[now] = 1 if close[now] > upper[now] else -1
            else:
                side[now] = -1 if close[now] < lower[now] else 1
        band[now] = lower[now] if side[now] == 1 else upper[now]
    return band, side


def ichimoku(bars: Bars, conversion: int, base: int, span: int) -> Sequence[Array]:
    quick, slow, wide = (
        (highest(bars["high"], size) + lowest(bars["low"], size)) / 2 for size in (conversion, base, span)
    )
    return quick, slow, later((quick + slow) / 2, base), later(wide, base)


def awesome(bars: Bars, fast: int, slow: int) -> Sequence[Array]:
    middle = (bars["high"] + bars["low"]) / 2
    return [mean(middle, fast) - mean(middle, slow)]


def tsi(bars: Bars, long: int, short: int, signal: int) -> Sequence[Array]:
    change = changes(bars["close"])
    up = exponential_mean(exponential_mean(change, long), short)
    size = exponential_mean(exponential_mean(np.abs(change), long), short)
    strength = 100 * quotient(up, size, 0)
    return strength, exponential_mean(strength, signal)


def bollinger(bars: Bars, period: int, deviations: float) -> Sequence[Array]:
    middle = mean(bars["close"], period)
    reach = deviations * deviation(bars["close"], period)
    upper, lower = middle + reach, middle - reach
    return upper, middle, lower, quotient(bars["close"] - lower, upper - lower), (upper - lower) / middle


def keltner(bars: Bars, period: int, range_period: int, multiplier: float) -> Sequence[Array]:
    middle = exponential_mean(bars["close"], period)
    reach = multiplier * average_true_range(bars, range_period)
    return middle + reach, np.where(np.isnan(reach), nan, middle), middle - reach


def donchian(bars: Bars, period: int) -> Sequence[Array]:
    upper, lower = highest(bars["high"], period), lowest(bars["low"], period)
    return upper, (upper + lower) / 2, lower


def historical_volatility(bars: Bars, period: int, bars_per_year: float | None = None) -> Sequence[Array]:
    returns = changes(np.log(bars["close"]))
    return [100 * np.sqrt(bars_per_year or bars["bars_per_year"]) * deviation(returns, period, degrees=1)]


def ulcer(bars: Bars, period: int) -> Sequence[Array]:
    """The fall of each bar is from the highest close of the `period` bars up to it."""
    fall = 100 * (bars["close"] / highest(bars["close"], period) - 1)
    return [np.sqrt(mean(fall**2, period))]


def cmf(bars: Bars, period: int) -> Sequence[Array]:
    high, low, close = bars["high"], bars["low"], bars["close"]
    flow = quotient((close - low) - (high - close), high - low, 0) * bars["volume"]
    return [quotient(mean(flow, period), mean(bars["volume"], period))]


def force_index(bars: Bars, period: int) -> Sequence[Array]:
    return [exponential_mean(changes(bars["close"]) * bars["volume"], period)]


FORMULAS: dict[str, Callable[..., Sequence[Array]]] = {
    one.__name__: one
    for one in (
        hma,
        vwma,
        vwap,
        supertrend,
        ichimoku,
        awesome,
        tsi,
        bollinger,
        keltner,
        donchian,
        historical_volatility,
        ulcer,
        cmf,
        force_index,
    )
}
