"""The provider `yahoo` against a server on loopback that speaks as Yahoo does."""

import itertools
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from providers.fakes.http_server import Waits, serving
from providers.fakes.yahoo import CRUMB, Yahoo, error
from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    ProviderFault,
    RateLimited,
    UnknownSymbol,
    Unreachable,
)
from stockpulse.providers.registry import installed_providers
from stockpulse.providers.transport.transport import Transport
from stockpulse.providers.yahoo.provider import YAHOO

NOW = datetime(2026, 7, 14, 22, 0, tzinfo=UTC)


class Clock:
    def __init__(self, waits):
        self.waits = waits

    def __call__(self):
        return NOW + timedelta(seconds=self.waits.now)


@asynccontextmanager
async def provider_of(fake, **options):
    replies, waits = [], Waits()
    async with serving(fake.app) as url:
        transport = Transport(
            now=Clock(waits),
            sleep=waits.sleep,
            clock=lambda: waits.now,
            on_reply=lambda reply, outcome: replies.append((reply, outcome)),
        )
        defaults = {option.name: option.default or "" for option in YAHOO.options}
        chosen = {**defaults, "url": url, "cookie_url": f"{url}/cookie", **options}
        provider = YAHOO.create(ProviderConfig((), now=Clock(waits), transport=transport, options=chosen))
        provider.replies, provider.waits = replies, waits
        try:
            yield provider
        finally:
            await provider.close()


async def bars(provider, interval, start, end, symbol="AAPL"):
    return pl.concat([BARS.to_frame(), *[one async for one in provider.history((symbol,), interval, start, end)]])


def day(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_it_is_registered_under_the_names_that_people_know():
    assert installed_providers().named("yahoo") is installed_providers().named("yfinance") is YAHOO
    assert not YAHOO.capabilities.ticks
    assert all(option.default is not None for option in YAHOO.options)  # it needs no key


@pytest.mark.parametrize(
    ("option", "value"), [("per_minute", "0"), ("extended", "maybe"), ("url", "yahoo"), ("cookie_url", "")]
)
async def test_a_wrong_option_names_its_variable(option, value):
    with pytest.raises(InvalidInput, match=f"STOCKPULSE_YAHOO_{option.upper()}: got '{value}'"):
        async with provider_of(Yahoo(), **{option: value}):
            pass


# Faults -----------------------------------------------------------------------------------------

WINDOW = "1m data not available for startTime=1 and endTime=2. Only 8 days worth of 1m granularity data are allowed"


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (error("Not Found", "No data found, symbol may be delisted", 404), UnknownSymbol),
        (error("Not Found", "No data found, symbol may be delisted", 200), UnknownSymbol),
        (error("Unprocessable Entity", f"{WINDOW} to be fetched per request.", 422), BadRequest),
        (error("Unprocessable Entity", "The requested range must be within the last 730 days.", 422), BadRequest),
        (
            error("Bad Request", "Invalid input - interval=7m is not supported. Valid intervals: [1m, 4h]", 400),
            BadRequest,
        ),
        (error("Bad Request", "Invalid input - interval=7m is not supported.", 422), BadRequest),
        (error("Strange", "never seen", 400), BadRequest),
        (error("Internal", "oh", 500), Unreachable),
        (PlainTextResponse("Too Many Requests", 429), RateLimited),
        (PlainTextResponse("Edge: Too Many Requests", 429), RateLimited),
        (PlainTextResponse("Edge: Too Many Requests", 200), RateLimited),
        (Response(b"<html>Will be right back", 200), BadReply),
        (Response(b"<html>Will be right back", 502), Unreachable),
        (PlainTextResponse("", 404), UnknownSymbol),
        (PlainTextResponse("", 403), NotEntitled),
        (PlainTextResponse("", 414), BadRequest),
        (Response(b"", 302, {"Location": "https://guce.invalid/consent"}), BadReply),
        (JSONResponse({"chart": {"result": None, "error": "plain"}}), BadRequest),
        (JSONResponse({"chart": {"result": None, "error": None}}), BadReply),
        (JSONResponse({"chart": {"result": [], "error": None}}), BadReply),
        (JSONResponse([]), BadReply),
    ],
)
async def test_faults(reply, fault):
    fake = Yahoo()
    fake.scripted = [reply] * 4
    async with provider_of(fake) as provider:
        with pytest.raises(ProviderFault) as raised:
            await provider.latest(["AAPL"])
    assert type(raised.value) is fault


