"""Trend: the direction of prices."""

from math import isqrt

from stockpulse.indicators import algebra as alg
from stockpulse.indicators.algebra import Series, diff, given, lag, previous, ratio, skip, where
from stockpulse.indicators.definition import indicator
from stockpulse.indicators.prices import true_range, typical_price
from stockpulse.indicators.volatility import average_true_range


@indicator(title="Simple moving average", inputs="close", units="price", source="TA-Lib SMA", flat="price")
def sma(close: Series, *, period: int = 20) -> Series:
    """The mean of the last closes."""
    return alg.sma(close, period)


@indicator(title="Exponential moving average", inputs="close", units="price", source="TA-Lib EMA", flat="price")
def ema(close: Series, *, period: int = 20) -> Series:
    """A mean in which older closes weigh less and less."""
    return alg.ema(close, period)


@indicator(title="Weighted moving average", inputs="close", units="price", source="TA-Lib WMA", flat="price")
def wma(close: Series, *, period: int = 20) -> Series:
    """The mean of the last closes, the newest weighing most."""
    return alg.wma(close, period)


@indicator(title="Double exponential moving average", inputs="close", units="price", source="TA-Lib DEMA", flat="price")
def dema(close: Series, *, period: int = 20) -> Series:
    """An EMA without half of its delay."""
    once = alg.ema(close, period)
    return 2 * once - alg.ema(once, period)


@indicator(title="Triple exponential moving average", inputs="close", units="price", source="TA-Lib TEMA", flat="price")
def tema(close: Series, *, period: int = 20) -> Series:
    """An EMA without most of its delay."""
    once = alg.ema(close, period)
    twice = alg.ema(once, period)
    return 3 * once - 3 * twice + alg.ema(twice, period)


