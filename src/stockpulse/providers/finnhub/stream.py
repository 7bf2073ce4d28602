"""The stream of trades: one connection. The vendor acknowledges nothing, and numbers no trades.

A frame has trades of several symbols in any order, and may have the same trade twice, with different conditions; also
the frames after it may. Trades are the same if symbol, time (milliseconds), price and size are: `trade_id` is made of
price and size, so that such trades are redeliveries. Two real trades of one millisecond that are equal in both count
once.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson
import polars as pl
import structlog

from stockpulse.errors import shown
from stockpulse.market.columns import CODES, NUMBER, TEXT
from stockpulse.market.rows import Field
from stockpulse.providers.epoch_times import MILLISECONDS
from stockpulse.providers.faults import NotEntitled, RateLimited, UnknownSymbol, WrongKey
from stockpulse.providers.finnhub.faults import NAME, fault_of
from stockpulse.providers.reply_rows import as_ticks, read_objects, unreadable
from stockpulse.providers.trade_conditions import PRICE_ONLY

log = structlog.get_logger(__name__)

THE_STREAM: Final = "the stream"
"""The key of a problem that names no symbol."""
_FIELDS: Final = (
    Field("symbol", TEXT, required=True, also=("s",)),
    Field("ts", MILLISECONDS, required=True, also=("t",)),
    Field("price", NUMBER, required=True, also=("p",)),
    Field("size", NUMBER, required=True, also=("v",)),
    Field("conditions", CODES, also=("c",)),
)


class TradeStream:
    """The messages of one connection."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = tuple(dict.fromkeys(symbols))
        self.problems: dict[str, str] = {}
        """The symbols that the vendor does not stream, and why; also a problem of the whole stream."""

    def subscriptions(self) -> list[str]:
        """Return the messages that subscribe to the symbols, one for each."""
        return [orjson.dumps({"type": "subscribe", "symbol": symbol}).decode() for symbol in self._symbols]

    def read(self, message: bytes) -> pl.DataFrame | None:
        """Return the trades of a message, ascending; None for a message without trades. Raises ProviderFault.

        A trade, or a message, that cannot be read is a row with a problem.
        """
        try:
            body = orjson.loads(message)
        except orjson.JSONDecodeError:
            return unreadable(message, "not JSON")
        if not isinstance(body, dict):
            return unreadable(message, "not an object")
        if body.get("type") == "trade":
            data = body.get("data")
            return trades_of(data) if isinstance(data, list | None) else unreadable(message, "data: not a list")
        if body.get("type") == "error":
            self._note(body.get("msg"))
        return None

    def _note(self, said: Any) -> None:
        """Note what the vendor refuses. Raises the fault if it concerns the whole stream."""
        text = " ".join(said.split())[:300] if isinstance(said, str) else shown(said)
        fault = fault_of(text)
        if isinstance(fault, WrongKey | RateLimited):
            raise fault
        symbol = next((one for one in self._symbols if one in text.split()), THE_STREAM)
        if symbol == THE_STREAM and "too many symbols" in text.lower():
            fault = NotEntitled(f"{NAME} does not stream all of the {len(self._symbols)} symbols: {text}")
        self.problems[symbol] = str(fault)
        log.warning("the stream refuses a symbol", provider=NAME, symbol=symbol, problem=str(fault))
        if self.problems.keys() >= set(self._symbols):
            raise UnknownSymbol("; ".join(dict.fromkeys(self.problems.values())))


def trades_of(data: list[Any] | None) -> pl.DataFrame | None:
    """Return trades as TICKS, ascending; None if there are none.

    A trade without a size is an update of the price alone.
    """
    if not data:
        return None
    frame = read_objects(data, _FIELDS)
    codes = pl.concat_str(pl.lit(PRICE_ONLY), "conditions", separator=",", ignore_nulls=True)
    return as_ticks(
        frame.with_columns(
            trade_id=pl.format("{}x{}", "price", "size"),
            conditions=pl.when(pl.col("size") == 0).then(codes).otherwise("conditions"),
        ).sort("ts", maintain_order=True, nulls_last=True)
    )
