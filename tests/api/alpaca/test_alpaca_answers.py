"""Alpaca's REST API as its documentation describes it: shapes, pages, errors, headers."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

MONDAY = datetime(2026, 7, 13, 13, 30, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)
SYMBOLS = ("AAPL", "BRK.B", "MSFT")
MINUTES = 5


def ticks(symbol: str, start: datetime, price: float) -> list[dict[str, Any]]:
    return [
        {
            "symbol": symbol,
            "ts": (start + timedelta(minutes=at, microseconds=86_175)).isoformat(),
            "price": price + at,
            "size": 10 + at,
            "exchange": "V",
            "trade_id": f"{71675241580934 + at}" if symbol != "MSFT" else f"m-{at}",
            "conditions": ["@", "I"] if at == MINUTES - 1 else ["@"],
            "tape": "C",
        }
        for at in range(MINUTES)
    ]


@pytest.fixture
async def market(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Two days of three symbols, with an odd lot as the newest trade of each."""
    rows = [
        tick for name in SYMBOLS for day, price in ((MONDAY, 100), (TUESDAY, 110)) for tick in ticks(name, day, price)
    ]
    parameters = {"provider": "recorded", "clock": "event", "conditions": "alpaca", "end_of_stream": True}
    sent = await client.post("/ticks", json=rows, params=parameters)
    assert sent.json()["accepted"] == len(rows), sent.text
    return client


async def get(client: httpx2.AsyncClient, path: str, **parameters: Any) -> Any:
    reply = await client.get(path, params=parameters or None)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def pages(client: httpx2.AsyncClient, path: str, **parameters: Any) -> list[Any]:
    """Return all pages; every request but the first has the token of the page before."""
    found: list[Any] = []
    token = None
    while token or not found:
        assert len(found) < 100, "the pages have no end"
        found.append(await get(client, path, **parameters | ({"page_token": token} if token else {})))
        token = found[-1]["next_page_token"]
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("kind", ["bars", "trades"])
async def test_pages_are_by_symbol_then_by_time(market: httpx2.AsyncClient, kind: str, sort: str) -> None:
    asked = {"symbols": "MSFT,AAPL,BRK.B", "start": "2026-07-13", "sort": sort}
    if kind == "bars":
        asked["timeframe"] = "1Min"
    whole = await get(market, f"/v2/stocks/{kind}", **asked)
    assert whole["next_page_token"] is None
    in_order = [(name, row["t"]) for name, rows in whole[kind].items() for row in rows]
    assert in_order == [
        item for _, group in itertools.groupby(sorted(in_order), lambda one: one[0])
        for item in sorted(group, reverse=sort == "desc")
    ]  # fmt: skip
    assert len(in_order) == (len(SYMBOLS) * 2 * (MINUTES - 1) if kind == "bars" else len(SYMBOLS) * 2 * MINUTES)
    for limit in (1, 4, 7):
        parts = await pages(market, f"/v2/stocks/{kind}", **asked, limit=limit)
        assert all(sum(map(len, page[kind].values())) <= limit for page in parts)
        joined = [(name, row) for page in parts for name, rows in page[kind].items() for row in rows]
        assert joined == [(name, row) for name, rows in whole[kind].items() for row in rows]


async def test_a_bar_and_a_trade_have_alpacas_fields(market: httpx2.AsyncClient) -> None:
    bars = await get(market, "/v2/stocks/BRK.B/bars", timeframe="1Min", start=MONDAY.isoformat(), limit=1)
    assert bars["symbol"] == "BRK.B"
    bar = {"t": "2026-07-13T13:30:00Z", "o": 100.0, "h": 100.0, "l": 100.0, "c": 100.0, "v": 10, "n": 1, "vw": 100.0}
    assert bars["bars"] == [bar]
    assert all(type(bars["bars"][0][name]) is int for name in "vn")
    trades = await get(market, "/v2/stocks/AAPL/trades", start="2026-07-14", limit=1)
    assert trades["trades"] == [
        {"t": "2026-07-14T13:30:00.086175Z", "x": "V", "p": 110.0, "s": 10, "c": ["@"], "i": 71675241580934, "z": "C"}
    ]


