"""The provider `yahoo`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import TICKS
from stockpulse.providers.base import (
    Capabilities,
    History,
    Option,
    ProviderBase,
    ProviderConfig,
    ProviderEntry,
)
from stockpulse.providers.faults import BadRequest, ProviderFault, RateLimited, UnknownSymbol, Unreachable
from stockpulse.providers.option_values import address, whole_number, yes_or_no
from stockpulse.providers.trade_conditions import prices_and_trades
from stockpulse.providers.transport.rate_limit import Window
from stockpulse.providers.transport.rest_client import Dialect, Reply
from stockpulse.providers.yahoo.circuit import Circuit
from stockpulse.providers.yahoo.faults import CrumbNeeded, read_fault
from stockpulse.providers.yahoo.replies import bars_of, price_of

NAME: Final = "yahoo"
CHART: Final = "/v8/finance/chart/"
CRUMB: Final = "/v1/test/getcrumb"
_SLACK: Final = timedelta(hours=12)
"""Windows stay this far from the walls that Yahoo's errors name."""
_DAY: Final = timedelta(days=1)

URL: Final = Option(
    "url", ("STOCKPULSE_YAHOO_URL",), "The address of the chart API.", default="https://query2.finance.yahoo.com"
)
COOKIE_URL: Final = Option(
    "cookie_url",
    ("STOCKPULSE_YAHOO_COOKIE_URL",),
    "The page that gives the cookie, where Yahoo wants one.",
    default="https://fc.yahoo.com",
)
PER_MINUTE: Final = Option(
    "per_minute", ("STOCKPULSE_YAHOO_PER_MINUTE",), "Requests per minute, at most one a second.", default="40"
)
EXTENDED: Final = Option(
    "extended",
    ("STOCKPULSE_YAHOO_EXTENDED",),
    "Bars before and after the regular session too: `true` or `false`.",
    default="false",
)
USER_AGENT: Final = Option(
    "user_agent",
    ("STOCKPULSE_YAHOO_USER_AGENT",),
    "The `User-Agent` of requests. Yahoo refuses those of programs.",
    default="Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
)

HISTORY: Final = {
    "1m": History(window=timedelta(days=7), depth=timedelta(days=29)),
    "5m": History(window=timedelta(days=59), depth=timedelta(days=59)),
    "1d": History(window=timedelta(days=3_650)),
}


