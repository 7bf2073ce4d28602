"""Finnhub as servers on loopback: its REST API and its stream, told to misbehave by the attributes."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response as Refusal

from providers.fakes.http_server import serving

KEY = "CANARY-fh-9b27d4"
NO_ACCESS = "You don't have access to this resource."
LIMIT_REACHED = "API limit reached. Please try again later. Remaining Limit: 0"
ZEROS = {"c": 0, "d": None, "dp": None, "h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}
LENGTHS = {"1": timedelta(minutes=1), "5": timedelta(minutes=5), "D": timedelta(days=1)}


class Finnhub:
    """Quotes, the status of the market, and candles around the clock for paid plans."""

    def __init__(self, now=datetime(2026, 7, 14, 18, 0, tzinfo=UTC), *, premium=True):
        self.now = now
        self.premium = premium
        self.has_market_status = True
        self.prices = {"AAPL": 231.88, "MSFT": 500.0, "BINANCE:BTCUSDT": 118250.01}
        self.day_stamp = timedelta()
        """The time of day of daily candles, in UTC."""
        self.scripted = []
        """The next replies, instead of proper ones."""
        self.headers = {}
        self.requests = []
        paths = {"quote": self._quote, "stock/candle": self._candle, "stock/market-status": self._status}
        self.app = Starlette(routes=[Route(f"/api/v1/{path}", self._guarded(one)) for path, one in paths.items()])

    @asynccontextmanager
    async def serving(self):
        async with serving(self.app) as url:
            yield f"{url}/api/v1"

    def _guarded(self, answer):
        async def guarded(request):
            self.requests.append((request.url.path.removeprefix("/api/v1"), dict(request.query_params)))
            if self.scripted:
                return self.scripted.pop(0)
            key = request.headers.get("x-finnhub-token")
            if key != KEY:
                return JSONResponse({"error": "Invalid API key." if key else "Please use an API key."}, 401)
            status, body = answer(dict(request.query_params))
            return JSONResponse(body, status, headers=self.headers)

        return guarded

    def _quote(self, params):
        price = self.prices.get(params["symbol"])
        if price is None:
            return 200, ZEROS
        at = int(self.now.timestamp()) - 20
        return 200, {"c": price, "d": 1.37, "dp": 0.5943, "h": 232.4, "l": 230.9, "o": 231.12, "pc": 230.51, "t": at}

    def _status(self, _params):
        if not self.has_market_status:
            return 403, {"error": NO_ACCESS}
        status = {"exchange": "US", "timezone": "America/New_York", "session": "regular", "holiday": None}
        return 200, {**status, "isOpen": True, "t": int(self.now.timestamp())}

    def _candle(self, params):
        if not self.premium:
            return 403, {"error": NO_ACCESS}
        length = LENGTHS[params["resolution"]]
        stamp = self.day_stamp if params["resolution"] == "D" else timedelta()
        first, last = (datetime.fromtimestamp(int(params[name]), UTC) for name in ("from", "to"))
        at = datetime.combine(first.date(), datetime.min.time(), UTC) + stamp
        times = []
        while at <= min(last, self.now):
            if at >= first:
                times.append(int(at.timestamp()))
            at += length
        return 200, candles(times) if times and params["symbol"] in self.prices else {"s": "no_data"}


def candles(times):
    """Return candles at these times, in seconds."""
    prices = [100 + time // 60 % 1000 / 100 for time in times]
    return {
        "s": "ok",
        "t": times,
        "o": prices,
        "h": [price + 1 for price in prices],
        "l": [price - 1 for price in prices],
        "c": [price + 0.5 for price in prices],
        "v": [time // 60 % 1000 for time in times],
    }


class FinnhubStream:
    """The stream. `script` gets each connection after its first subscription, and sends what it likes."""

    def __init__(self, script=None):
        self.script = script
        self.refusal = None
        """Status and body that refuse handshakes."""
        self.most_symbols = 50
        self.unknown = set()
        self.received = []
        self.paths = []

    @asynccontextmanager
    async def serving(self):
        async with serve(
            self._handle, "127.0.0.1", 0, process_request=self._check, ping_interval=None, close_timeout=0.1
        ) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def _check(self, _connection, request):
        self.paths.append(request.path)
        if self.refusal is not None:
            status, body = self.refusal
            return Refusal(status, "No", Headers(), body)
        if request.path != f"/?token={KEY}":
            return Refusal(401, "Unauthorized", Headers(), b'{"error":"Invalid API key."}')
        return None

    async def _handle(self, connection):
        subscribed, scripted = set(), None
        try:
            async for message in connection:
                body = orjson.loads(message)
                self.received.append(body)
                if body["symbol"] in self.unknown:
                    await send(connection, {"type": "error", "msg": f"Invalid symbol {body['symbol']}"})
                elif len(subscribed) >= self.most_symbols:
                    await send(connection, {"type": "error", "msg": "Subscribing to too many symbols"})
                else:
                    subscribed.add(body["symbol"])
                if self.script is not None and scripted is None:
                    scripted = asyncio.create_task(self.script(connection))
        except ConnectionClosed:
            pass
        finally:
            if scripted is not None:
                scripted.cancel()
                await asyncio.gather(scripted, return_exceptions=True)


async def send(connection, message):
    await connection.send(message if isinstance(message, str) else orjson.dumps(message).decode())


def sends(*messages, then=None):
    """Return a script that sends these messages."""

    async def script(connection):
        for message in messages:
            await send(connection, message)
        if then is not None:
            await then(connection)

    return script


def trade(symbol, at, price, size, **more):
    return {"s": symbol, "p": price, "t": at, "v": size, **more}


def trades(*rows):
    return {"type": "trade", "data": list(rows)}
