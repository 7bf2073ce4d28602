"""Indicators over any series of values in place of closes: the functions of earlier bars in rules.

They are not in the catalogue. Their unit is that of the values, and a null counts as a bar without a value.
"""

from typing import Final

from stockpulse.indicators import algebra as alg
from stockpulse.indicators.algebra import Series, given, known_run
from stockpulse.indicators.definition import Indicator, indicator


@indicator(title="Value some bars ago", inputs="close", units="none", source="", flat="price")
def lag(value: Series, *, bars: int = 1) -> Series:
    """The value `bars` before; null if it was null."""
    return alg.shift(value, bars)


@indicator(title="Highest value", inputs="close", units="none", source="", flat="price")
def highest(value: Series, *, bars: int = 20) -> Series:
    """The maximum of the last `bars` values; null if one of them is null."""
    return given(alg.max_(value, bars), known_run(value, bars))


@indicator(title="Lowest value", inputs="close", units="none", source="", flat="price")
def lowest(value: Series, *, bars: int = 20) -> Series:
    """The minimum of the last `bars` values; null if one of them is null."""
    return given(alg.min_(value, bars), known_run(value, bars))


HISTORY: Final[dict[str, Indicator]] = {one.name: one for one in (lag, highest, lowest)}
