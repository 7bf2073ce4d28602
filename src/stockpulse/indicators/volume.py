"""Volume: the confirmation of price changes by trading."""

from stockpulse.indicators import algebra as alg
from stockpulse.indicators.algebra import Series, diff, difference, known_or, previous, ratio, skip, where
from stockpulse.indicators.definition import indicator
from stockpulse.indicators.prices import typical_price


@indicator(title="On-balance volume", inputs="close volume", units="shares", source="TA-Lib OBV", flat="volume")
def obv(close: Series, volume: Series) -> Series:
    """The sum of all volume so far: of rising bars positive, of falling bars negative."""
    change = diff(close)
    return alg.cumsum(known_or(where(change > 0, volume, where(change < 0, -volume, 0)), volume))


def _close_location(high: Series, low: Series, close: Series) -> Series:
    """Return the position of the close in its bar: from -1 at the low to 1 at the high."""
    return ratio((close - low) - (high - close), high - low, 0)


@indicator(
    title="Accumulation/distribution line", inputs="high low close volume", units="shares", source="TA-Lib AD", flat="0"
)
def ad(high: Series, low: Series, close: Series, volume: Series) -> Series:
    """The sum of all volume so far, weighted by the position of the close in each bar."""
    return alg.cumsum(_close_location(high, low, close) * volume)


@indicator(
    title="Chaikin oscillator",
    inputs="high low close volume",
    units="shares",
    source="TA-Lib ADOSC",
    flat="0",
    minimum=2,
)
def chaikin(high: Series, low: Series, close: Series, volume: Series, *, fast: int = 3, slow: int = 10) -> Series:
    """The distance of a fast mean of the accumulation/distribution line from a slow one."""
    line = alg.cumsum(_close_location(high, low, close) * volume)
    return skip(alg.ema_of_all(line, fast) - alg.ema_of_all(line, slow), slow - 1)


@indicator(
    title="Chaikin money flow",
    inputs="high low close volume",
    units="-1 to 1",
    source="M. Chaikin; S. Achelis, Technical Analysis from A to Z",
    flat="0",
)
def cmf(high: Series, low: Series, close: Series, volume: Series, *, period: int = 20) -> Series:
    """The mean position of the close in the last bars, weighted by volume; null without volume."""
    return alg.weighted_mean(_close_location(high, low, close), volume, period)


@indicator(
    title="Money flow index", inputs="high low close volume", units="0 to 100", source="TA-Lib MFI", flat="0", minimum=2
)
def mfi(high: Series, low: Series, close: Series, volume: Series, *, period: int = 14) -> Series:
    """The share of rising bars in the money traded."""
    typical = typical_price(high, low, close)
    change, money = difference(typical, previous(typical)), typical * volume
    rising, falling = alg.sums(where(change > 0, money, 0), where(change < 0, money, 0), period)
    return 100 * ratio(rising, rising + falling, 0)


@indicator(
    title="Force index",
    inputs="close volume",
    units="price x shares",
    source="A. Elder, Trading for a Living (1993)",
    flat="0",
)
def force_index(close: Series, volume: Series, *, period: int = 13) -> Series:
    """The mean of price changes, each multiplied by the volume of its bar."""
    return alg.ema(diff(close) * volume, period)


@indicator(title="Mean volume", inputs="volume", units="shares", source="TA-Lib SMA of the volume", flat="volume")
def volume_sma(volume: Series, *, period: int = 20) -> Series:
    """The mean volume of the last bars."""
    return alg.sma(volume, period)
