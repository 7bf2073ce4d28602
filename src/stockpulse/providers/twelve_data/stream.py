"""The stream of prices: one connection.

The vendor sends a price with the volume of the day so far, and no single trades. The size of a tick is the growth of
that volume since the tick before, on this connection; it may be the volume of several trades. Where it is unknown, the
tick is a price without a trade: of the first price, of a market without volumes, and after the volume of the day began
anew. Times are whole seconds, and ticks have no ids.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
import polars as pl
import structlog

from stockpulse.errors import shown
from stockpulse.market.columns import NUMBER, TEXT
from stockpulse.market.rows import Field
from stockpulse.providers.epoch_times import SECONDS
from stockpulse.providers.faults import BadRequest, ProviderFault
from stockpulse.providers.float32 import without_noise
from stockpulse.providers.reply_rows import as_ticks, read_objects, unreadable
from stockpulse.providers.trade_conditions import PRICE_ONLY
from stockpulse.providers.transport.live_socket import LiveSocket
from stockpulse.providers.twelve_data.faults import NAME, error_in, fault_of
from stockpulse.providers.twelve_data.names import AskedNames

log = structlog.get_logger(__name__)

HEARTBEAT: Final = '{"action":"heartbeat"}'
_FIELDS: Final = (
    Field("symbol", TEXT, required=True),
    Field("ts", SECONDS, required=True, also=("timestamp",)),
    Field("price", NUMBER, required=True),
    Field("day_volume", NUMBER),
)


class PriceStream:
    """The state of one connection: the names that were asked for, and the volumes of the day."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = tuple(symbols)
        self._names = AskedNames(symbols)
        self._day_volumes: dict[str, float] = {}
        self.problems: dict[str, str] = {}
        """The symbols that the vendor does not stream, and why."""

    def subscription(self) -> bytes:
        """Return the message that subscribes to all symbols."""
        return orjson.dumps({"action": "subscribe", "params": {"symbols": ",".join(self._symbols)}})

    def read(self, message: bytes, at: datetime) -> pl.DataFrame | None:
        """Return the tick of a message; None for a message without one. Raises ProviderFault.

        A price, or a message, that cannot be read is a row with a problem.
        """
        try:
            body = orjson.loads(message)
        except orjson.JSONDecodeError:
            return unreadable(message, "not JSON")
        if not isinstance(body, dict):
            return unreadable(message, "not an object")
        event = body.get("event")
        if event == "price":
            return self._tick(body)
        if event == "subscribe-status":
            self._note_status(body)
        elif event is None and (error := error_in(body)) is not None:
            self._note(fault_of(error, at))
        return None

    def _tick(self, body: dict[str, Any]) -> pl.DataFrame:
        asked = self._names.asked(body)
        frame = read_objects([body if asked is None else {**body, "symbol": asked}], _FIELDS)
        size = self._growth(frame["symbol"][0], frame["day_volume"][0]) if frame["problem"][0] is None else None
        return as_ticks(
            frame.with_columns(
                without_noise(frame["price"]),
                size=pl.lit(size or 0.0),
                conditions=pl.lit(None if size else PRICE_ONLY, pl.String),
            )
        )

    def _growth(self, symbol: str, volume: float | None) -> float | None:
        """Return the growth of the volume of the day since the tick before; None if that is unknown."""
        if volume is None:
            return None
        before = self._day_volumes.get(symbol)
        self._day_volumes[symbol] = volume
        return None if before is None or volume < before else volume - before

    def _note_status(self, body: dict[str, Any]) -> None:
        """Note the symbols that are refused. Raises BadRequest if all are."""
        refused = {self._names.asked(one): one for one in _listed(body.get("fails"))}
        found = {symbol: _refusal(symbol, one) for symbol, one in refused.items() if symbol is not None}
        if not found and body.get("status") == "error":
            found = dict.fromkeys(self._symbols, f"{NAME} refuses the subscription: {shown(body)}")
        for problem in dict.fromkeys(found.values()):
            log.warning("a symbol is not streamed", provider=NAME, problem=problem)
        self.problems.update(found)
        if found and self.problems.keys() >= set(self._symbols):
            raise BadRequest("; ".join(dict.fromkeys(self.problems.values())))

    @staticmethod
    def _note(fault: ProviderFault) -> None:
        """Raise the fault that the vendor states, unless it is about a single message of ours."""
        if not isinstance(fault, BadRequest):
            raise fault
        log.warning("the stream refuses a message", provider=NAME, problem=str(fault))


def _refusal(symbol: str, refused: dict[str, Any]) -> str:
    reason = f": {shown(refused['message'])}" if refused.get("message") else ""
    return f"{NAME} does not stream {symbol}: it is unknown, or not in the plan of the key{reason}"


def _listed(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list, which may be missing; a bare name counts as an object with it."""
    elements = value if isinstance(value, list) else []
    named = [{"symbol": one} if isinstance(one, str) else one for one in elements]
    return [one for one in named if isinstance(one, dict)]


async def send_heartbeats(socket: LiveSocket, seconds: float) -> None:
    """Send a heartbeat every so many seconds; return when the connection is broken, which its reader sees too."""
    try:
        while True:
            await asyncio.sleep(seconds)
            await socket.send(HEARTBEAT)
    except ProviderFault:
        return


async def frames_of(
    socket: LiveSocket, prices: PriceStream, now: Callable[[], datetime]
) -> AsyncIterator[pl.DataFrame]:
    """Subscribe, and yield ticks until the connection breaks. Raises ProviderFault."""
    await socket.send(prices.subscription().decode())
    while True:
        frame = prices.read(await socket.receive(), now())
        if frame is not None:
            yield frame