class YahooProvider(ProviderBase):
    """Bars and latest prices, one request for each symbol; an address that is refused waits for minutes."""

    name = NAME

    def __init__(self, config: ProviderConfig) -> None:
        """Raises InvalidInput for an option that is not valid."""
        options, transport = config.options, config.transport
        self._now = config.now
        self._extended = yes_or_no(EXTENDED, options)
        self._cookie_url = address(COOKIE_URL, options, "https", "http")
        self._crumb: dict[str, str] = {}
        self._circuit = Circuit(config.now)
        limit = transport.limit(NAME, "", [Window(1, 1.0), Window(whole_number(PER_MINUTE, options, least=1), 60.0)])
        dialect = Dialect(
            address(URL, options, "https", "http"),
            self._read_fault,
            headers={"User-Agent": options.get(USER_AGENT.name) or USER_AGENT.default or "", "Accept": "*/*"},
            params=self._crumb,
        )
        self._rest = transport.rest(NAME, dialect, limit)

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield bars with start <= ts < end, adjusted for splits, in the windows that Yahoo allows.

        Raises BadRequest if the whole range is older than Yahoo's bars of this interval.
        """
        if interval not in HISTORY:
            raise InvalidInput("interval", f"got {interval!r}; takes {', '.join(HISTORY)}")
        start = self._from_the_wall(interval, start, end)
        for symbol in symbols:
            begin = start
            while begin < end:
                until = min(begin + HISTORY[interval].window, end)
                bars = await self._bars(symbol, interval, begin, until)
                if len(bars):
                    yield bars
                begin = until

    def _from_the_wall(self, interval: str, start: datetime, end: datetime) -> datetime:
        """Return the start of the part of a range that Yahoo has."""
        depth = HISTORY[interval].depth
        if depth is None:
            return start
        wall = self._now() - depth - _SLACK
        if start < wall and end <= wall:
            raise BadRequest(
                f"{NAME} has {interval} bars of the last {depth.days} days only, and was asked for older ones"
            )
        return max(start, wall)

    async def _bars(self, symbol: str, interval: str, start: datetime, end: datetime) -> pl.DataFrame:
        # A daily row has the time of the open, which may lie a day before or after the time that stands for its date.
        margin = _DAY if interval == "1d" else timedelta()
        params = {
            "interval": interval,
            "period1": str(int((start - margin).timestamp())),
            "period2": str(int((end + margin).timestamp())),
            "includePrePost": "true" if self._extended else "false",
        }
        reply = await self._chart(symbol, params, urgent=False)
        bars = bars_of(reply.body, symbol, interval, extended=self._extended)
        return bars.filter(pl.col("ts").is_between(start, end, closed="left"))

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the latest prices of the regular sessions, without a size."""
        params = {"interval": "1d", "range": "1d", "includePrePost": "false"}
        frames = [price_of((await self._chart(symbol, params, urgent=True)).body, symbol) for symbol in symbols]
        return pl.concat([TICKS.to_frame(), *frames])

    async def check(self) -> str:
        """Ask for one price."""
        await self.latest(["SPY"])
        return "it answers, and needs no key"

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    # Requests -----------------------------------------------------------------------------------

    async def _chart(self, symbol: str, params: Mapping[str, str], *, urgent: bool) -> Reply:
        path = CHART + quote(symbol, safe="")
        try:
            try:
                return await self._get(path, params, urgent=urgent)
            except CrumbNeeded:
                await self._fetch_crumb(urgent=urgent)
                return await self._get(path, params, urgent=urgent)
        except CrumbNeeded as refused:
            raise Unreachable(f"{refused}; a cookie did not help") from None
        except UnknownSymbol as unknown:
            raise UnknownSymbol(str(unknown), symbol) from None

    async def _fetch_crumb(self, *, urgent: bool) -> None:
        """Get a cookie, which the connection keeps, and the crumb that belongs to it."""
        self._crumb.clear()
        await self._get(self._cookie_url, {}, urgent=urgent)
        text = (await self._get(CRUMB, {}, urgent=urgent)).body.decode(errors="replace").strip()
        if not text or "<" in text or " " in text:
            raise Unreachable(f"{NAME} wants a cookie, and gives no crumb for it")
        self._crumb["crumb"] = text

    async def _get(self, path: str, params: Mapping[str, str], *, urgent: bool) -> Reply:
        self._circuit.check()
        try:
            reply = await self._rest.get(path, params, urgent=urgent)
        except ProviderFault as fault:
            self._circuit.failed(fault)
            raise
        self._circuit.succeeded()
        return reply

    def _read_fault(self, reply: Reply) -> ProviderFault | None:
        if reply.path == self._cookie_url:
            return None  # it answers 404, with the cookie
        fault = read_fault(reply) if reply.path != CRUMB else _crumb_fault(reply)
        if isinstance(fault, RateLimited):
            return RateLimited(str(fault), self._circuit.cool_down())
        return fault


def _crumb_fault(reply: Reply) -> ProviderFault | None:
    if reply.status == 429 or b"Too Many Requests" in reply.body[:100]:  # noqa: PLR2004
        return RateLimited(f"{NAME} refuses requests from here for a while: {reply.text}")
    return None if reply.status < 400 else Unreachable(f"{NAME} gives no crumb (HTTP {reply.status})")  # noqa: PLR2004


YAHOO: Final = ProviderEntry(
    NAME,
    YahooProvider,
    aliases=("yfinance",),
    capabilities=Capabilities(
        ticks=False,
        history=HISTORY,
        latest=True,
        poll_seconds=15.0,
        limits="not published; about 40 requests a minute, and minutes of silence after a refusal",
    ),
    options=(URL, COOKIE_URL, PER_MINUTE, EXTENDED, USER_AGENT),
    conditions=prices_and_trades,
    description="Bars adjusted for splits, and latest prices, of exchanges everywhere; unofficial, needs no key.",
)
