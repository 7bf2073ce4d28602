"""Alpaca's market data API as a server on loopback: REST and the stream, told to misbehave by its switches.

The market that it serves is in `trades` and `bars`. Prices, times and ids are made up.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import msgpack
import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response as HandshakeResponse

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from starlette.requests import Request

KEY = "PKCANARY7f3a91key"
SECRET = "CANARYsecret+/81bd"
CHANNELS = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
_CHANNEL_OF = {"t": "trades", "q": "quotes", "b": "bars", "u": "updatedBars", "d": "dailyBars"}
_WITH_TRADES = {"c": "corrections", "x": "cancelErrors"}
_SYMBOL = re.compile(r"[A-Z][A-Z.]{0,9}")
_RECENT = timedelta(minutes=15)
_TAKEN_BACK = ("canceled", "incorrect")
NO_SIP = {"code": 42210000, "message": "subscription does not permit querying recent SIP data"}

Row = dict[str, Any]


def nanos(text: str) -> int:
    """Return an RFC 3339 time in UTC, with up to nine fractional digits, as nanoseconds."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


def text_of(nanoseconds: int) -> str:
    """Return a time as Alpaca writes it: trailing zeros are trimmed."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{rest:09}".rstrip("0").rstrip(".") + "Z"


@dataclass
class Switches:
    """The ways to misbehave."""

    # REST
    bad_key: str = "html"  # or "401": the answer to a wrong key
    empty: Any = field(default_factory=dict)  # or None, []: the content of an empty reply
    has_sip: bool = True  # False: recent SIP data are refused
    no_sip_status: int = 403
    page_rows: int | None = None  # fewer rows per page than the limit
    empty_pages: bool = False  # an empty page with a token before each page but the first
    bad_symbols: frozenset[str] = frozenset()
    bad_symbol_text: str = "code=400, message=invalid symbol: {}"
    answers: list[Response] = field(default_factory=list)  # sent to the next requests, whatever they ask for
    remaining: int = 199
    # the stream
    greeting: str | None = "connected"  # or "authenticated", as after authentication by headers; None: silence
    auth_seconds: float = 10.0
    auth_error: int | None = None
    closes_after_error: bool = True
    one_connection: bool = False
    held_seconds: float = 0.0  # for so long after its end, a connection counts
    symbol_limit: int | None = None
    acknowledges: str = "all"  # or "few": channels without symbols are left out, "wrong": one symbol is
    handshake: tuple[int, str] | None = None
    mute: bool = False
    lacks: frozenset[str] = frozenset()  # channels that the feed does not have


_MESSAGES = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    500: "internal error",
}


class _Client:
    """A connection of the stream."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.authenticated = False
        self.subscribed: dict[str, set[str]] = {channel: set() for channel in CHANNELS}
        self.packed = connection.request.headers.get("Content-Type") == "application/msgpack"

    async def send(self, messages: list[Row]) -> None:
        if self.packed:
            frame: str | bytes = msgpack.packb([_packed(message) for message in messages])
        else:
            frame = json.dumps(messages)
        with contextlib.suppress(ConnectionClosed):
            await self.connection.send(frame)

    async def error(self, code: int) -> None:
        await self.send([{"T": "error", "code": code, "msg": _MESSAGES[code]}])

    def wants(self, message: Row) -> bool:
        channel = _CHANNEL_OF.get(message["T"], "trades" if message["T"] in _WITH_TRADES else "")
        wanted = self.subscribed.get(channel, set())
        return message.get("S") in wanted or "*" in wanted


def _packed(message: Row) -> Row:
    """Return a message for MessagePack: `T` first, times as Timestamp extensions."""
    packed = {"T": message["T"], **message}
    if isinstance(packed.get("t"), str):
        packed["t"] = msgpack.Timestamp(*divmod(nanos(packed["t"]), 1_000_000_000))
    return packed


