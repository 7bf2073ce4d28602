"""Minor currencies: prices in pence, cents and agorot, which Yahoo's reply gives as its currency."""

from typing import Final

import polars as pl

from stockpulse.market.times import DAY_MICROS, SECOND_MICROS
from stockpulse.providers.yahoo.chart import Chart

_UNITS: Final = {"GBp": 100.0, "GBX": 100.0, "ZAc": 100.0, "ILA": 100.0, "KWF": 1000.0}
_PRICES: Final = ("open", "high", "low", "close")
_NEAR_SECONDS: Final = 30 * DAY_MICROS // SECOND_MICROS


def units_of(chart: Chart) -> float:
    """Return the number by which the facts' prices are divided: 100 for pence, 1 for most currencies."""
    currency = chart.meta.get("currency")
    return _UNITS.get(currency, 1.0) if isinstance(currency, str) else 1.0


def in_major_units(chart: Chart) -> pl.DataFrame:
    """Return the rows with prices in pounds instead of pence, and so on.

    Some replies give rows in pounds already, although their currency is pence: then the newest row is about a hundredth
    of the latest price.
    """
    units = units_of(chart)
    if units == 1.0 or _already_major(chart, units):
        return chart.rows
    return chart.rows.with_columns((pl.col(name) / units).round(10) for name in _PRICES)


def _already_major(chart: Chart, units: float) -> bool:
    """Return True if the rows are in major units.

    Only a row near the time of the latest price tells; for older ones the close before the first row does.
    """
    latest, at = chart.number("regularMarketPrice"), chart.seconds("regularMarketTime")
    if chart.rows.is_empty():
        return False
    newest = chart.rows.row(-1, named=True)
    if latest is not None and at is not None and at - newest["t"] <= _NEAR_SECONDS:
        return _is_times(latest, newest["close"], units)
    before = chart.number("chartPreviousClose")
    return before is not None and _is_times(before, chart.rows["close"][0], units)


def _is_times(price: float, smaller: float, units: float) -> bool:
    return smaller > 0 and units / 3 <= price / smaller <= units * 3
