"""The provider `twelvedata`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.providers.base import Capabilities, History, Option, ProviderBase, ProviderConfig, ProviderEntry
from stockpulse.providers.faults import TRANSIENT, ProviderFault
from stockpulse.providers.option_values import address, whole_number
from stockpulse.providers.refusals import Refusals
from stockpulse.providers.trade_conditions import prices_and_trades
from stockpulse.providers.transport.live_socket import Refusal, StreamDialect
from stockpulse.providers.transport.rate_limit import Window
from stockpulse.providers.transport.rest_client import Dialect
from stockpulse.providers.twelve_data import rest
from stockpulse.providers.twelve_data.faults import NAME, pause_seconds, read_fault, read_refusal
from stockpulse.providers.twelve_data.replies import INTERVALS, usage_of
from stockpulse.providers.twelve_data.stream import PriceStream, frames_of, send_heartbeats

HEARTBEAT_SECONDS: Final = 10.0
_SILENCE_HEARTBEATS: Final = 2
"""The vendor answers each heartbeat: a connection is broken after this many without any message."""

KEY: Final = Option(
    "key",
    ("STOCKPULSE_TWELVEDATA_KEY", "TWELVE_DATA_API_KEY"),
    "The key of Twelve Data; there are free ones at twelvedata.com.",
    secret=True,
)
URL: Final = Option("url", ("STOCKPULSE_TWELVEDATA_URL",), "The address of its API.", "https://api.twelvedata.com")
STREAM_URL: Final = Option(
    "stream_url",
    ("STOCKPULSE_TWELVEDATA_STREAM_URL",),
    "The address of its stream.",
    "wss://ws.twelvedata.com/v1/quotes/price",
)
PER_MINUTE: Final = Option("per_minute", ("STOCKPULSE_TWELVEDATA_PER_MINUTE",), "Credits per minute of the plan.", "8")
PER_DAY: Final = Option(
    "per_day", ("STOCKPULSE_TWELVEDATA_PER_DAY",), "Credits per day of the plan; 0 for no limit.", "800"
)


class TwelveData(ProviderBase):
    """Bars, quotes and streamed prices of stocks, currencies and coins."""

    name = NAME

    def __init__(self, config: ProviderConfig, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        options = config.options
        self._symbols = config.symbols
        self._transport = config.transport
        self._heartbeat_seconds = heartbeat_seconds
        self._key = options[KEY.name]
        self._stream_url = address(STREAM_URL, options, "ws", "wss")
        per_minute = whole_number(PER_MINUTE, options, 1)
        self._batch = min(rest.BATCH, per_minute)
        limit = self._transport.limit(
            NAME, self._key, [Window(per_minute, 60)], per_day=whole_number(PER_DAY, options, 0) or None
        )
        dialect = Dialect(
            address(URL, options, "http", "https"),
            read_fault,
            headers={"Authorization": f"apikey {self._key}"},
            pause_seconds=pause_seconds,
        )
        self._client = self._transport.rest(NAME, dialect, limit, (self._key,))
        self._refusals = Refusals(self._transport.now)
        self.refused_symbols: dict[str, str] = {}

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield a tick for each price, over one connection; see `stream.py` for sizes. Raises ProviderFault."""
        prices = PriceStream(self._symbols)
        self.refused_symbols = prices.problems
        dialect = StreamDialect(self._stream_url, self._refused, headers={"X-TD-APIKEY": self._key})
        async with self._transport.stream(NAME, dialect, (self._key,)) as socket:
            socket.watch_silence(_SILENCE_HEARTBEATS * self._heartbeat_seconds)
            beating = asyncio.create_task(send_heartbeats(socket, self._heartbeat_seconds))
            try:
                async for frame in frames_of(socket, prices, self._transport.now):
                    yield frame
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield unadjusted bars that are over by now; a volume that the vendor does not have is 0.

        Raises ProviderFault, that of a symbol in its turn.
        """
        if interval not in INTERVALS:
            raise InvalidInput("interval", f"got {interval!r}; {NAME} takes {', '.join(INTERVALS)}")
        frames = rest.history(self._client, symbols, interval, start, end, self._batch, self._refusals)
        async for frame in frames:
            yield frame

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the latest price of each symbol, as a price without a trade.

        Raises ProviderFault, also if one of several symbols is refused; the fault names it.
        """
        return await rest.latest(self._client, symbols, self._batch)

    async def check(self) -> str:
        """Ask for the usage of the key; return it as a sentence. Raises ProviderFault."""
        reply = await self._client.get("/api_usage", urgent=True)
        return f"the key is good: {usage_of(reply.json())}"

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    def _refused(self, refusal: Refusal) -> ProviderFault:
        return read_refusal(refusal, self._transport.now())


TWELVE_DATA: Final = ProviderEntry(
    NAME,
    TwelveData,
    capabilities=Capabilities(
        history={
            "1d": History(rest.WINDOWS["1d"], symbols=rest.BATCH),
            "5m": History(rest.WINDOWS["5m"], symbols=rest.BATCH),
            "1m": History(rest.WINDOWS["1m"], symbols=rest.BATCH),
        },
        latest=True,
        latest_symbols=rest.BATCH,
        poll_seconds=120.0,
        stream_symbols=8,
        limits="free: 8 credits a minute and 800 a day (UTC), a credit for each symbol of a request; the stream has 8"
        " trial symbols",
    ),
    options=(KEY, URL, STREAM_URL, PER_MINUTE, PER_DAY),
    conditions=prices_and_trades,
    transient=TRANSIENT,
    description="Stocks, currencies and coins: bars, quotes, and a stream of prices without sizes.",
)
