"""Prices of a bar that several indicators are calculated from."""

from stockpulse.indicators.algebra import Series, larger, previous, smaller


def typical_price(high: Series, low: Series, close: Series) -> Series:
    """Return the mean of high, low and close; of equal prices exactly that price."""
    return close + ((high - close) + (low - close)) / 3


def true_range(high: Series, low: Series, close: Series) -> Series:
    """Return the range of the bar, together with the gap before it."""
    before = previous(close)
    return larger(high, before) - smaller(low, before)
