"""The schemas of the frames that flow through StockPulse.

Times are UTC microseconds. Prices are in the currency of the symbol, sizes and volumes in its units.
"""

from typing import Final, Literal

import polars as pl

UTC_MICROS: Final = pl.Datetime("us", "UTC")

#: Ticks as a provider or a caller sends them, before validation.
TICKS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "ts": UTC_MICROS,
        "price": pl.Float64(),
        "size": pl.Float64(),
        "exchange": pl.String(),  # null: unknown
        "trade_id": pl.String(),  # null: unknown; such ticks are never deduplicated
        "tape": pl.String(),  # A to C, N or O; null: unknown
        "conditions": pl.String(),  # null: none; else the provider's codes, several joined by a comma
    }
)

#: Bars as a provider sends them, before validation.
BARS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "interval": pl.String(),  # "1m", "5m" or "1d"
        "ts": UTC_MICROS,  # start of the bucket
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int64(),  # null: unknown
        "vwap": pl.Float64(),  # null: unknown
    }
)

#: Corrections and cancels of trades as a provider or a caller sends them, before validation. Without a price it is a
#: cancel. `new_trade_id` tells these frames apart from ticks.
CORRECTIONS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "ts": UTC_MICROS,  # the time in the provider's message: that of the trade, or a later one
        "exchange": pl.String(),  # of the wrong trade; null: any
        "trade_id": pl.String(),  # of the wrong trade
        "price": pl.Float64(),  # the right price and size; null: the trade is cancelled
        "size": pl.Float64(),
        "conditions": pl.String(),  # of the right trade
        "tape": pl.String(),  # of the right trade
        "new_trade_id": pl.String(),  # of the right trade; null: the id stays
    }
)

Kind = Literal["ticks", "bars", "corrections"]
"""The rows of a frame: TICKS, BARS or CORRECTIONS."""


def kind_of(frame: pl.DataFrame) -> Kind:
    """Return the kind of a frame; its columns tell."""
    if "new_trade_id" in frame.columns:
        return "corrections"
    return "bars" if "interval" in frame.columns else "ticks"


# Flags of a tick: the parts of a bar that it counts for. They are added up.
COUNTS_FOR_PRICE: Final = 1  # open, high, low and close; together with volume it is part of the vwap
COUNTS_FOR_VOLUME: Final = 2  # volume and trade count
PRIMARY: Final = 4  # it is from the feed that builds the symbol's bars, if several feeds send it

# The first two flags hold for intraday bars, and for the day if the tick lies in its session. A tick with DAY_APART
# counts for the day of its date instead, at any time, by separate flags: the others shifted by DAY_SHIFT.
DAY_APART: Final = 8
DAY_SHIFT: Final = 4
DAY_PRICE: Final = COUNTS_FOR_PRICE << DAY_SHIFT
DAY_VOLUME: Final = COUNTS_FOR_VOLUME << DAY_SHIFT
DAY_FIRST_PRICE: Final = 4 << DAY_SHIFT  # high and low; open and close only if the day has no price yet
DAY_OPENING: Final = 8 << DAY_SHIFT  # the open of the day, if it comes in the first minute that has a price

UNREADABLE: Final = 256  # the rule could not read the conditions
ALL_FLAGS: Final = 511

#: Ticks as the log stores them, with ids for names.
LOGGED_TICKS: Final = pl.Schema(
    {
        "seq": pl.Int64(),  # log offset
        "symbol_id": pl.Int32(),
        "kind_id": pl.Int32(),  # provider, exchange, conditions, flags
        "ts": UTC_MICROS,
        "received_at": UTC_MICROS,
        "price": pl.Float64(),
        "size": pl.Float64(),
        "trade_id": pl.String(),
    }
)

#: A provider's bars as the log stores them.
LOGGED_BARS: Final = pl.Schema(
    {
        "seq": pl.Int64(),
        "symbol_id": pl.Int32(),
        "provider_id": pl.Int32(),
        "minutes": pl.Int32(),  # 1, 5 or 1440 for a day
        "ts": UTC_MICROS,
        "received_at": UTC_MICROS,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int64(),  # -1: unknown
        "vwap": pl.Float64(),  # NaN: unknown
    }
)

#: Corrections and cancels of trades as the log stores them. A record takes back the trade before it in the log with
#: this id and since <= event time <= ts. With a price, it is also a tick at `ts`, with the same seq.
LOGGED_CORRECTIONS: Final = pl.Schema(
    {
        "seq": pl.Int64(),
        "symbol_id": pl.Int32(),
        "provider_id": pl.Int32(),
        "exchange": pl.String(),  # null: any
        "trade_id": pl.String(),
        "since": UTC_MICROS,  # equal to `ts` if the time of the trade is known
        "ts": UTC_MICROS,
        "sent_at": UTC_MICROS,  # the time in the provider's message
        "received_at": UTC_MICROS,
        "kind_id": pl.Int32(),  # of the right trade; null: the trade is cancelled
        "price": pl.Float64(),
        "size": pl.Float64(),
        "new_trade_id": pl.String(),  # of the right trade
    }
)
