"""Yahoo's chart API as a server on loopback: its shapes, its refusals, its windows."""

from datetime import UTC, datetime, time, timedelta
from urllib.parse import unquote
from zoneinfo import ZoneInfo

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

NEW_YORK = ZoneInfo("America/New_York")
CRUMB = "CANARYcrumb.3"
SECONDS = {"1m": 60, "5m": 300}


class Yahoo:
    """A fake with sessions of New York from 09:30 to 16:00 on weekdays, at a price of 100 plus the row's number."""

    def __init__(self, now: datetime = datetime(2026, 7, 14, 22, 0, tzinfo=UTC), *, needs_crumb: bool = False) -> None:
        self.now = now
        self.needs_crumb = needs_crumb
        self.symbols = {"AAPL", "^GSPC", "EURUSD=X", "BRK-B", "SPY"}
        self.requests: list[Request] = []
        self.paths: list[str] = []
        self.scripted: list[Response] = []
        self.app = Starlette(
            routes=[
                Route("/v8/finance/chart/{symbol:path}", self._chart),
                Route("/v1/test/getcrumb", self._crumb),
                Route("/cookie", self._cookie),
            ]
        )

    async def _cookie(self, request: Request) -> Response:
        self.paths.append("/cookie")
        return PlainTextResponse("", 404, headers={"Set-Cookie": "A3=canary; Path=/"})

    async def _crumb(self, request: Request) -> Response:
        self.paths.append("/crumb")
        return PlainTextResponse(CRUMB if request.cookies.get("A3") == "canary" else "<html>consent", 200)

    async def _chart(self, request: Request) -> Response:
        self.requests.append(request)
        self.paths.append(request.scope["raw_path"].decode())
        if not request.headers.get("user-agent", "").startswith("Mozilla/"):
            return PlainTextResponse("Too Many Requests", 429)
        if self.scripted:
            return self.scripted.pop(0)
        if self.needs_crumb and not (
            request.cookies.get("A3") == "canary" and request.query_params.get("crumb") == CRUMB
        ):
            return error("Unauthorized", "Invalid Crumb", 401, root="finance")
        symbol = unquote(request.path_params["symbol"])
        if symbol not in self.symbols:
            return error("Not Found", "No data found, symbol may be delisted", 404)
        params = request.query_params
        if "range" in params:
            return JSONResponse(chart([], meta=self._meta(symbol)))
        return self._bars(symbol, params["interval"], int(params["period1"]), int(params["period2"]))

    def _bars(self, symbol: str, interval: str, start: int, end: int) -> Response:
        now = int(self.now.timestamp())
        if interval == "1m" and end - start > 8 * 86_400:
            return error(
                "Unprocessable Entity",
                f"1m data not available for startTime={start} and endTime={end}. Only 8"
                " days worth of 1m granularity data are allowed to be fetched per request.",
                422,
            )
        if interval in ("1m", "5m") and start < now - {"1m": 30, "5m": 60}[interval] * 86_400:
            return error(
                "Unprocessable Entity",
                f"{interval} data not available for startTime={start} and endTime={end}."
                f" The requested range must be within the last {30 if interval == '1m' else 60} days.",
                422,
            )
        day = datetime.fromtimestamp(start, NEW_YORK).date() - timedelta(days=1)
        times = []
        while (opens := int(datetime.combine(day, time(9, 30), NEW_YORK).timestamp())) < min(end, now):
            if day.weekday() < 5:
                step = SECONDS.get(interval, 23_400)
                times += [t for t in range(opens, opens + 23_400, step) if start <= t < min(end, now)]
            day += timedelta(days=1)
        if not times:
            return JSONResponse(chart(None, meta=self._meta(symbol)))
        return JSONResponse(chart([(t, 100 + t // 60 % 400) for t in times], meta=self._meta(symbol)))

    def _meta(self, symbol: str) -> dict:
        return {
            "currency": "USD",
            "symbol": symbol,
            "exchangeTimezoneName": "America/New_York",
            "gmtoffset": -14400,
            "regularMarketPrice": 231.88,
            "regularMarketTime": 1784059200,
            "range": "",
        }


def chart(rows, *, meta=None, **more) -> dict:
    """A reply; `rows` are (t, price) or (t, open, high, low, close, volume); None for a range without sessions."""
    result: dict = {"meta": {"exchangeTimezoneName": "America/New_York", **(meta or {})}, "indicators": {"quote": [{}]}}
    if rows is not None:
        full = [row if len(row) == 6 else (row[0], row[1], row[1] + 2, row[1] - 1, row[1] + 1, 1000) for row in rows]
        names = ("open", "high", "low", "close", "volume")
        result["timestamp"] = [row[0] for row in full]
        result["indicators"]["quote"] = [{name: [row[at] for row in full] for at, name in enumerate(names, 1)}]
    return {"chart": {"result": [result | more], "error": None}}


def error(code: str, description: str, status: int, root: str = "chart") -> JSONResponse:
    return JSONResponse({root: {"result": None, "error": {"code": code, "description": description}}}, status)
