"""The destination of recorded trades: a running server or, if none runs, the database itself."""

import asyncio
import io
import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Protocol
from urllib.parse import quote

import httpx2
import polars as pl
from prometheus_client import CollectorRegistry
from rich.console import Console

from stockpulse.api.context import Context
from stockpulse.cli import failures, http_client
from stockpulse.errors import OutcomeUnknown, StockPulseError, Unavailable
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1
from stockpulse.market.schemas import TICKS
from stockpulse.market.symbology import read_symbol
from stockpulse.node.lifecycle import running
from stockpulse.providers.trade_conditions import rule_named
from stockpulse.settings import load_settings

_RETRY_SECONDS: Final = (0.25, 0.5, 1, 2, 4, 8, 8, 8)
_ARROW: Final = "application/vnd.apache.arrow.stream"
_JSON_LINES: Final = "application/x-ndjson"
_LIMITS: Final = httpx2.Limits(keepalive_expiry=2)  # the server closes idle connections after 5 seconds


class Destination(Protocol):
    """The destination of a replay."""

    async def send(self, ticks: pl.DataFrame) -> Receipt:
        """Send TICKS or PARSED_TICKS; return when the valid rows are durable and the others are dead letters."""
        ...

    async def has_bars(self, symbol: str, start: datetime, end: datetime) -> bool:
        """Return True if minute bars of the symbol start in [start, end)."""
        ...

    async def end(self) -> None:
        """Close the bars of the recording; return once they are stored."""
        ...


@asynccontextmanager
async def destination_at(
    url: str, calendar: str, conditions: str, provider: str, console: Console
) -> AsyncIterator[Destination]:
    """Open the server at this address or, if nothing listens there on this machine, the database."""
    query = {"provider": provider, "calendar": calendar, "conditions": conditions, "clock": Clock.EVENT.value}
    # The environment's proxies are for hosts outside.
    async with httpx2.AsyncClient(base_url=url, timeout=http_client.TIMEOUT, limits=_LIMITS, trust_env=False) as client:
        if await server_answers(client):
            yield _Server(client, query)
            return
    settings = load_settings().without_feeds()
    feed = Feed(provider, trading_calendar(calendar).name, Clock.EVENT, rule=rule_named(conditions))
    failures.log_trouble_only(settings)
    console.print(f"No server at {url}: replaying into the database.", highlight=False, soft_wrap=True)
    with failures.database_faults():
        async with running(settings, CollectorRegistry()) as context:
            yield _Database(context, feed)


async def server_answers(client: httpx2.AsyncClient) -> bool:
    """Return True if a StockPulse answers, False if nothing listens on this machine. Raises Unavailable otherwise."""
    try:
        response = await client.get("/api/v1/version")
        if response.status_code == httpx2.codes.OK and response.json().get("name") == "stockpulse":
            return True
    except httpx2.ConnectError as error:
        if _is_here(client.base_url.host):
            return False
        raise Unavailable(f"no server at {client.base_url}: {error}") from error
    except (httpx2.HTTPError, ValueError, AttributeError) as error:
        raise Unavailable(f"no StockPulse at {client.base_url}: {error!r}") from error
    raise Unavailable(f"the server at {client.base_url} is not a StockPulse")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Database:
    """The database of this machine, which this process writes."""

    def __init__(self, context: Context, feed: Feed) -> None:
        self._context = context
        self._intake = context.pipeline.intake
        self._feed = feed

    async def send(self, ticks: pl.DataFrame) -> Receipt:
        return await self._intake.submit(ticks, self._feed)

    async def has_bars(self, symbol: str, start: datetime, end: datetime) -> bool:
        known = self._context.names.symbols.get(read_symbol(symbol) or "")
        if known is None:
            return False
        pages = self._context.bars.between(known, M1, start, end, end)
        return any([len(page) > 0 async for page in pages])

    async def end(self) -> None:
        await self._intake.end(self._feed)


class _Server:
    """A running StockPulse.

    A batch whose outcome is unknown is sent again only if each of its rows has a trade_id, by which the server
    recognises redeliveries.
    """

    def __init__(self, client: httpx2.AsyncClient, query: Mapping[str, str]) -> None:
        self._client = client
        self._query = query

    async def send(self, ticks: pl.DataFrame) -> Receipt:
        if "problem" in ticks.columns:
            return await self._send_apart(ticks)
        body = io.BytesIO()
        ticks.select(list(TICKS)).write_ipc_stream(body)
        return await self._post(body.getvalue(), _ARROW, {}, repeatable=not ticks["trade_id"].has_nulls())

    async def _send_apart(self, ticks: pl.DataFrame) -> Receipt:
        """Send the rows with a problem in their original form, so that the server stores the originals."""
        broken = ticks["problem"].is_not_null()
        lines = "\n".join(ticks["raw"].filter(broken)).encode()
        refused = await self._post(lines, _JSON_LINES, {}, repeatable=True)
        receipt = await self.send(ticks.filter(~broken).drop("problem", "raw"))
        places = (~broken).arg_true(), broken.arg_true()
        rejected = sorted(
            (int(at[row]), reason)
            for at, part in zip(places, (receipt, refused), strict=True)
            for row, reason in part.rejected
        )
        return Receipt(
            receipt.accepted + refused.accepted,
            receipt.duplicates + refused.duplicates,
            tuple(rejected),
            unlisted=receipt.unlisted + refused.unlisted,
        )

    async def has_bars(self, symbol: str, start: datetime, end: datetime) -> bool:
        query = {"interval": M1.name, "start": start.isoformat(), "end": end.isoformat(), "format": "csv"}
        try:
            async with self._client.stream("GET", f"/api/v1/data/{quote(symbol, safe='')}", params=query) as response:
                if not response.is_success:  # an unknown symbol, or a process that answers no requests for bars
                    return False
                lines = response.aiter_lines()
                await anext(lines, "")  # the names of the columns
                return await anext(lines, "") != ""
        except httpx2.TransportError:
            return False  # sending will report the fault

    async def end(self) -> None:
        await self._post(b"", _ARROW, {"end_of_stream": "true"}, repeatable=True)

    async def _post(self, body: bytes, kind: str, query: Mapping[str, str], *, repeatable: bool) -> Receipt:
        pauses, unknown = iter(_RETRY_SECONDS), False
        while True:
            try:
                return await self._post_once(body, kind, {**self._query, **query})
            except (OutcomeUnknown, Unavailable) as fault:
                unknown = unknown or isinstance(fault, OutcomeUnknown)
                pause = next(pauses, None)
                if pause is None or (unknown and not repeatable):
                    raise (OutcomeUnknown if unknown else Unavailable)(str(fault)) from fault
            await asyncio.sleep(pause)

    async def _post_once(self, body: bytes, kind: str, query: Mapping[str, str]) -> Receipt:
        headers = {"content-type": kind}
        try:
            response = await self._client.post("/api/v1/ticks", params=query, content=body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unavailable(f"the server is gone: {error}") from error
        except httpx2.TransportError as error:
            raise OutcomeUnknown(f"the connection failed: {error!r}") from error
        if response.is_success:
            answer = response.json()
            rejected = tuple((one["row"], one["reason"]) for one in answer["rejected"])
            unlisted = answer.get("rejected_further", 0)
            return Receipt(answer["accepted"], answer["duplicates"], rejected, unlisted=unlisted)
        if response.is_server_error:
            raise OutcomeUnknown(f"the server fails: {http_client.message_of(response)}")
        raise StockPulseError(f"the server refuses: {http_client.message_of(response)}")
