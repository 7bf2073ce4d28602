"""A reply of Yahoo's chart API: its parts, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard
from zoneinfo import ZoneInfo

import orjson
import polars as pl

from stockpulse.errors import shown
from stockpulse.market.times import LATEST, SECOND_MICROS
from stockpulse.providers.faults import BadReply
from stockpulse.providers.float32 import without_noise
from stockpulse.providers.yahoo.faults import EMPTY, error_of

_PRICES: Final = ("open", "high", "low", "close")
_ROWS: Final = pl.Schema({"t": pl.Int64(), **dict.fromkeys((*_PRICES, "volume"), pl.Float64())})
_LATEST_SECOND: Final = LATEST // SECOND_MICROS


@dataclass(frozen=True)
class Chart:
    """The facts about a symbol, and its rows."""

    meta: Mapping[str, Any]
    rows: pl.DataFrame
    """Columns t (seconds since 1970), open, high, low, close, volume; rows without a price are left out."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the exchange; UTC if the reply does not say it."""
        return zone_named(self.meta.get("exchangeTimezoneName"))

    def seconds(self, name: str) -> int | None:
        """Return a time of the facts; None without one."""
        value = self.meta.get(name)
        return int(value) if _is_number(value) and 0 <= value <= _LATEST_SECOND else None

    def number(self, name: str) -> float | None:
        """Return a number of the facts that is above zero; None without one."""
        value = self.meta.get(name)
        return float(value) if _is_number(value) and value > 0 else None


def chart_of(body: bytes) -> Chart:
    """Return the chart of a reply; without rows if its range has no data. Raises BadReply."""
    if EMPTY in error_of(body).lower():
        return Chart({}, _ROWS.to_frame())
    result = _result(body)
    meta = result.get("meta")
    return Chart(meta if isinstance(meta, dict) else {}, _rows(result))


def zone_named(name: object) -> ZoneInfo:
    """Return a time zone by its name; UTC for anything else."""
    try:
        return ZoneInfo(name) if isinstance(name, str) else ZoneInfo("UTC")
    except (ValueError, KeyError, OSError):  # no such zone, or a folder of zones
        return ZoneInfo("UTC")


def _result(body: bytes) -> Mapping[str, Any]:
    try:
        content = orjson.loads(body)
        (result,) = content["chart"]["result"]
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        raise _bad("a reply without a chart", body) from None
    if not isinstance(result, dict):
        raise _bad("a reply without a chart", body)
    return result


def _rows(result: Mapping[str, Any]) -> pl.DataFrame:
    times = result.get("timestamp") or []
    if not times:
        return _ROWS.to_frame()
    quote = _quote(result)
    columns = {"t": _column("timestamp", times, pl.Int64())}
    columns |= {name: _column(name, quote.get(name), pl.Float64()) for name in _PRICES}
    columns["volume"] = _column("volume", quote.get("volume", [0] * len(times)), pl.Float64()).fill_null(0.0)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise BadReply(f"yahoo: a chart whose columns differ in length: {lengths}")
    if not columns["t"].is_between(0, _LATEST_SECOND).all() or columns["t"].null_count():
        raise BadReply("yahoo: a time in the chart is not a time")
    prices = {name: without_noise(columns[name]) for name in _PRICES}
    return pl.DataFrame(columns | prices, schema=_ROWS).drop_nulls().sort("t", maintain_order=True)


def _quote(result: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        quote = result["indicators"]["quote"][0]
    except (LookupError, TypeError):
        quote = None
    if not isinstance(quote, dict):
        raise BadReply("yahoo: a chart with times and without prices")
    return quote


def _column(name: str, values: Any, dtype: pl.DataType) -> pl.Series:
    """Return numbers and nulls as a column. Raises BadReply for anything else."""
    if not isinstance(values, list) or not all(value is None or _is_number(value) for value in values):
        raise BadReply(f"yahoo: {name} is not a list of numbers: {shown(values)}")
    return pl.Series(values, dtype=pl.Float64()).cast(dtype, strict=False)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _bad(what: str, body: bytes) -> BadReply:
    return BadReply(f"yahoo: {what}: {shown(body[:400].decode(errors='replace'))}")