async def test_the_id_of_a_trade_is_always_an_integer(market: httpx2.AsyncClient) -> None:
    trades = (await get(market, "/v2/stocks/MSFT/trades", start="2026-07-13"))["trades"]
    assert len({trade["i"] for trade in trades}) == len(trades) == 2 * MINUTES
    assert all(type(trade["i"]) is int for trade in trades)


async def test_both_ends_are_included_and_a_date_is_the_exchanges_day(market: httpx2.AsyncClient) -> None:
    minute = "2026-07-13T13:31:00Z"
    one = await get(market, "/v2/stocks/AAPL/bars", timeframe="1T", start=minute, end=minute)
    assert [bar["t"] for bar in one["bars"]] == [minute]
    days = await get(market, "/v2/stocks/AAPL/bars", timeframe="1D", start="2026-07-13", end="2026-07-13")
    assert [bar["t"] for bar in days["bars"]] == ["2026-07-13T04:00:00Z"]


async def test_an_odd_lot_is_never_the_newest_trade(market: httpx2.AsyncClient) -> None:
    newest = await get(market, "/v2/stocks/trades/latest", symbols="AAPL,MSFT,NONE")
    assert {name: trade["p"] for name, trade in newest["trades"].items()} == {"AAPL": 113.0, "MSFT": 113.0}
    assert (await get(market, "/v2/stocks/AAPL/trades/latest"))["trade"] == newest["trades"]["AAPL"]


async def test_snapshots_are_a_map_without_a_wrapper(market: httpx2.AsyncClient) -> None:
    found = await get(market, "/v2/stocks/snapshots", symbols="AAPL,NONE")
    assert found.keys() == {"AAPL", "NONE"}
    assert found["NONE"] is None
    one = found["AAPL"]
    assert one["minuteBar"]["t"] == "2026-07-14T13:33:00Z"
    assert (one["prevDailyBar"]["c"], one["dailyBar"]["c"]) == (103.0, 113.0)
    assert await get(market, "/v2/stocks/AAPL/snapshot") == {"symbol": "AAPL"} | one
    assert (await get(market, "/v2/stocks/AAPL/bars/latest"))["bar"] == one["minuteBar"]


async def test_screeners_compare_the_two_newest_days(market: httpx2.AsyncClient) -> None:
    movers = await get(market, "/v1beta1/screener/stocks/movers", top=2)
    assert movers["gainers"] == [
        {"symbol": name, "price": 113.0, "change": 10.0, "percent_change": 9.71} for name in ("AAPL", "BRK.B")
    ]
    assert (movers["losers"], movers["market_type"]) == ([], "stocks")
    assert (await get(market, "/v1beta1/screener/crypto/movers"))["gainers"] == []
    active = await get(market, "/v1beta1/screener/stocks/most-actives", by="trades", top=1)
    assert active["most_actives"] == [{"symbol": "AAPL", "volume": 60.0, "trade_count": 5}]


@pytest.mark.parametrize(
    ("path", "empty"),
    [
        ("/v2/stocks/quotes?symbols=AAPL", {"quotes": {}, "next_page_token": None}),
        ("/v2/stocks/AAPL/quotes", {"quotes": None, "symbol": "AAPL", "next_page_token": None}),
        ("/v2/stocks/quotes/latest?symbols=AAPL", {"quotes": {}}),
        ("/v2/stocks/auctions?symbols=AAPL", {"auctions": {}, "next_page_token": None}),
        ("/v2/stocks/AAPL/auctions", {"auctions": None, "symbol": "AAPL", "next_page_token": None}),
        ("/v1/corporate-actions?symbols=AAPL", {"corporate_actions": {}, "next_page_token": None}),
        ("/v2/stocks/bars?symbols=NONE&timeframe=1Min", {"bars": {}, "next_page_token": None}),
        ("/v2/stocks/NONE/bars?timeframe=1Min", {"bars": None, "symbol": "NONE", "next_page_token": None}),
    ],
)
async def test_answers_without_data(client: httpx2.AsyncClient, path: str, empty: dict[str, Any]) -> None:
    assert await get(client, path) == empty