class FakeAlpaca:
    """The server. `async with` starts and stops it."""

    def __init__(self) -> None:
        self.switches = Switches()
        self.trades: dict[str, list[Row]] = {}
        self.bars: dict[tuple[str, str], list[Row]] = {}
        self.actions: Row = {}
        self.now = lambda: datetime.now(UTC)
        self.requests: list[tuple[str, Row]] = []
        """Paths and parameters of REST requests."""
        self.on_request = lambda: None
        self.messages: list[Row] = []
        """Messages of the clients of the stream."""
        self.paths: list[str] = []
        """Addresses of the handshakes."""
        self.clients: list[_Client] = []
        self._ended: list[float] = []
        self._tokens: dict[str, tuple[Row, int]] = {}

    async def __aenter__(self) -> Self:
        app = Starlette(routes=[Route("/{path:path}", self._answer)])
        self._http = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none"))
        self._http.config.load()
        self._http.lifespan = self._http.config.lifespan_class(self._http.config)
        await self._http.startup()
        self.port = self._http.servers[0].sockets[0].getsockname()[1]
        self._stream = await serve(
            self._accept, "127.0.0.1", 0, ping_interval=None, close_timeout=0.2, process_request=self._handshake
        )
        self.stream_port = self._stream.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        await asyncio.gather(self._http.shutdown(), self._stream.wait_closed())

    @property
    def options(self) -> dict[str, str]:
        """The options that point the provider here."""
        return {
            "key": KEY,
            "secret": SECRET,
            "url": f"http://127.0.0.1:{self.port}",
            "stream_url": f"ws://127.0.0.1:{self.stream_port}",
        }

    # The market ----------------------------------------------------------------------------------

    async def trade(self, symbol: str, row: Row) -> None:
        """Make a trade: it is part of the past from now on, and sent to subscribers."""
        self.trades.setdefault(symbol, []).append(row)
        await self.publish([{"T": "t", "S": symbol, **row}])

    async def cancel(self, symbol: str, row: Row, action: str = "C") -> None:
        """Cancel a trade."""
        row["u"] = "canceled"
        fields = {name: row[name] for name in ("i", "x", "p", "s", "t", "z")}
        await self.publish([{"T": "x", "S": symbol, "a": action, **fields}])

    async def correct(self, symbol: str, row: Row, price: float, size: int, new_id: int) -> None:
        """Replace a trade by another one."""
        right = {**row, "p": price, "s": size, "i": new_id, "u": "corrected"}
        row["u"] = "incorrect"
        self.trades[symbol].append(right)
        original = {"oi": row["i"], "op": row["p"], "os": row["s"], "oc": row["c"]}
        corrected = {"ci": new_id, "cp": price, "cs": size, "cc": row["c"]}
        await self.publish(
            [{"T": "c", "S": symbol, "x": row["x"], **original, **corrected, "t": row["t"], "z": row["z"]}]
        )

    async def publish(self, messages: Iterable[Row], *, to_all: bool = False) -> None:
        """Send messages in one frame to those who subscribed to them."""
        if self.switches.mute:
            return
        listed = list(messages)
        for client in list(self.clients):
            wanted = [message for message in listed if to_all or client.wants(message)]
            if wanted and client.authenticated:
                await client.send(wanted)

    async def fail(self, code: int) -> None:
        """Send an error to all clients and drop them."""
        for client in list(self.clients):
            await client.error(code)
            client.connection.transport.abort()

    async def close_all(self, code: int = 1011) -> None:
        """Close all connections with a close frame."""
        await asyncio.gather(*(client.connection.close(code, "bye") for client in self.clients))

    def drop_all(self) -> None:
        """Drop all connections without a close frame."""
        for client in self.clients:
            client.connection.transport.abort()

    # REST ----------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        params = dict(request.query_params)
        self.requests.append((request.url.path, params))
        self.on_request()
        if self.switches.answers:
            return self.switches.answers.pop(0)
        if not self._is_authorised(request):
            return self._no_key()
        reply = self._routed(request.url.path, params)
        if reply.status_code in (200, 400, 429):
            reply.headers.update(rate_headers(self.switches.remaining))
        return reply

    def _is_authorised(self, request: Request) -> bool:
        headers = request.headers
        return headers.get("APCA-API-KEY-ID") == KEY and headers.get("APCA-API-SECRET-KEY") == SECRET

    def _no_key(self) -> Response:
        if self.switches.bad_key == "401":
            return JSONResponse({"message": "unauthorized"}, 401)
        return HTMLResponse("<html><head><title>403 Forbidden</title></head></html>", 403)

    def _routed(self, path: str, params: Row) -> Response:
        symbols = params.get("symbols", "").split(",")
        bad = [one for one in symbols if one in self.switches.bad_symbols or not _SYMBOL.fullmatch(one)]
        if bad:
            return error(400, self.switches.bad_symbol_text.format(bad[0]))
        if self._is_beyond_the_plan(path, params):
            return JSONResponse(NO_SIP, self.switches.no_sip_status)
        return self._data(path, params, symbols)

    def _data(self, path: str, params: Row, symbols: list[str]) -> Response:
        if path == "/v2/stocks/bars":
            return self._page("bars", params, {one: self.bars.get((one, params["timeframe"]), []) for one in symbols})
        if path == "/v2/stocks/trades":
            return self._page("trades", params, {one: self.trades.get(one, []) for one in symbols})
        if path == "/v1/corporate-actions":
            return JSONResponse({"corporate_actions": self.actions, "next_page_token": None})
        return self._newest(path, symbols)

    def _newest(self, path: str, symbols: list[str]) -> Response:
        if path == "/v2/stocks/trades/latest":
            valid = {
                one: [row for row in self.trades.get(one, []) if row.get("u") not in _TAKEN_BACK] for one in symbols
            }
            latest = {one: max(rows, key=lambda row: nanos(row["t"])) for one, rows in valid.items() if rows}
            return JSONResponse({"trades": latest or self.switches.empty})
        if path == "/v2/stocks/snapshots":
            return JSONResponse({one: self._snapshot(one) for one in symbols})
        return error(404, "not found")

    def _is_beyond_the_plan(self, path: str, params: Row) -> bool:
        if self.switches.has_sip or params.get("feed") != "sip" or path.startswith("/v1"):
            return False
        recent = "end" not in params or nanos(params["end"]) > int((self.now() - _RECENT).timestamp()) * 1_000_000_000
        return path.endswith(("/latest", "/snapshots")) or recent

    def _page(self, name: str, params: Row, rows: dict[str, list[Row]]) -> Response:
        asked = {key: value for key, value in params.items() if key != "page_token"}
        token, offset = params.get("page_token"), 0
        if token:
            if token not in self._tokens:
                return error(400, "invalid page token")
            first, offset = self._tokens[token]
            if first != asked:
                return error(400, "the parameters of the pages differ")
        limit = min(int(params.get("limit", 1000)), self.switches.page_rows or 10_000)
        first, last = nanos(params["start"]), nanos(params["end"])
        found = [
            (symbol, row)
            for symbol in sorted(rows)
            for row in sorted(rows[symbol], key=lambda row: nanos(row["t"]))
            if first <= nanos(row["t"]) <= last
        ]
        skipped = self.switches.empty_pages and token is not None and not token.endswith("=e")
        page: dict[str, list[Row]] = {}
        if not skipped:
            for symbol, row in found[offset : offset + limit]:
                page.setdefault(symbol, []).append(row)
            offset += limit
        following = None
        if offset < len(found):
            following = base64.b64encode(f"{name}|{offset}|{len(self._tokens)}".encode()).decode()
            following += "=e" if skipped else ""
            self._tokens[following] = (asked, offset)
        return JSONResponse({name: page or self.switches.empty, "next_page_token": following})

    def _snapshot(self, symbol: str) -> Row | None:
        minutes, days = self.bars.get((symbol, "1Min"), []), self.bars.get((symbol, "1Day"), [])
        if not minutes and not days:
            return None
        return {
            "latestTrade": (self.trades.get(symbol) or [None])[-1],
            "minuteBar": minutes[-1] if minutes else None,
            "dailyBar": days[-1] if days else None,
            "prevDailyBar": days[-2] if len(days) > 1 else None,
        }

    # The stream ----------------------------------------------------------------------------------

    def _handshake(self, _connection: ServerConnection, _request: object) -> HandshakeResponse | None:
        if self.switches.handshake is None:
            return None
        status, body = self.switches.handshake
        return HandshakeResponse(status, "No", Headers(), body.encode())

    async def _accept(self, connection: ServerConnection) -> None:
        client = _Client(connection)
        self.paths.append(connection.request.path)
        busy = len(self.clients) > 0 or any(time.monotonic() - at < self.switches.held_seconds for at in self._ended)
        try:
            if self.switches.greeting is None:
                await connection.wait_closed()
            await client.send([{"T": "success", "msg": self.switches.greeting}])
            client.authenticated = self.switches.greeting == "authenticated"
            if client.authenticated or await self._authenticate(client, busy=busy and self.switches.one_connection):
                self.clients.append(client)
                async for frame in connection:
                    await self._take(client, self._read(client, frame))
        except ConnectionClosed:
            pass
        finally:
            if client in self.clients:
                self.clients.remove(client)
                self._ended.append(time.monotonic())

    async def _authenticate(self, client: _Client, *, busy: bool) -> bool:
        while True:
            try:
                async with asyncio.timeout(self.switches.auth_seconds):
                    message = self._read(client, await client.connection.recv())
            except TimeoutError:
                await client.error(404)
                return False
            if message.get("action") != "auth":
                await client.error(401)
                continue
            refusal = self.switches.auth_error
            if (message.get("key"), message.get("secret")) != (KEY, SECRET):
                refusal = 402
            if busy:
                refusal = refusal or 406
            if refusal is None:
                client.authenticated = True
                await client.send([{"T": "success", "msg": "authenticated"}])
                return True
            await client.error(refusal)
            if self.switches.closes_after_error:
                return False

    def _read(self, client: _Client, frame: str | bytes) -> Row:
        message = msgpack.unpackb(frame) if client.packed else json.loads(frame)
        self.messages.append(message)
        return message

    async def _take(self, client: _Client, message: Row) -> None:
        action = message.get("action")
        if action == "auth":
            await client.error(403)
            return
        asked = {channel: message[channel] for channel in CHANNELS if message.get(channel)}
        if action not in ("subscribe", "unsubscribe"):
            await client.error(400)
        elif self.switches.lacks & asked.keys():
            await client.error(410)
        elif any(not _SYMBOL.fullmatch(one) and one != "*" for symbols in asked.values() for one in symbols):
            await client.error(400)
        elif self._is_too_many(client, asked) and action == "subscribe":
            await client.error(405)
        else:
            for channel, symbols in asked.items():
                change = set.update if action == "subscribe" else set.difference_update
                change(client.subscribed[channel], symbols)
            await client.send([self._subscription(client)])

    def _is_too_many(self, client: _Client, asked: Row) -> bool:
        counted = [client.subscribed[one] | set(asked.get(one, ())) for one in ("trades", "quotes")]
        return self.switches.symbol_limit is not None and sum(map(len, counted)) > self.switches.symbol_limit

    def _subscription(self, client: _Client) -> Row:
        lists = {channel: sorted(symbols) for channel, symbols in client.subscribed.items()}
        if self.switches.acknowledges == "wrong":
            lists["trades"] = lists["trades"][1:]
        lists |= dict.fromkeys(_WITH_TRADES.values(), lists["trades"])
        if self.switches.acknowledges == "few":
            lists = {channel: symbols for channel, symbols in lists.items() if symbols}
        return {"T": "subscription", **lists}


def error(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status)


def rate_headers(remaining: int, reset: float | None = None) -> dict[str, str]:
    at = int(time.time() + 30 if reset is None else reset)
    return {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": str(remaining), "X-RateLimit-Reset": str(at)}
