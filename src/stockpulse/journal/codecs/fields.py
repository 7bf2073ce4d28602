"""The fields of the records, in the order in which they are written, and the spellings that are read."""

import re
from typing import Final

from stockpulse.errors import shown
from stockpulse.market.columns import FLAG, NUMBER, TEXT, TIME, WHOLE
from stockpulse.market.rows import TICK_FIELDS, Field
from stockpulse.market.symbology import PROVIDER

_OF_TICK: Final = {one.column: one for one in TICK_FIELDS}
_PROVIDER: Final = Field("provider", TEXT)
_RECEIVED_AT: Final = Field("received_at", TIME)
_SYMBOL: Final = Field("symbol", TEXT, required=True)
_INTERVAL: Final = Field("interval", TEXT, required=True)
_PRICES: Final = tuple(Field(name, NUMBER, required=True) for name in ("open", "high", "low", "close", "volume"))
_TRADES: Final = (Field("trade_count", WHOLE), Field("vwap", NUMBER))

#: RECORDED_TICKS: the fields of `POST /ticks`, and those that only a record has.
TRADE_FIELDS: Final = (
    *(_OF_TICK[name] for name in ("symbol", "ts", "price", "size")),
    _PROVIDER,
    *(_OF_TICK[name] for name in ("exchange", "trade_id", "conditions", "tape")),
    _RECEIVED_AT,
    Field("flags", WHOLE),
)

#: RECORDED_BARS.
BAR_FIELDS: Final = (
    _SYMBOL,
    _INTERVAL,
    Field("ts", TIME, required=True, also=("timestamp", "event_time", "time")),
    *_PRICES,
    *_TRADES,
    _PROVIDER,
    _RECEIVED_AT,
)

#: OHLCV.
OHLCV_FIELDS: Final = (
    _SYMBOL,
    _INTERVAL,
    Field("timestamp", TIME, required=True),
    *_PRICES,
    *_TRADES,
    Field("revision", WHOLE, required=True),
    Field("final", FLAG, required=True),
    Field("source", TEXT, required=True),
)


def fault_of_end(provider: object) -> str | None:
    """Return why the provider of an end is not a valid name; None if it is valid."""
    if isinstance(provider, str) and re.fullmatch(PROVIDER, provider):
        return None
    return f"provider: an end takes the name of one; got {shown(provider)}"