async def test_codes(client: httpx2.AsyncClient) -> None:
    assert (await get(client, "/v2/stocks/meta/exchanges"))["V"] == "IEX"
    assert (await get(client, "/v2/stocks/meta/conditions/trade", tape="C"))["@"] == "Regular Sale"
    assert (await get(client, "/v2/stocks/meta/conditions/trade", tape="A"))[" "] == "Regular Sale"
    assert await get(client, "/v2/stocks/meta/conditions/quote", tape="A") == {}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v2/stocks/bars?symbols=AAPL,A APL&timeframe=1Min", 400, "invalid symbol: 'A APL'"),
        ("/v2/stocks/bars?symbols=AAPL", 400, "timeframe: is required"),
        ("/v2/stocks/bars?symbols=AAPL&timeframe=5Hour", 400, "timeframe: got '5Hour'"),
        ("/v2/stocks/bars?symbols=AAPL&timeframe=1Min&limit=10001", 400, "limit: takes less than or equal to 10000"),
        ("/v2/stocks/bars?symbols=AAPL&timeframe=1Min&page_token=x", 400, "page_token: got 'x'"),
        ("/v2/stocks/trades?symbols=AAPL&page_token=null", 400, "page_token: got 'null'"),
        ("/v2/stocks/trades?symbols=AAPL&start=soon", 400, "start: got 'soon'"),
        ("/v2/stocks/trades?symbols=AAPL&start=2026-07-14&end=2026-07-13", 400, "end: is before start"),
        ("/v2/stocks/trades?symbols=AAPL&feed=all", 400, "feed: takes"),
        ("/v2/stocks/trades?symbols=AAPL&currency=EUR", 400, "invalid currency: 'EUR'"),
        ("/v2/stocks/bars?symbols=AAPL&timeframe=1Min&adjustment=none", 400, "invalid adjustment: 'none'"),
        ("/v2/stocks/bars?symbols=AAPL&timeframe=1Min&asof=today", 400, "asof: got 'today'"),
        ("/v2/stocks/NONE/trades/latest", 404, "no trade found for NONE"),
        ("/v2/stocks/NONE/quotes/latest", 404, "no quote found for NONE"),
        ("/v2/account", 404, "Not Found"),
    ],
)
async def test_errors_have_a_message(client: httpx2.AsyncClient, path: str, status: int, message: str) -> None:
    reply = await client.get(path)
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"message"}
    assert reply.json()["message"].startswith(message)


async def test_every_answer_has_the_headers_of_the_rate_limit(client: httpx2.AsyncClient) -> None:
    for path in ("/v2/stocks/meta/exchanges", "/v2/stocks/bars?symbols="):
        headers = (await client.get(path)).headers
        assert int(headers["X-RateLimit-Remaining"]) <= int(headers["X-RateLimit-Limit"])
        assert int(headers["X-RateLimit-Reset"]) > datetime.now(UTC).timestamp()


async def test_only_our_names_are_answered(client: httpx2.AsyncClient) -> None:
    reply = await client.get("/v2/stocks/meta/exchanges", headers={"Host": "data.alpaca.markets"})
    assert reply.status_code == 421


async def test_the_document_describes_every_path(client: httpx2.AsyncClient) -> None:
    document = await get(client, "/v2/openapi.json")
    assert len(document["paths"]) == 21
    assert all("200" in path["get"]["responses"] for path in document["paths"].values())
    assert (await client.get("/v2/docs")).status_code == 200
    assert not any(path.startswith("/v2") for path in (await get(client, "/openapi.json"))["paths"])


async def test_a_request_is_counted_by_its_route(client: httpx2.AsyncClient) -> None:
    await get(client, "/v2/stocks/trades/latest", symbols="AAPL")
    assert 'route="/v2/stocks/trades/latest"' in (await client.get("/metrics")).text
