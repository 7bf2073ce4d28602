"""Volatility: the size of price changes."""

from stockpulse.indicators import algebra as alg
from stockpulse.indicators.algebra import Series, max_, previous, ratio, where
from stockpulse.indicators.definition import indicator
from stockpulse.indicators.prices import true_range


def average_true_range(high: Series, low: Series, close: Series, period: int) -> Series:
    """Return Wilder's mean of the true range."""
    return alg.wilder(true_range(high, low, close), period)


@indicator(
    title="Bollinger bands",
    inputs="close",
    outputs="bb_upper bb_middle bb_lower bb_percent bb_width",
    units="price; percent: 0 at the lower band, 1 at the upper; width: a share of the middle",
    source="TA-Lib BBANDS; %B and width: J. Bollinger, Bollinger on Bollinger Bands (2001)",
    flat="price price price null 0",
    scale="price price price one one",
    minimum=2,
)
def bollinger(close: Series, *, period: int = 20, deviations: float = 2.0) -> tuple[Series, ...]:
    """Bands of standard deviations above and below the mean; the percentage is null while prices are flat."""
    middle = alg.sma(close, period)
    reach = deviations * alg.std(close, period)
    upper, lower = middle + reach, middle - reach
    return upper, middle, lower, (close - lower) / (upper - lower), (upper - lower) / middle


@indicator(title="Average true range", inputs="high low close", units="price", source="TA-Lib ATR", flat="0")
def atr(high: Series, low: Series, close: Series, *, period: int = 14) -> Series:
    """Wilder's mean of the true range."""
    return average_true_range(high, low, close, period)


@indicator(
    title="Normalised average true range", inputs="high low close", units="percent", source="TA-Lib NATR", flat="0"
)
def natr(high: Series, low: Series, close: Series, *, period: int = 14) -> Series:
    """The average true range in percent of the close."""
    return 100 * ratio(average_true_range(high, low, close, period), close, 0)


@indicator(
    title="True range", inputs="high low close", outputs="true_range", units="price", source="TA-Lib TRANGE", flat="0"
)
def trange(high: Series, low: Series, close: Series) -> Series:
    """The range of the bar, together with the gap before it."""
    return true_range(high, low, close)


@indicator(
    title="Standard deviation",
    inputs="close",
    units="price",
    source="TA-Lib STDDEV (of the population)",
    flat="0",
    minimum=2,
)
def stddev(close: Series, *, period: int = 20) -> Series:
    """The standard deviation of the last closes."""
    return alg.std(close, period)


@indicator(
    title="Keltner channel",
    inputs="high low close",
    outputs="keltner_upper keltner_middle keltner_lower",
    units="price",
    source="C. Keltner, How to Make Money in Commodities (1960), as modified by L. Raschke: EMA and ATR",
    flat="price price price",
)
def keltner(
    high: Series, low: Series, close: Series, *, period: int = 20, range_period: int = 10, multiplier: float = 2.0
) -> tuple[Series, ...]:
    """Bands of average true ranges above and below an EMA."""
    middle = alg.ema(close, period)
    reach = multiplier * average_true_range(high, low, close, range_period)
    return middle + reach, alg.given(middle, reach), middle - reach


@indicator(
    title="Donchian channel",
    inputs="high low",
    outputs="donchian_upper donchian_middle donchian_lower",
    units="price",
    source="R. Donchian, High finance in copper, Financial Analysts Journal 16 (1960)",
    flat="price price price",
)
def donchian(high: Series, low: Series, *, period: int = 20) -> tuple[Series, ...]:
    """The highest high and the lowest low of the last bars, this one included."""
    upper, lower = alg.range_(high, low, period)
    return upper, (upper + lower) / 2, lower


@indicator(
    title="Historical volatility",
    inputs="close bars_per_year",
    units="percent a year",
    source="J. Hull, Options, Futures, and Other Derivatives: sample deviation of the log returns, annualised",
    flat="0",
    limits={"bars_per_year": (0.0001, 1e9)},
    minimum=2,
)
def historical_volatility(
    close: Series, calendar_bars_per_year: Series, *, period: int = 20, bars_per_year: float | None = None
) -> Series:
    """The standard deviation of log returns, times the root of the number of bars in a year.

    Unless `bars_per_year` is given, that number is the calendar's.
    """
    returns, override = alg.log(close / previous(close)), alg.series(bars_per_year or 0.0)
    year = where(override > 0, override, calendar_bars_per_year)
    return 100 * alg.sqrt(year * (period / (period - 1))) * alg.std(returns, period)


@indicator(
    title="Ulcer index",
    inputs="close",
    units="percent",
    source="P. Martin, B. McCann, The Investor's Guide to Fidelity Funds (1989)",
    flat="0",
)
def ulcer(close: Series, *, period: int = 14) -> Series:
    """The root mean square of the falls from the highest close."""
    highest = max_(close, period)
    fall = 100 * (close - highest) / highest
    return alg.sqrt(alg.sma(fall * fall, period))