async def test_an_unknown_symbol_is_named():
    async with provider_of(Yahoo()) as provider:
        with pytest.raises(UnknownSymbol) as raised:
            await provider.latest(["NOPE"])
    assert raised.value.symbol == "NOPE"


async def test_the_same_status_and_code_can_mean_an_empty_range():
    fake = Yahoo()
    fake.scripted = [error("Bad Request", "Data doesn't exist for startDate = 1, endDate = 2", 400)]
    async with provider_of(fake) as provider:
        assert len(await bars(provider, "1d", day("2026-07-01"), day("2026-07-10"))) == 0


async def test_after_a_refusal_nothing_is_sent_for_minutes_and_longer_each_time():
    fake = Yahoo()
    fake.scripted = [PlainTextResponse("Too Many Requests", 429) for _ in range(2)]
    async with provider_of(fake) as provider:
        for minutes in (5, 10):
            with pytest.raises(RateLimited) as raised:
                await provider.latest(["AAPL"])
            assert raised.value.until == provider._now() + timedelta(minutes=minutes)
            sent = len(fake.requests)
            with pytest.raises(RateLimited, match="yahoo gets no requests until"):
                await provider.latest(["AAPL"])
            assert len(fake.requests) == sent
            provider.waits.now += minutes * 60
        assert len(await provider.latest(["AAPL"])) == 1
        fake.scripted = [PlainTextResponse("Too Many Requests", 429)]
        with pytest.raises(RateLimited) as raised:
            await provider.latest(["AAPL"])
        assert raised.value.until == provider._now() + timedelta(minutes=5)  # a success resets it


async def test_failures_in_a_row_open_the_circuit():
    fake = Yahoo()
    fake.scripted = [Response(b"", 503)] * 99
    async with provider_of(fake) as provider:
        for _ in range(5):
            with pytest.raises(Unreachable):
                await provider.latest(["AAPL"])
        sent = len(fake.requests)
        with pytest.raises(RateLimited):
            await provider.latest(["AAPL"])
    assert len(fake.requests) == sent == 20


# Requests ---------------------------------------------------------------------------------------


async def test_requests_look_like_those_of_a_browser():
    fake = Yahoo()
    async with provider_of(fake) as provider:
        await provider.latest(["AAPL"])
    assert fake.requests[0].headers["user-agent"].startswith("Mozilla/5.0")


@pytest.mark.parametrize(("symbol", "path"), [("^GSPC", "%5EGSPC"), ("EURUSD=X", "EURUSD%3DX"), ("BRK-B", "BRK-B")])
async def test_symbols_are_encoded(symbol, path):
    fake = Yahoo()
    async with provider_of(fake) as provider:
        ticks = await provider.latest([symbol])
    assert fake.paths == [f"/v8/finance/chart/{path}"]
    assert ticks["symbol"].to_list() == [symbol]


async def test_a_chart_needs_no_cookie():
    fake = Yahoo()
    async with provider_of(fake) as provider:
        await provider.latest(["AAPL"])
    assert fake.paths == ["/v8/finance/chart/AAPL"]
    assert "crumb" not in fake.requests[0].query_params


async def test_where_yahoo_wants_a_cookie_it_gets_one_once():
    fake = Yahoo(needs_crumb=True)
    async with provider_of(fake) as provider:
        for _ in range(2):
            assert len(await provider.latest(["AAPL"])) == 1
    chart = "/v8/finance/chart/AAPL"
    assert fake.paths == [chart, "/cookie", "/crumb", chart, chart]
    assert CRUMB not in repr([reply.params for reply, _ in provider.replies])


@pytest.mark.parametrize("crumb", ["<html>consent</html>", "Too Many Requests", ""])
async def test_a_page_is_no_crumb(crumb):
    fake = Yahoo(needs_crumb=True)
    fake.app.router.routes[1].app = PlainTextResponse(crumb)
    async with provider_of(fake) as provider:
        with pytest.raises((Unreachable, RateLimited)):
            await provider.latest(["AAPL"])


async def test_a_crumb_that_does_not_help_is_said():
    fake = Yahoo(needs_crumb=True)
    fake.scripted = [error("Unauthorized", "Invalid Crumb", 401, root="finance") for _ in range(2)]
    async with provider_of(fake) as provider:
        with pytest.raises(Unreachable, match="a cookie did not help"):
            await provider.latest(["AAPL"])


