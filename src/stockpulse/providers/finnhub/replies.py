"""Turns Finnhub's replies to requests into bars, ticks and texts."""

from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl

from stockpulse.errors import shown
from stockpulse.market.columns import NUMBER
from stockpulse.market.rows import Field
from stockpulse.market.schemas import BARS, UTC_MICROS
from stockpulse.providers.epoch_times import SECONDS
from stockpulse.providers.exchange_dates import begin_of, is_over
from stockpulse.providers.faults import BadReply
from stockpulse.providers.finnhub.exchanges import zone_of
from stockpulse.providers.finnhub.faults import NAME
from stockpulse.providers.reply_rows import CLOSE, HIGH, LOW, OPEN, VOLUME, as_bars, as_ticks, read_arrays, read_objects
from stockpulse.providers.trade_conditions import PRICE_ONLY

#: Our intervals, their names in requests and their lengths.
INTERVALS: Final = {
    "1m": ("1", timedelta(minutes=1)),
    "5m": ("5", timedelta(minutes=5)),
    "1d": ("D", timedelta(days=1)),
}
_REQUIRED: Final = ("t", "o", "h", "l", "c")
_FIELDS: Final = (Field("ts", SECONDS, required=True, also=("t",)), OPEN, HIGH, LOW, CLOSE, VOLUME)
_QUOTE_FIELDS: Final = (Field("price", NUMBER, also=("c",)), Field("ts", SECONDS, also=("t",)))


def quote_of(body: Any, symbol: str, at: datetime) -> pl.DataFrame:
    """Return the price of a quote as TICKS: one row, or none.

    A quote of zeros means that there is no quote now; it says nothing about the symbol. A quote is no trade: it has no
    size, and the condition that counts for prices alone. Without a time of its own it has that of the reply, `at`.
    Raises BadReply.
    """
    if not isinstance(body, dict) or "c" not in body:
        raise BadReply(f"{NAME}, {symbol}: the quote has no price: {shown(body)}", symbol)
    frame = read_objects([{"c": body["c"], "t": body.get("t")}], _QUOTE_FIELDS)
    if (problem := frame["problem"][0]) is not None:
        raise BadReply(f"{NAME}, {symbol}: the quote cannot be read: {problem}", symbol)
    timed = pl.col("ts").dt.epoch("s") > 0
    return as_ticks(
        frame.filter(pl.col("price") != 0).with_columns(
            symbol=pl.lit(symbol),
            size=pl.lit(0.0),
            conditions=pl.lit(PRICE_ONLY),
            trade_id=pl.when(timed).then(pl.format("quote {}", "price")),
            ts=pl.when(timed).then(pl.col("ts")).otherwise(pl.lit(at, UTC_MICROS)),
        )
    )


def candles_of(body: Any, symbol: str, interval: str, at: datetime) -> pl.DataFrame:
    """Return the bars of a reply with candles, ascending; bars that are not over at the time of the reply are left out.

    `volume` is null where the vendor has none. Raises BadReply, also if the arrays differ in length.
    """
    arrays = _arrays(body, symbol)
    if not arrays:
        return BARS.to_frame()
    frame = read_arrays(arrays, _FIELDS)
    zone = zone_of(symbol)
    if interval == "1d":
        frame = frame.with_columns(ts=begin_of(_dates(zone), zone)).filter(is_over(pl.col("ts"), zone, at))
    else:
        frame = frame.filter((pl.col("ts") <= at - INTERVALS[interval][1]).fill_null(value=True))
    frame = frame.with_columns(symbol=pl.lit(symbol), interval=pl.lit(interval))
    newest = pl.col("ts").is_last_distinct() | pl.col("ts").is_null()
    return as_bars(frame.filter(newest).sort("ts", maintain_order=True))


def _arrays(body: Any, symbol: str) -> dict[str, list[Any]]:
    """Return the arrays by their names; empty if the reply says that there are no candles."""
    if not isinstance(body, dict) or body.get("s") not in ("ok", "no_data"):
        raise BadReply(f"{NAME}, {symbol}: the candles have no state: {shown(body)}", symbol)
    found = {name: body.get(name) or [] for name in (*_REQUIRED, "v")}
    if any(not isinstance(values, list) for values in found.values()):
        raise BadReply(f"{NAME}, {symbol}: the candles are no arrays: {shown(body)}", symbol)
    if not any(found.values()):
        return {}
    if not found["v"]:
        del found["v"]
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise BadReply(f"{NAME}, {symbol}: the arrays of the candles differ in length: {lengths}", symbol)
    return found


def _dates(zone: ZoneInfo) -> pl.Expr:
    """Return the dates of daily candles, as times without a zone.

    Stamps are the midnight or the open of the session on the exchange's clock, or the midnight of the date in UTC;
    one series may have several kinds.
    """
    ts = pl.col("ts")
    local = ts.dt.convert_time_zone(zone.key).dt.replace_time_zone(None)
    return pl.when(ts == ts.dt.truncate("1d")).then(ts.dt.replace_time_zone(None)).otherwise(local)


def market_of(body: Any) -> str:
    """Return what the status of the US market says, as a part of a sentence."""
    if not isinstance(body, dict) or type(body.get("isOpen")) is not bool:
        raise BadReply(f"{NAME}: the status of the market cannot be read: {shown(body)}")
    detail = body.get("holiday") or body.get("session")
    return ("open" if body["isOpen"] else "closed") + (f" ({detail})" if isinstance(detail, str) else "")