@indicator(
    title="Hull moving average",
    inputs="close",
    units="price",
    source="A. Hull, How to reduce lag in a moving average (2005)",
    flat="price",
    minimum=2,
)
def hma(close: Series, *, period: int = 20) -> Series:
    """A weighted mean of weighted means, smooth and quick at once."""
    return alg.wma(2 * alg.wma(close, period // 2) - alg.wma(close, period), isqrt(period))


@indicator(
    title="Kaufman's adaptive moving average",
    inputs="close",
    units="price",
    source="TA-Lib KAMA",
    flat="price",
    minimum=2,
)
def kama(close: Series, *, period: int = 10) -> Series:
    """A mean that follows a trend quickly and noise slowly."""
    fastest, slowest = 2 / 3, 2 / 31
    move = close - lag(close, period)
    path = alg.sum_(abs(diff(close)), period)
    efficiency = where(move >= path, 1, abs(ratio(move, path, 1)))
    pace = efficiency * (fastest - slowest) + slowest
    return alg.adaptive_ema(close, pace * pace, previous(close))


@indicator(title="T3 moving average", inputs="close", units="price", source="TA-Lib T3", flat="price", minimum=2)
def t3(close: Series, *, period: int = 5, volume_factor: float = 0.7) -> Series:
    """Tillson's six-fold smoothing."""
    v = volume_factor
    e1 = alg.ema(close, period)
    e2 = alg.ema(e1, period)
    e3 = alg.ema(e2, period)
    e4 = alg.ema(e3, period)
    e5 = alg.ema(e4, period)
    e6 = alg.ema(e5, period)
    # The weights of the six add up to 1. Written as distances from e3, they leave equal values exactly unchanged.
    weights = (-(v**3), 3 * v**2 + 3 * v**3, -6 * v**2 - 3 * v - 3 * v**3)
    return e3 + (weights[0] * (e6 - e3) + weights[1] * (e5 - e3) + weights[2] * (e4 - e3))


@indicator(
    title="Volume-weighted moving average",
    inputs="close volume",
    units="price",
    source="B. Fuller; S. Achelis, Technical Analysis from A to Z: mean of the closes, weighted by volume",
    flat="price",
)
def vwma(close: Series, volume: Series, *, period: int = 20) -> Series:
    """The mean of the last closes, weighted by volume; null without volume."""
    return alg.weighted_mean(close, volume, period)


@indicator(
    title="Volume-weighted average price of the session",
    inputs="high low close volume session regular",
    units="price",
    source="Berkowitz, Logue, Noser, The total cost of transactions on the NYSE, Journal of Finance 43 (1988);"
    " over typical prices of bars",
    flat="price",
)
def vwap(
    high: Series,
    low: Series,
    close: Series,
    volume: Series,
    session: Series,
    regular: Series,
    *,
    extended: bool = False,
) -> Series:
    """The mean price of the session so far, weighted by volume; null without volume.

    The session is the regular one: it begins at the open, and bars before or after it do not count. With `extended`
    all bars of the trading date count.
    """
    counts = alg.larger(regular, float(extended))
    return alg.session_mean(typical_price(high, low, close), volume, session, counts)


@indicator(
    title="Moving average convergence/divergence",
    inputs="close",
    outputs="macd macd_signal macd_histogram",
    units="price",
    source="TA-Lib MACD",
    flat="0 0 0",
    minimum=2,
)
def macd(close: Series, *, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[Series, ...]:
    """The distance of a fast mean from a slow one, the mean of it, and the difference of both."""
    line = _fast_less_slow(close, fast, slow)
    mean = alg.ema(line, signal)
    return given(line, mean), mean, line - mean


def _fast_less_slow(close: Series, fast: int, slow: int) -> Series:
    """Return the difference of two EMAs; the fast one is seeded with the newest bars of the slow one's seed."""
    return alg.ema(skip(close, slow - fast), fast) - alg.ema(close, slow)


@indicator(
    title="Average directional index",
    inputs="high low close",
    outputs="adx plus_di minus_di",
    units="0 to 100",
    source="TA-Lib ADX, PLUS_DI, MINUS_DI",
    flat="0 0 0",
    minimum=2,
)
def adx(high: Series, low: Series, close: Series, *, period: int = 14) -> tuple[Series, ...]:
    """The strength of the trend in either direction, and in each direction."""
    up, down = diff(high), -diff(low)
    reach = alg.wilder_sum(true_range(high, low, close), period)
    plus = 100 * ratio(alg.wilder_sum(where((up > 0) & (up > down), up, 0), period), reach, 0)
    minus = 100 * ratio(alg.wilder_sum(where((down > 0) & (down > up), down, 0), period), reach, 0)
    both = plus + minus
    return alg.adx_average(100 * ratio(abs(plus - minus), both, 0), both, period), plus, minus


@indicator(
    title="Aroon",
    inputs="high low",
    outputs="aroon_up aroon_down aroon_oscillator",
    units="0 to 100; the oscillator -100 to 100",
    source="TA-Lib AROON, AROONOSC",
    flat="100 100 0",
    minimum=2,
)
def aroon(high: Series, low: Series, *, period: int = 14) -> tuple[Series, ...]:
    """The time since the highest high and since the lowest low: 100 means this bar."""
    up = 100 / period * (period - alg.since_max(high, period + 1))
    down = 100 / period * (period - alg.since_min(low, period + 1))
    return up, down, up - down


@indicator(
    title="Parabolic stop and reverse",
    inputs="high low",
    outputs="sar",
    units="price",
    source="TA-Lib SAR",
    flat="price",
)
def sar(high: Series, low: Series, *, acceleration: float = 0.02, maximum: float = 0.2) -> Series:
    """The price at which a position that follows the trend is stopped and reversed."""
    return alg.parabolic_sar(high, low, min(acceleration, maximum), maximum)


@indicator(
    title="SuperTrend",
    inputs="high low close",
    outputs="supertrend supertrend_direction",
    units="price; direction 1 up, -1 down",
    source="O. Seban; the rules of TradingView's ta.supertrend, over TA-Lib's ATR",
    flat="price -1",
    scale="price one",
)
def supertrend(
    high: Series, low: Series, close: Series, *, period: int = 10, multiplier: float = 3.0
) -> tuple[Series, ...]:
    """A band of true ranges that trails the price and changes sides with the trend."""
    middle = (high + low) / 2
    reach = multiplier * average_true_range(high, low, close, period)
    return alg.supertrend(close, middle + reach, middle - reach)


@indicator(
    title="Ichimoku cloud",
    inputs="high low",
    outputs="ichimoku_conversion ichimoku_base ichimoku_span_a ichimoku_span_b",
    units="price",
    source="G. Hosoda, Ichimoku Kinko Hyo (1969). The lagging span is the close itself, drawn `base` bars earlier",
    flat="price price price price",
)
def ichimoku(high: Series, low: Series, *, conversion: int = 9, base: int = 26, span: int = 52) -> tuple[Series, ...]:
    """The middles of three ranges. The spans stand where they are drawn: `base` bars after they were formed."""
    quick, slow = _middle(high, low, conversion), _middle(high, low, base)
    return quick, slow, lag((quick + slow) / 2, base), lag(_middle(high, low, span), base)


def _middle(high: Series, low: Series, n: int) -> Series:
    highest, lowest = alg.range_(high, low, n)
    return (highest + lowest) / 2


@indicator(title="TRIX", inputs="close", units="percent", source="TA-Lib TRIX", flat="0")
def trix(close: Series, *, period: int = 15) -> Series:
    """The rate of change of a triple EMA."""
    smooth = alg.ema(alg.ema(alg.ema(close, period), period), period)
    return 100 * ratio(diff(smooth), previous(smooth), 0)


@indicator(
    title="Linear regression slope",
    inputs="close",
    units="price a bar",
    source="TA-Lib LINEARREG_SLOPE",
    flat="0",
    minimum=2,
)
def linreg_slope(close: Series, *, period: int = 14) -> Series:
    """The slope of the straight line that fits the last closes best."""
    n = period
    numbers, squares = n * (n + 1) / 2, n * (n + 1) * (2 * n + 1) / 6
    weighted, plain = alg.weighted_sum(close, n)
    slope = (n * weighted - numbers * plain) / (n * squares - numbers**2)
    return where(alg.is_flat(close, n), 0, slope)