async def test_requests_are_a_second_apart():
    async with provider_of(Yahoo()) as provider:
        for _ in range(5):
            await provider.latest(["AAPL"])
        assert provider.waits.now == 4.0


# Prices and bars --------------------------------------------------------------------------------


async def test_the_latest_price_is_that_of_the_facts():
    async with provider_of(Yahoo()) as provider:
        ticks = await provider.latest(["AAPL", "SPY"])
    assert ticks.schema == TICKS
    assert ticks.select("symbol", "ts", "price", "size", "conditions").rows() == [
        (symbol, datetime(2026, 7, 14, 20, 0, tzinfo=UTC), 231.88, 0.0, "price-only") for symbol in ("AAPL", "SPY")
    ]


async def test_minutes_are_asked_for_in_windows_of_seven_days():
    fake = Yahoo()
    async with provider_of(fake) as provider:
        found = await bars(provider, "1m", NOW - timedelta(days=29), NOW)
    spans = [(int(one.query_params["period1"]), int(one.query_params["period2"])) for one in fake.requests]
    assert [(end - start) / 86_400 for start, end in spans] == [7, 7, 7, 7, 1]
    assert len(found) == 390 * 21  # Jun 15 is after the start; 21 weekdays follow
    assert found["ts"].is_sorted()
    assert found["ts"].n_unique() == len(found)


async def test_five_minutes_of_59_days_are_one_request():
    fake = Yahoo()
    async with provider_of(fake) as provider:
        await bars(provider, "5m", NOW - timedelta(days=59), NOW)
    assert len(fake.requests) == 1


async def test_a_range_beyond_the_wall_is_refused_here_and_one_across_it_is_cut():
    fake = Yahoo()
    async with provider_of(fake) as provider:
        with pytest.raises(BadRequest, match="yahoo has 1m bars of the last 29 days only"):
            await bars(provider, "1m", NOW - timedelta(days=90), NOW - timedelta(days=60))
        assert fake.requests == []
        await bars(provider, "5m", NOW - timedelta(days=90), NOW - timedelta(days=50))
    assert int(fake.requests[0].query_params["period1"]) == int((NOW - timedelta(days=59.5)).timestamp())


async def test_days_have_their_date_in_winter_and_summer():
    async with provider_of(Yahoo()) as provider:
        found = await bars(provider, "1d", day("2026-03-05"), day("2026-03-11"))
    assert found["ts"].to_list() == [
        datetime(2026, 3, 5, 5, tzinfo=UTC),
        datetime(2026, 3, 6, 5, tzinfo=UTC),
        datetime(2026, 3, 9, 4, tzinfo=UTC),
        datetime(2026, 3, 10, 4, tzinfo=UTC),
    ]
    assert found["interval"].unique().to_list() == ["1d"]


async def test_a_range_in_parts_has_the_same_days_as_in_one():
    async with provider_of(Yahoo()) as provider:
        whole = await bars(provider, "1d", day("2026-03-01"), day("2026-06-01"))
        edges = [day("2026-03-01"), whole["ts"][7], day("2026-04-11"), whole["ts"][40], day("2026-06-01")]
        parts = [await bars(provider, "1d", *edge) for edge in itertools.pairwise(edges)]
    assert pl.concat(parts).equals(whole)


async def test_other_intervals_are_refused_by_name():
    async with provider_of(Yahoo()) as provider:
        with pytest.raises(InvalidInput, match=r"interval: got '1h'; takes 1m, 5m, 1d"):
            await bars(provider, "1h", day("2026-07-01"), day("2026-07-02"))


async def test_a_symbol_without_sessions_in_the_range_has_no_bars():
    async with provider_of(Yahoo()) as provider:
        assert len(await bars(provider, "1m", day("2026-07-11"), day("2026-07-12"))) == 0  # a Saturday


async def test_extended_hours_are_a_setting():
    for text, sent in (("false", "false"), ("true", "true")):
        fake = Yahoo()
        async with provider_of(fake, extended=text) as provider:
            await bars(provider, "1m", NOW - timedelta(days=1), NOW)
        assert fake.requests[0].query_params["includePrePost"] == sent


async def test_a_check_makes_one_request():
    fake = Yahoo()
    async with provider_of(fake) as provider:
        assert await provider.check() == "it answers, and needs no key"
    assert len(fake.requests) == 1
