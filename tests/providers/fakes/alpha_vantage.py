"""Alpha Vantage as a server on loopback: its functions, its sentences, and its limits."""

from datetime import date, datetime, timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

KEY = "CANARYAV7F3A91"

DAY_LIMIT = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per day. Please subscribe to"
    " any of the premium plans at https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
)
BURST = (
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly (1 request"
    " per second). You may subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to lift the"
    " free key rate limit (25 requests per day), raise the per-second burst limit, and instantly unlock all premium"
    " endpoints"
)
PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans at"
    " https://www.alphavantage.co/premium/ to instantly unlock all premium endpoints"
)
FULL_IS_PREMIUM = (
    "Thank you for using Alpha Vantage! The outputsize=full parameter value is a premium feature for the"
    " TIME_SERIES_DAILY endpoint. You may subscribe to any of the premium plans"
)
UNKNOWN_SYMBOL = (
    "Invalid API call. Please retry or visit the documentation (https://www.alphavantage.co/documentation/) for {}."
)
NO_KEY = (
    "the parameter apikey is invalid or missing. Please claim your free API key on"
    " (https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
)


class AlphaVantage:
    """A fake that has minute bars of one price per minute, daily bars, and quotes."""

    def __init__(self, *, premium: bool = False, today: date = date(2026, 7, 14), per_day: int = 10_000) -> None:
        self.premium = premium
        self.today = today
        self.per_day = per_day
        self.symbols = {"IBM", "AAPL", "TSCO.LON"}
        self.requests: list[dict[str, str]] = []
        self.scripted: list[Response] = []
        """The next replies, instead of proper ones."""
        self.app = Starlette(routes=[Route("/query", self._query)])

    async def _query(self, request: Request) -> Response:
        params = dict(request.query_params)
        self.requests.append(params)
        if self.scripted:
            return self.scripted.pop(0)
        if not params.get("apikey"):
            return JSONResponse({"Error Message": NO_KEY})
        if len(self.requests) > self.per_day:
            return JSONResponse({"Information": DAY_LIMIT.format(key=params["apikey"])})
        answer = getattr(self, params["function"].lower(), None)
        if answer is None:
            return JSONResponse({"Error Message": f"This API function ({params['function']}) does not exist."})
        return JSONResponse(answer(params))

    def global_quote(self, params: dict[str, str]) -> dict:
        if params["symbol"] not in self.symbols:
            return {"Global Quote": {}}
        name = "Global Quote" + (" - DATA DELAYED BY 15 MINUTES" if params.get("entitlement") == "delayed" else "")
        return {
            name: {
                "01. symbol": params["symbol"],
                "02. open": "287.2000",
                "03. high": "289.0000",
                "04. low": "286.5000",
                "05. price": "288.0500",
                "06. volume": "3011224",
                "07. latest trading day": self.today.isoformat(),
                "08. previous close": "286.9000",
                "09. change": "1.1500",
                "10. change percent": "0.4008%",
            }
        }

    def realtime_bulk_quotes(self, params: dict[str, str]) -> dict:
        if not self.premium:
            return {"Information": PREMIUM}
        row = {
            "timestamp": f"{self.today} 16:05:01.250",
            "open": "287.2",
            "close": "288.05",
            "volume": "3011224",
            "change_percent": "0.4008",
        }
        rows = [{"symbol": one, **row} for one in params["symbol"].split(",")[:100] if one in self.symbols]
        return {"endpoint": "Realtime Bulk Quotes", "message": "success", "data": rows}

    def time_series_daily(self, params: dict[str, str]) -> dict:
        if params["symbol"] not in self.symbols:
            return {"Error Message": UNKNOWN_SYMBOL.format("TIME_SERIES_DAILY")}
        if params.get("outputsize") == "full" and not self.premium:
            return {"Information": FULL_IS_PREMIUM}
        days = (self.today - timedelta(days=back) for back in range(3_000))
        weekdays = [day for day in days if day.weekday() < 5]
        rows = weekdays if params.get("outputsize") == "full" else weekdays[:100]
        return {
            "Meta Data": {"2. Symbol": params["symbol"], "4. Output Size": "Full size", "5. Time Zone": "US/Eastern"},
            "Time Series (Daily)": {day.isoformat(): _row(day.toordinal() % 50) for day in rows},
        }

    def time_series_intraday(self, params: dict[str, str]) -> dict:
        if not self.premium:
            return {"Information": PREMIUM}
        minutes = int(params["interval"].removesuffix("min"))
        first = datetime.fromisoformat(f"{params['month']}-01 09:30:00")
        times = []
        while f"{first:%Y-%m}" == params["month"] and first.date() <= self.today:
            if first.weekday() < 5:
                times += [first + timedelta(minutes=minutes * n) for n in range(390 // minutes)]
            first += timedelta(days=1)
        if params.get("outputsize") != "full":
            times = times[-100:]
        return {
            "Meta Data": {
                "2. Symbol": params["symbol"],
                "4. Interval": params["interval"],
                "6. Time Zone": "US/Eastern",
            },
            f"Time Series ({params['interval']})": {f"{at}": _row(at.minute) for at in reversed(times)},
        }


def _row(offset: int) -> dict[str, str]:
    price = 200 + offset
    return {
        "1. open": f"{price}.1000",
        "2. high": f"{price + 2}.2500",
        "3. low": f"{price - 1}.0500",
        "4. close": f"{price + 1}.0000",
        "5. volume": f"{1000 + offset}",
    }
