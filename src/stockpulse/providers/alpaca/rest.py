"""Requests to Alpaca's REST API: pages of bars and trades, latest trades, snapshots, corporate actions."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from stockpulse.aio import offload
from stockpulse.market.times import from_micros, micros
from stockpulse.providers.alpaca.faults import pause_seconds, read_fault
from stockpulse.providers.alpaca.plan import Plan
from stockpulse.providers.faults import BadReply, UnknownSymbol
from stockpulse.providers.transport.rate_limit import Window
from stockpulse.providers.transport.rest_client import Dialect, Reply
from stockpulse.providers.transport.transport import Transport

NAME: Final = "alpaca"
PAGE_ROWS: Final = 10_000
"""The most rows of a page, over all symbols."""
SYMBOLS: Final = 100
"""The symbols of one request; an address has room for more, but a bad symbol costs a request."""
_ROW_BYTES: Final = 100
"""The bytes of a row, about."""
_ACTIONS: Final = 1000
"""The most corporate actions of a page."""

log = structlog.get_logger(__name__)


class AlpacaRest:
    """Sends the requests of one key."""

    def __init__(self, plan: Plan, transport: Transport) -> None:
        dialect = Dialect(plan.url, read_fault, headers=plan.headers, pause_seconds=pause_seconds)
        limit = transport.limit(NAME, plan.key, [Window(plan.per_minute, 60.0)])
        self._client = transport.rest(NAME, dialect, limit, plan.secrets)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def bars(
        self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime, feed: str
    ) -> AsyncGenerator[Any]:
        """Yield the pages of raw bars with start <= t < end: by symbol, in alphabetical order, then by time."""
        params = {
            "timeframe": timeframe,
            "adjustment": "raw",
            "limit": str(PAGE_ROWS),
            "feed": feed,
            "sort": "asc",
            **_range(start, end),
        }
        async for page in self._pages("/v2/stocks/bars", params, symbols):
            yield page

    async def trades(self, symbols: Sequence[str], start: datetime, end: datetime, feed: str) -> AsyncGenerator[Any]:
        """Yield the pages of trades with start <= t < end, in the same order."""
        params = {"limit": str(PAGE_ROWS), "feed": feed, "sort": "asc", **_range(start, end)}
        async for page in self._pages("/v2/stocks/trades", params, symbols):
            yield page

    async def latest_trades(self, symbols: Sequence[str], feed: str) -> AsyncGenerator[Any]:
        """Yield replies with the latest trade of each symbol, a hundred symbols at a time."""
        async for reply in self._latest("/v2/stocks/trades/latest", symbols, feed):
            yield reply.json()

    async def snapshots(self, symbols: Sequence[str], feed: str) -> AsyncGenerator[Any]:
        """Yield replies with the newest bars of each symbol, a hundred symbols at a time."""
        async for reply in self._latest("/v2/stocks/snapshots", symbols, feed):
            yield reply.json()

    async def allowed_per_minute(self, feed: str) -> str:
        """Ask for one price of a feed; return the number of requests per minute that the reply states, or ""."""
        reply = await self._client.get("/v2/stocks/trades/latest", {"symbols": "AAPL", "feed": feed}, urgent=True)
        return reply.headers.get("x-ratelimit-limit", "")

    async def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> AsyncGenerator[Any]:
        """Yield the pages of actions that are processed on the dates from `start` to `end`, both included."""
        params = {"start": start.date().isoformat(), "end": end.date().isoformat(), "limit": str(_ACTIONS)}
        async for page in self._pages("/v1/corporate-actions", {**params, "sort": "asc"}, symbols):
            yield page

    async def _latest(self, path: str, symbols: Sequence[str], feed: str) -> AsyncGenerator[Reply]:
        for some in _parts(symbols):
            reply = await self._without_bad(path, {"feed": feed}, some, alone=len(symbols) == 1, urgent=True)
            if reply is not None:
                yield reply

    async def _pages(self, path: str, params: Mapping[str, str], symbols: Sequence[str]) -> AsyncGenerator[Any]:
        """Yield all pages, a hundred symbols at a time. Only the token says that there are more."""
        for some in _parts(sorted(set(symbols))):
            token: str | None = None
            while True:
                paged = params if token is None else {**params, "page_token": token}
                reply = await self._without_bad(path, paged, some, alone=len(symbols) == 1)
                if reply is None:
                    break
                page = await offload.run(len(reply.body) // _ROW_BYTES, reply.json)
                yield page
                before, token = token, _next_token(page)
                if token is None:
                    break
                if token == before:
                    raise BadReply(f"{NAME}: the page of {path} names itself as the next one")

    async def _without_bad(
        self, path: str, params: Mapping[str, str], symbols: list[str], *, alone: bool, urgent: bool = False
    ) -> Reply | None:
        """Return the reply for the symbols that are good; None if there are none.

        One bad symbol fails a whole request, so it is removed from `symbols` and the others are asked for again.
        Raises UnknownSymbol if it is the only one (`alone`).
        """
        while symbols:
            try:
                return await self._client.get(path, {"symbols": ",".join(symbols), **params}, urgent=urgent)
            except UnknownSymbol as fault:
                bad = (fault.symbol or "").upper()
                if alone or bad not in symbols:
                    raise
                log.warning("a symbol is left out of a request", provider=NAME, reason=str(fault))
                symbols.remove(bad)
        return None


def _parts(symbols: Sequence[str]) -> Iterator[list[str]]:
    return (list(symbols[at : at + SYMBOLS]) for at in range(0, len(symbols), SYMBOLS))


def _next_token(page: Any) -> str | None:
    token = page.get("next_page_token") if isinstance(page, dict) else None
    if token is not None and not isinstance(token, str):
        raise BadReply(f"{NAME}: the token of the next page is no text")
    return token or None


def _range(start: datetime, end: datetime) -> dict[str, str]:
    """Return the parameters of start <= t < end. Alpaca includes both ends, and its times have nanoseconds."""
    last = from_micros(micros(end) - 1)
    return {"start": _text_of(start), "end": _text_of(last).replace("Z", "999Z")}


def _text_of(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
