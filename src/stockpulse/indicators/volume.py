"""What volume says about prices."""

from stockpulse.indicators import algebra as alg
from stockpulse.indicators.algebra import Series, diff, difference, known_or, previous, ratio, skip, where
from stockpulse.indicators.definition import indicator


@indicator(title="On-balance volume", inputs="close volume", units="shares", source="TA-Lib OBV")
def obv(close: Series, volume: Series) -> Series:
    """All volume so far: that of rising bars added, that of falling ones taken away."""
    change = diff(close)
    return alg.cumsum(known_or(where(change > 0, volume, where(change < 0, -volume, 0)), volume))


def _money_flow(high: Series, low: Series, close: Series, volume: Series) -> Series:
    """Volume, weighted by where the close is in the bar: from -1 at the low to 1 at the high."""
    return ratio((close - low) - (high - close), high - low, 0) * volume


@indicator(title="Accumulation/distribution line", inputs="high low close volume", units="shares", source="TA-Lib AD")
def ad(high: Series, low: Series, close: Series, volume: Series) -> Series:
    """All volume so far, weighted by where the close was in each bar."""
    return alg.cumsum(_money_flow(high, low, close, volume))


@indicator(title="Chaikin oscillator", inputs="high low close volume", units="shares", source="TA-Lib ADOSC", minimum=2)
def chaikin(high: Series, low: Series, close: Series, volume: Series, *, fast: int = 3, slow: int = 10) -> Series:
    """How far a quick mean of the accumulation/distribution line is from a slow one."""
    line = alg.cumsum(_money_flow(high, low, close, volume))
    return skip(alg.ema_of_all(line, fast) - alg.ema_of_all(line, slow), slow - 1)


@indicator(
    title="Chaikin money flow",
    inputs="high low close volume",
    units="-1 to 1",
    source="M. Chaikin; S. Achelis, Technical Analysis from A to Z",
)
def cmf(high: Series, low: Series, close: Series, volume: Series, *, period: int = 20) -> Series:
    """The weighted volume of the last bars as a share of all of it; null where nothing was traded."""
    return alg.sum_(_money_flow(high, low, close, volume), period) / alg.sum_(volume, period)


@indicator(title="Money flow index", inputs="high low close volume", units="0 to 100", source="TA-Lib MFI", minimum=2)
def mfi(high: Series, low: Series, close: Series, volume: Series, *, period: int = 14) -> Series:
    """The share of the money that was traded at rising prices."""
    typical = (high + low + close) / 3
    change, money = difference(typical, previous(typical)), typical * volume
    rising = alg.sum_(where(change > 0, money, 0), period)
    falling = alg.sum_(where(change < 0, money, 0), period)
    return 100 * ratio(rising, rising + falling, 0)


@indicator(
    title="Force index",
    inputs="close volume",
    units="price x shares",
    source="A. Elder, Trading for a Living (1993)",
)
def force_index(close: Series, volume: Series, *, period: int = 13) -> Series:
    """The mean of price changes, each times the volume behind it."""
    return alg.ema(diff(close) * volume, period)


@indicator(title="Mean volume", inputs="volume", units="shares", source="TA-Lib SMA of the volume")
def volume_sma(volume: Series, *, period: int = 20) -> Series:
    """The mean volume of the last bars."""
    return alg.sma(volume, period)
