"""Turns Twelve Data's replies into bars, ticks and texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl

from stockpulse.errors import shown
from stockpulse.market.columns import NUMBER, TIME
from stockpulse.market.rows import Field
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import is_pair
from stockpulse.providers.epoch_times import SECONDS
from stockpulse.providers.exchange_dates import begin_of, in_utc, is_over
from stockpulse.providers.faults import BadReply, ProviderFault
from stockpulse.providers.float32 import without_noise
from stockpulse.providers.reply_rows import CLOSE, HIGH, LOW, OPEN, VOLUME, as_bars, as_ticks, read_objects
from stockpulse.providers.trade_conditions import PRICE_ONLY
from stockpulse.providers.twelve_data.faults import NAME, error_in, fault_of, is_empty

#: Our intervals, their names in requests and their lengths.
INTERVALS: Final = {
    "1m": ("1min", timedelta(minutes=1)),
    "5m": ("5min", timedelta(minutes=5)),
    "1d": ("1day", timedelta(days=1)),
}
_LOCAL: Final = pl.col("ts").dt.replace_time_zone(None)
"""The times of a reply, which have no zone."""
_UTC: Final = ZoneInfo("UTC")
_OF_US_STOCKS: Final = ZoneInfo("America/New_York")
_PRICES: Final = ("open", "high", "low", "close")
_BAR_FIELDS: Final = (Field("ts", TIME, required=True, also=("datetime",)), OPEN, HIGH, LOW, CLOSE, VOLUME)
_QUOTE_FIELDS: Final = (
    Field("price", NUMBER, also=("close",)),
    Field("ts", SECONDS, also=("last_quote_at",)),
)


@dataclass(frozen=True)
class Series:
    """The bars of one symbol in a reply, ascending."""

    bars: pl.DataFrame
    """BARS; `volume` is null where the vendor has none."""
    rows: int
    """The number of rows in the reply."""

    @property
    def earliest(self) -> datetime | None:
        """The time of the first bar."""
        first = self.bars["ts"].min()
        return first if isinstance(first, datetime) else None


def parts_of(body: Any, symbols: Sequence[str]) -> dict[str, Any]:
    """Return the part of a reply for each symbol: a batch is an object by symbol, a single reply is the part itself.

    The part of a symbol that a batch leaves out is None.
    """
    if len(symbols) == 1:
        (symbol,) = symbols
        keyed = isinstance(body, dict) and set(body) == {symbol} and isinstance(body[symbol], dict)
        return {symbol: body[symbol] if keyed else body}
    if not isinstance(body, dict):
        raise BadReply(f"{NAME}: the reply for {len(symbols)} symbols is no object by symbol: {shown(body)}")
    return {symbol: body.get(symbol) for symbol in symbols}


def series_of(
    part: Any, symbol: str, interval: str, at: datetime, intraday_zone: ZoneInfo | None = _UTC
) -> Series | ProviderFault:
    """Return the bars of a `/time_series` reply, or the fault that it states; bars that are not over are left out.

    `at` is the time of the reply. `intraday_zone` is the zone that was asked for; None: that of the exchange. Daily
    bars always have dates of the exchange; `ts` is the midnight that begins the date.
    """
    if (error := error_in(part)) is not None:
        return Series(as_bars(read_objects([], _BAR_FIELDS)), 0) if is_empty(error) else fault_of(error, at, symbol)
    if not isinstance(part, dict) or not isinstance(part.get("values"), list | None) or "values" not in part:
        return BadReply(f"{NAME}, {symbol}: a time series without values: {shown(part)}", symbol)
    values = part["values"] or []
    zone = _zone_of(part.get("meta"), symbol)
    if zone is None:
        return BadReply(f"{NAME}, {symbol}: the zone of the exchange is unknown: {shown(part['meta'])}", symbol)
    frame = read_objects(values, _BAR_FIELDS)
    if interval == "1d":
        frame = frame.with_columns(ts=begin_of(_LOCAL, zone)).filter(is_over(pl.col("ts"), zone, at))
    else:
        over = (pl.col("ts") <= at - INTERVALS[interval][1]).fill_null(value=True)
        frame = frame.with_columns(ts=in_utc(_LOCAL, intraday_zone or zone)).filter(over)
    frame = frame.with_columns(without_noise(frame[name]) for name in _PRICES)
    frame = frame.with_columns(symbol=pl.lit(symbol), interval=pl.lit(interval)).sort("ts", maintain_order=True)
    return Series(as_bars(frame), len(values))


def quote_of(part: Any, symbol: str, at: datetime) -> pl.DataFrame | ProviderFault:
    """Return the price of a `/quote` or `/price` reply as TICKS, at most one row, or the fault that it states.

    A quote is no trade: it has no size, and the condition that counts for prices alone. Without a time of its own it
    has that of the reply, `at`.
    """
    if (error := error_in(part)) is not None:
        if not is_empty(error):
            return fault_of(error, at, symbol)
        part = {}
    if not isinstance(part, dict):
        return BadReply(f"{NAME}, {symbol}: the quote is no object: {shown(part)}", symbol)
    frame = read_objects([part], _QUOTE_FIELDS)
    if (problem := frame["problem"][0]) is not None:
        return BadReply(f"{NAME}, {symbol}: the quote cannot be read: {problem}", symbol)
    identity = pl.when(pl.col("ts").is_not_null()).then(pl.format("quote {}", "price"))
    frame = frame.with_columns(without_noise(frame["price"])).filter(pl.col("price").is_not_null())
    return as_ticks(
        frame.with_columns(
            symbol=pl.lit(symbol),
            size=pl.lit(0.0),
            conditions=pl.lit(PRICE_ONLY),
            trade_id=identity,
            ts=pl.col("ts").fill_null(pl.lit(at, UTC_MICROS)),
        )
    )


def usage_of(body: Any) -> str:
    """Return what `/api_usage` says, as a sentence."""
    if not isinstance(body, dict) or type(body.get("plan_limit")) is not int:
        raise BadReply(f"{NAME}: the reply of /api_usage has no plan_limit: {shown(body)}")
    plan, used = body.get("plan_category"), body.get("current_usage")
    of_plan = f"the plan is {plan!r}; " if isinstance(plan, str) else ""
    text = f"{of_plan}{_count(used)} of {body['plan_limit']} credits of this minute are used"
    if type(body.get("plan_daily_limit")) is int:
        text += f", and {_count(body.get('daily_usage'))} of {body['plan_daily_limit']} of the day (UTC)"
    return text


def _count(value: Any) -> str:
    return str(value) if type(value) is int else "an unknown number"


def _zone_of(meta: Any, symbol: str) -> ZoneInfo | None:
    """Return the zone of a symbol's exchange; None if the reply names a zone that does not exist.

    Pairs of currencies and coins have no exchange and no zone, and their dates are those of UTC.
    """
    meta = meta if isinstance(meta, dict) else {}
    name = meta.get("exchange_timezone")
    if not name:
        return _UTC if is_pair(symbol) or "currency_base" in meta else _OF_US_STOCKS
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):  # no such zone, or no name of one
        return None
