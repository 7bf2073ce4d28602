"""The fields of the records, in the order in which they are written, and their accepted formats."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from stockpulse.errors import shown
from stockpulse.journal.records import Forget
from stockpulse.market.columns import FLAG, NUMBER, TEXT, TIME, WHOLE
from stockpulse.market.rows import CORRECTION_FIELDS as SENT_CORRECTION_FIELDS
from stockpulse.market.rows import TICK_FIELDS, Field
from stockpulse.market.symbology import PROVIDER, SYMBOL
from stockpulse.market.times import micros, read_time

_OF_TICK: Final = {one.column: one for one in TICK_FIELDS}
_PROVIDER: Final = Field("provider", TEXT)
_RECEIVED_AT: Final = Field("received_at", TIME)
_SYMBOL: Final = Field("symbol", TEXT, required=True)
_INTERVAL: Final = Field("interval", TEXT, required=True)
_PRICES: Final = tuple(Field(name, NUMBER, required=True) for name in ("open", "high", "low", "close", "volume"))
_TRADES: Final = (Field("trade_count", WHOLE), Field("vwap", NUMBER))

#: RECORDED_TICKS: the fields of `POST /ticks`, and the fields that only a record has.
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

#: RECORDED_CORRECTIONS.
CORRECTION_FIELDS: Final = (
    *SENT_CORRECTION_FIELDS,
    Field("since", TIME),
    Field("sent_at", TIME),
    _PROVIDER,
    _RECEIVED_AT,
    Field("flags", WHOLE),
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
    Field("deleted", FLAG),
)


def forget_in(found: Mapping[str, Any]) -> Forget | str:
    """Return the forget in a record, or why it is not one. Times are texts, epoch numbers or datetimes."""
    symbol, provider = found.get("symbol"), found.get("provider")
    if symbol is None and provider is None:
        return "symbol, provider: a forget takes one of them at least"
    if symbol is not None and not (isinstance(symbol, str) and re.fullmatch(SYMBOL, symbol)):
        return f"symbol: a forget takes the name of one, or null; got {shown(symbol)}"
    if provider is not None and not (isinstance(provider, str) and re.fullmatch(PROVIDER, provider)):
        return f"provider: a forget takes the name of one, or null; got {shown(provider)}"
    start, end = _instant(found.get("start")), _instant(found.get("end"))
    for name, value in (("start", start), ("end", end)):
        if value is None:
            return f"{name}: a forget takes a time; got {shown(found.get(name))}"
    if start is None or end is None or start >= end:
        return "end: comes after start"
    return Forget(symbol, provider, start, end)


def _instant(value: object) -> int | None:
    """Return a time in UTC microseconds; None if it is not one."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        value = read_time(str(value))
    return micros(value) if isinstance(value, datetime) else None


def fault_of_end(provider: object) -> str | None:
    """Return the reason why the provider of an end is not a valid name; None if it is valid."""
    if isinstance(provider, str) and re.fullmatch(PROVIDER, provider):
        return None
    return f"provider: an end takes the name of one; got {shown(provider)}"
