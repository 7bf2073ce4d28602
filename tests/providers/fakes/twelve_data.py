"""Twelve Data as servers on loopback: its REST API and its stream, told to misbehave by the attributes."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import orjson
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response as Refusal

from providers.fakes.http_server import serving

KEY = "CANARY-td-51f0c2"
NEW_YORK = ZoneInfo("America/New_York")
LENGTHS = {"1min": timedelta(minutes=1), "5min": timedelta(minutes=5), "1day": timedelta(days=1)}
MINUTE_USED_UP = (
    "You have run out of API credits for the current minute. {used} API credits were used, with the current limit"
    " being 8. Wait for the next minute or consider upgrading your plan at https://twelvedata.com/pricing"
)
DAY_USED_UP = (
    "You have run out of API credits for the day. 801 API credits were used, with the current limit being 800."
    " Wait for the next day or consider upgrading your plan at https://twelvedata.com/pricing"
)
WRONG_KEY = (
    "**apikey** parameter is incorrect or not specified. You can get your free API key instantly following this link:"
    " https://twelvedata.com/pricing."
)
UNKNOWN_SYMBOL = (
    "**symbol** or **figi** parameter is missing or invalid. Please provide a valid symbol according to API"
    " documentation: https://twelvedata.com/docs#reference-data"
)
NO_DATA = "No data is available on the specified dates. Try setting different start/end dates."
OTHER_PLAN = "This symbol is available starting with Grow plan. Upgrade now at https://twelvedata.com/pricing"


def error(code, message, **more):
    return {"code": code, "message": message, "status": "error", **more}


class TwelveData:
    """Bars of every minute of the New York session, or of every minute of the day for pairs, up to `now`."""

    def __init__(self, now=datetime(2026, 7, 14, 18, 0, tzinfo=UTC), rows=5_000):
        self.now = now
        self.rows = rows
        """The most rows of a symbol in a reply."""
        self.symbols = {"AAPL", "MSFT", "RY:TSX", "EUR/USD", "BTC/USD"}
        self.refused = {"SHEL": error(404, OTHER_PLAN)}
        """The errors of symbols in a reply."""
        self.errors_have_status_200 = False
        self.includes_end = True
        self.per_minute = 10_000
        """Credits of all requests together; the fake has no clock of its own."""
        self.without_volume = {"EUR/USD"}
        self.scripted = []
        """The next replies, instead of proper ones."""
        self.requests = []
        self.credits = Counter()
        routes = [Route(f"/{name}", self._answer) for name in ("time_series", "quote", "price", "api_usage")]
        self.app = Starlette(routes=routes)

    @asynccontextmanager
    async def serving(self):
        async with serving(self.app) as url:
            yield url

    async def _answer(self, request):
        params = {name.lower(): value for name, value in request.query_params.items()}
        path = request.url.path
        self.requests.append((path, params))
        if self.scripted:
            return self.scripted.pop(0)
        if request.headers.get("authorization") != f"apikey {KEY}":
            return self._error(401, WRONG_KEY)
        symbols = params["symbol"].split(",") if "symbol" in params else [""]
        used = sum(self.credits.values())
        if used + len(symbols) > self.per_minute:
            return self._error(429, MINUTE_USED_UP.format(used=used + len(symbols)))
        self.credits[path] += len(symbols)
        parts = {symbol: getattr(self, path[1:])(symbol, params) for symbol in symbols}
        headers = {"api-credits-used": str(used + len(symbols)), "api-credits-left": "5"}
        if len(symbols) > 1:
            return JSONResponse(parts, headers=headers | {"is_batch": "true"})
        (part,) = parts.values()
        return self._error(part["code"], part["message"]) if "code" in part else JSONResponse(part, headers=headers)

    def _error(self, code, message):
        return JSONResponse(error(code, message), 200 if self.errors_have_status_200 else code)

    def api_usage(self, _symbol, _params):
        return {
            "timestamp": f"{self.now:%Y-%m-%d %H:%M:%S}",
            "current_usage": 3,
            "plan_limit": 8,
            "daily_usage": 57,
            "plan_daily_limit": 800,
            "plan_category": "basic",
        }

    def price(self, symbol, _params):
        return self.refused.get(symbol) or self._unknown(symbol) or {"price": "231.88000"}

    def quote(self, symbol, _params):
        if (refused := self.refused.get(symbol) or self._unknown(symbol)) is not None:
            return refused
        return {
            "symbol": symbol.partition(":")[0],
            "name": "Some Inc",
            "datetime": "2026-07-14",
            "timestamp": 1784035800,
            "last_quote_at": int(self.now.timestamp()) - 20,
            "open": "231.12000",
            "high": "232.40000",
            "low": "230.89999",
            "close": "231.88000",
            "volume": "12873110",
            "previous_close": "230.51000",
            "change": "1.37000",
            "percent_change": "0.59433",
            "is_market_open": True,
            "fifty_two_week": {"low": "169.21000", "high": "260.10001"},
        }

    def time_series(self, symbol, params):
        if (refused := self.refused.get(symbol) or self._unknown(symbol)) is not None:
            return refused
        starts = self.starts(symbol, params["interval"])
        zone = ZoneInfo("UTC") if "/" in symbol else NEW_YORK
        daily = params["interval"] == "1day"
        asked = zone if daily or params.get("timezone", "Exchange") == "Exchange" else ZoneInfo(params["timezone"])
        if "start_date" in params:
            first = datetime.fromisoformat(params["start_date"]).replace(tzinfo=asked)
            last = datetime.fromisoformat(params["end_date"]).replace(tzinfo=asked)
            before = (lambda one: one <= last) if self.includes_end and not daily else (lambda one: one < last)
            starts = [one for one in starts if first <= one and before(one)]
        starts = starts[-min(int(params.get("outputsize", 30)), self.rows) :]
        if not starts:
            return error(400, NO_DATA)
        values = [self.row(symbol, one, asked, daily=daily) for one in starts]
        meta = {"symbol": symbol, "interval": params["interval"], "type": "Common Stock"}
        if "/" not in symbol:
            meta |= {"currency": "USD", "exchange_timezone": "America/New_York", "exchange": "NASDAQ"}
        else:
            meta |= {"currency_base": "Euro", "currency_quote": "US Dollar", "type": "Physical Currency"}
        return {"meta": meta, "values": values if params.get("order") == "asc" else values[::-1], "status": "ok"}

    def starts(self, symbol, interval, days=30):
        """Return the starts of all bars, ascending: of the session, or of the whole day for pairs."""
        zone = ZoneInfo("UTC") if "/" in symbol else NEW_YORK
        today = self.now.astimezone(zone).date()
        dates = [today - timedelta(days=back) for back in range(days, -1, -1)]
        midnights = [datetime(one.year, one.month, one.day, tzinfo=zone) for one in dates]
        if "/" not in symbol:
            midnights = [one for one in midnights if one.weekday() < 5]
        if interval == "1day":
            return midnights
        opens, length = (
            (timedelta(), timedelta(days=1)) if "/" in symbol else (timedelta(hours=9.5), timedelta(hours=6.5))
        )
        step = LENGTHS[interval]
        found = [one + opens + step * at for one in midnights for at in range(length // step)]
        return [one.astimezone(UTC) for one in found if one <= self.now]

    def row(self, symbol, start, zone, *, daily):
        cents = int(start.timestamp()) // 60 % 1000
        row = {
            "datetime": f"{start.astimezone(zone):%Y-%m-%d}"
            if daily
            else f"{start.astimezone(zone):%Y-%m-%d %H:%M:%S}",
            "open": f"{230 + cents / 100:.5f}",
            "high": f"{231 + cents / 100:.5f}",
            "low": f"{229 + cents / 100:.5f}",
            "close": f"{230.5 + cents / 100:.5f}",
        }
        return row if symbol in self.without_volume else row | {"volume": str(1000 + cents)}

    def _unknown(self, symbol):
        return None if symbol in self.symbols else error(404, UNKNOWN_SYMBOL, meta={"symbol": symbol})


class TwelveDataStream:
    """The stream. `script` gets each connection after its first subscription, and sends what it likes."""

    def __init__(self, script=None):
        self.script = script
        self.symbols = {"AAPL", "MSFT", "RY", "EUR/USD"}
        self.refusal = None
        """Status and body that refuse handshakes."""
        self.status = None
        """The answer to a subscription, instead of a proper one."""
        self.answers_heartbeats = True
        self.received = []
        self.connections = []
        self.paths = []

    @asynccontextmanager
    async def serving(self):
        async with serve(
            self._handle, "127.0.0.1", 0, process_request=self._check, ping_interval=None, close_timeout=0.1
        ) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/quotes/price"

    def _check(self, _connection, request):
        self.paths.append(request.path)
        if self.refusal is not None:
            status, body = self.refusal
            return Refusal(status, "No", Headers(), body)
        if request.headers.get("X-TD-APIKEY") != KEY:
            return Refusal(401, "Unauthorized", Headers(), orjson.dumps(error(401, WRONG_KEY)))
        return None

    async def _handle(self, connection):
        self.connections.append(connection)
        scripted = None
        try:
            async for message in connection:
                body = orjson.loads(message)
                self.received.append(body)
                if body["action"] == "heartbeat":
                    if self.answers_heartbeats:
                        await connection.send('{"event":"heartbeat","status":"ok"}')
                elif body["action"] == "subscribe":
                    await connection.send(orjson.dumps(self.status or self._status(body)).decode())
                    if self.script is not None and scripted is None:
                        scripted = asyncio.create_task(self.script(connection))
        except ConnectionClosed:
            pass
        finally:
            if scripted is not None:
                scripted.cancel()
                await asyncio.gather(scripted, return_exceptions=True)

    def _status(self, body):
        names = [one.partition(":") for one in body["params"]["symbols"].split(",")]
        known = [{"symbol": name, "exchange": venue or "NASDAQ"} for name, _, venue in names if name in self.symbols]
        fails = [{"symbol": name} for name, _, _ in names if name not in self.symbols]
        return {"event": "subscribe-status", "status": "ok" if known else "error", "success": known, "fails": fails}


def price(symbol, at, value, **more):
    return {
        "event": "price",
        "symbol": symbol,
        "currency": "USD",
        "exchange": "NASDAQ",
        "type": "Common Stock",
        "timestamp": at,
        "price": value,
        **more,
    }


__all__ = ["KEY", "Response", "TwelveData", "TwelveDataStream", "error", "price"]
