"""The provider `finnhub`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import TICKS
from stockpulse.providers.base import Capabilities, History, Option, ProviderBase, ProviderConfig, ProviderEntry
from stockpulse.providers.faults import TRANSIENT, BadRequest, NotEntitled, TooManyConnections
from stockpulse.providers.finnhub.conditions import finnhub
from stockpulse.providers.finnhub.exchanges import market_of_symbol
from stockpulse.providers.finnhub.faults import NAME, pause_seconds, read_fault, read_refusal
from stockpulse.providers.finnhub.replies import INTERVALS, candles_of, market_of, quote_of
from stockpulse.providers.finnhub.stream import TradeStream
from stockpulse.providers.option_values import address, whole_number
from stockpulse.providers.refusals import Refusals
from stockpulse.providers.transport.live_socket import StreamDialect
from stockpulse.providers.transport.rate_limit import Window
from stockpulse.providers.transport.rest_client import Dialect

SILENCE_SECONDS: Final = 130.0
"""The vendor sends a ping about once a minute: a connection is broken after two of them are missing."""
_PER_SECOND: Final = Window(30, 1)
_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
_WINDOWS: Final = {"1m": timedelta(days=30), "5m": timedelta(days=30), "1d": timedelta(days=3_650)}

KEY: Final = Option(
    "key",
    ("STOCKPULSE_FINNHUB_KEY", "FINNHUB_API_KEY"),
    "The key of Finnhub; there are free ones at finnhub.io.",
    secret=True,
)
URL: Final = Option("url", ("STOCKPULSE_FINNHUB_URL",), "The address of its API.", "https://finnhub.io/api/v1")
STREAM_URL: Final = Option(
    "stream_url", ("STOCKPULSE_FINNHUB_STREAM_URL",), "The address of its stream.", "wss://ws.finnhub.io"
)
PER_MINUTE: Final = Option("per_minute", ("STOCKPULSE_FINNHUB_PER_MINUTE",), "Requests per minute of the plan.", "60")


class Finnhub(ProviderBase):
    """Streamed trades and quotes; candles on paid plans."""

    name = NAME

    def __init__(self, config: ProviderConfig, silence_seconds: float = SILENCE_SECONDS) -> None:
        options = config.options
        self._symbols = config.symbols
        self._transport = config.transport
        self._silence_seconds = silence_seconds
        self._key = options[KEY.name]
        self._stream_url = address(STREAM_URL, options, "ws", "wss")
        windows = [Window(whole_number(PER_MINUTE, options, 1), 60), _PER_SECOND]
        dialect = Dialect(
            address(URL, options, "http", "https"),
            read_fault,
            headers={"X-Finnhub-Token": self._key},
            pause_seconds=pause_seconds,
        )
        limit = self._transport.limit(NAME, self._key, windows)
        self._client = self._transport.rest(NAME, dialect, limit, (self._key,))
        self._streams = False
        self._refusals = Refusals(self._transport.now)
        self._has_candles: set[tuple[str, str]] = set()
        """The markets and intervals whose candles have come."""
        self.refused_symbols: dict[str, str] = {}

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield trades as they arrive, over one connection. Raises ProviderFault.

        The vendor allows one connection for a key, and a further one disturbs the first.
        """
        if self._streams:
            raise TooManyConnections(f"{NAME} allows one stream for a key, and it is open already")
        trades = TradeStream(self._symbols)
        self.refused_symbols = trades.problems
        dialect = StreamDialect(
            f"{self._stream_url}?token={quote(self._key, safe='')}",
            read_refusal,
            heartbeat_seconds=None,  # it is not known whether the vendor answers pings
        )
        self._streams = True
        try:
            async with self._transport.stream(NAME, dialect, (self._key, quote(self._key, safe=""))) as socket:
                socket.watch_silence(self._silence_seconds)
                for subscription in trades.subscriptions():
                    await socket.send(subscription)
                while True:
                    frame = trades.read(await socket.receive())
                    if frame is not None:
                        yield frame
        finally:
            self._streams = False

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield candles that are over by now; a volume that the vendor does not have is 0. Raises ProviderFault.

        Intraday candles are unadjusted, daily ones are adjusted for splits.
        """
        if interval not in INTERVALS:
            raise InvalidInput("interval", f"got {interval!r}; {NAME} takes {', '.join(INTERVALS)}")
        for symbol in dict.fromkeys(symbols):
            since = start.astimezone(UTC)
            while since < end:
                until = min(since + _WINDOWS[interval], end)
                bars = await self._candles(symbol, interval, since, until)
                if len(bars):
                    yield bars.with_columns(pl.col("volume").fill_null(0.0))  # the log has no unknown volume
                since = until

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the latest price of each symbol, as a price without a trade.

        Raises ProviderFault, also if one of several symbols is refused; the fault names it.
        """
        found = await asyncio.gather(*map(self._quote, dict.fromkeys(symbols)), return_exceptions=True)
        prices = pl.concat([TICKS.to_frame(), *(one for one in found if isinstance(one, pl.DataFrame))])
        for fault in found:
            passes = isinstance(fault, TRANSIENT) and len(prices)
            if isinstance(fault, BaseException) and not passes:
                raise fault
        return prices

    async def check(self) -> str:
        """Ask for the status of the market, or for a quote if the plan lacks it. Raises ProviderFault."""
        try:
            reply = await self._client.get("/stock/market-status", {"exchange": "US"}, urgent=True)
            state = f"the US market is {market_of(reply.json())}"
        except NotEntitled:
            price = await self._quote("AAPL")
            state = "it has quotes" if len(price) else "there is no quote of AAPL now"
        return f"the key is good: {state}; trades and quotes of US stocks are free, candles need a paid plan"

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    async def _quote(self, symbol: str) -> pl.DataFrame:
        try:
            reply = await self._client.get("/quote", {"symbol": symbol}, urgent=True)
        except (BadRequest, NotEntitled) as fault:
            fault.symbol = symbol
            raise
        return quote_of(reply.json(), symbol, reply.received_at)

    async def _candles(self, symbol: str, interval: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Return the candles with start <= ts < end; the range of the request may be wider.

        A plan has the candles of a market, or it does not: if the first symbol is refused, no other one is asked for.
        """
        first, last = (start - _DAY, end + _DAY) if interval == "1d" else (start, end - _SECOND)
        params = {
            "symbol": symbol,
            "resolution": INTERVALS[interval][0],
            "from": str(int(first.timestamp())),
            "to": str(int(last.timestamp())),
        }
        asked = (market_of_symbol(symbol), interval)
        if (refusal := self._refusals.of(asked)) is not None:
            raise refusal
        try:
            reply = await self._client.get("/stock/candle", params)
        except NotEntitled as fault:
            if asked not in self._has_candles:
                self._refusals.add(asked, fault)
            raise
        self._has_candles.add(asked)
        bars = candles_of(reply.json(), symbol, interval, reply.received_at)
        return bars.filter(pl.col("ts").is_between(start, end, closed="left").fill_null(value=True))


FINNHUB: Final = ProviderEntry(
    NAME,
    Finnhub,
    capabilities=Capabilities(
        history={interval: History(window) for interval, window in _WINDOWS.items()},
        latest=True,
        poll_seconds=2.0,
        stream_symbols=50,
        limits="free: 60 requests a minute and 30 a second, one stream of 50 symbols, US stocks, currencies and coins;"
        " candles need a paid plan",
    ),
    options=(KEY, URL, STREAM_URL, PER_MINUTE),
    conditions=finnhub,
    transient=TRANSIENT,
    description="Streamed trades and quotes of US stocks, currencies and coins; candles on paid plans.",
)
