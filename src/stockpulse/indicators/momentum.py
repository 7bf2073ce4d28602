"""Momentum: the speed of price changes, and overbought and oversold prices."""

from stockpulse.indicators import algebra as alg
from stockpulse.indicators.algebra import (
    Series,
    diff,
    difference,
    given,
    lag,
    larger,
    previous,
    ratio,
    smaller,
    where,
)
from stockpulse.indicators.definition import indicator
from stockpulse.indicators.prices import typical_price


@indicator(title="Relative strength index", inputs="close", units="0 to 100", source="TA-Lib RSI", flat="0", minimum=2)
def rsi(close: Series, *, period: int = 14) -> Series:
    """Wilder's share of the gains in all changes."""
    return _relative_strength(close, period)


def _relative_strength(close: Series, period: int) -> Series:
    gain, loss = _gain_and_loss(close, period)
    return 100 * ratio(gain, gain + loss, 0)


def _gain_and_loss(close: Series, period: int) -> tuple[Series, Series]:
    change = diff(close)
    return alg.wilder(where(change > 0, change, 0), period), alg.wilder(where(change < 0, -change, 0), period)


@indicator(
    title="Stochastic, fast",
    inputs="high low close",
    outputs="stoch_fast_k stoch_fast_d",
    units="0 to 100",
    source="TA-Lib STOCHF",
    flat="0 0",
)
def stoch_fast(high: Series, low: Series, close: Series, *, k: int = 5, d: int = 3) -> tuple[Series, ...]:
    """The position of the close in the range of the last bars, and its mean."""
    position = _position(high, low, close, k)
    mean = alg.sma(position, d)
    return given(position, mean), mean


def _position(high: Series, low: Series, close: Series, n: int) -> Series:
    highest, lowest = alg.range_(high, low, n)
    return 100 * ratio(close - lowest, difference(highest, lowest), 0)


@indicator(
    title="Stochastic, slow",
    inputs="high low close",
    outputs="stoch_k stoch_d",
    units="0 to 100",
    source="TA-Lib STOCH",
    flat="0 0",
)
def stoch(
    high: Series, low: Series, close: Series, *, k: int = 5, smoothing: int = 3, d: int = 3
) -> tuple[Series, ...]:
    """The fast stochastic, smoothed once more."""
    position = alg.sma(_position(high, low, close, k), smoothing)
    mean = alg.sma(position, d)
    return given(position, mean), mean


@indicator(
    title="Stochastic RSI",
    inputs="close",
    outputs="stoch_rsi_k stoch_rsi_d",
    units="0 to 100",
    source="TA-Lib STOCHRSI",
    flat="0 0",
    minimum=2,
)
def stoch_rsi(close: Series, *, period: int = 14, k: int = 5, d: int = 3) -> tuple[Series, ...]:
    """The position of the RSI in the range of its last values, and its mean."""
    strength = _relative_strength(close, period)
    position = _position(strength, strength, strength, k)
    mean = alg.sma(position, d)
    return given(position, mean), mean


@indicator(title="Williams %R", inputs="high low close", units="-100 to 0", source="TA-Lib WILLR", flat="0", minimum=2)
def williams_r(high: Series, low: Series, close: Series, *, period: int = 14) -> Series:
    """The distance of the close from the highest high, in the range of the last bars."""
    highest, lowest = alg.range_(high, low, period)
    return -100 * ratio(highest - close, difference(highest, lowest), 0)


@indicator(
    title="Commodity channel index", inputs="high low close", units="none", source="TA-Lib CCI", flat="0", minimum=2
)
def cci(high: Series, low: Series, close: Series, *, period: int = 14) -> Series:
    """The distance of the typical price from its mean; 1 is 0.015 mean deviations."""
    typical = typical_price(high, low, close)
    mean = alg.sma(typical, period)
    return ratio(difference(typical, mean), 0.015 * alg.mean_deviation(typical, mean, period), 0)


@indicator(title="Rate of change", inputs="close", units="percent", source="TA-Lib ROC", flat="0")
def roc(close: Series, *, period: int = 10) -> Series:
    """The change over the last bars, in percent."""
    before = lag(close, period)
    return 100 * ratio(close - before, before, 0)


@indicator(title="Momentum", inputs="close", units="price", source="TA-Lib MOM", flat="0")
def momentum(close: Series, *, period: int = 10) -> Series:
    """The change over the last bars."""
    return close - lag(close, period)


@indicator(
    title="Percentage price oscillator",
    inputs="close",
    units="percent",
    source="TA-Lib PPO with exponential means (matype=1)",
    flat="0",
    minimum=2,
)
def ppo(close: Series, *, fast: int = 12, slow: int = 26) -> Series:
    """The distance of a fast mean from a slow one, in percent of the slow one."""
    base = alg.ema(close, slow)
    return 100 * ratio(alg.ema(close, fast) - base, base, 0)


@indicator(
    title="Chande momentum oscillator", inputs="close", units="-100 to 100", source="TA-Lib CMO", flat="0", minimum=2
)
def cmo(close: Series, *, period: int = 14) -> Series:
    """Gains less losses, as a share of both."""
    gain, loss = _gain_and_loss(close, period)
    return 100 * ratio(gain - loss, gain + loss, 0)


@indicator(title="Ultimate oscillator", inputs="high low close", units="0 to 100", source="TA-Lib ULTOSC", flat="0")
def ultimate(high: Series, low: Series, close: Series, *, short: int = 7, medium: int = 14, long: int = 28) -> Series:
    """Buying pressure over three spans; the short one counts four times, the medium one twice."""
    before = previous(close)
    floor = smaller(low, before)
    pressure, reach = close - floor, larger(high, before) - floor
    sums = [alg.sums(pressure, reach, n) for n in sorted((short, medium, long))]
    shares = [ratio(total, of_reach, 0) for total, of_reach in sums]
    return 100 * (shares[0] + (2 * (shares[1] - shares[0]) + (shares[2] - shares[0])) / 7)


@indicator(
    title="Awesome oscillator",
    inputs="high low",
    units="price",
    source="B. Williams, New Trading Dimensions (1998)",
    flat="0",
)
def awesome(high: Series, low: Series, *, fast: int = 5, slow: int = 34) -> Series:
    """The distance of a fast mean of the bars' middles from a slow one."""
    middle = (high + low) / 2
    return alg.sma(middle, fast) - alg.sma(middle, slow)


@indicator(
    title="True strength index",
    inputs="close",
    outputs="tsi tsi_signal",
    units="-100 to 100",
    source="W. Blau, Momentum, Direction, and Divergence (1995)",
    flat="0 0",
)
def tsi(close: Series, *, long: int = 25, short: int = 13, signal: int = 7) -> tuple[Series, ...]:
    """The change, smoothed twice, as a share of its smoothed size, and the mean of that."""
    change = diff(close)
    smooth = alg.ema(alg.ema(change, long), short)
    strength = 100 * ratio(smooth, alg.ema(alg.ema(abs(change), long), short), 0)
    return strength, alg.ema(strength, signal)
