"""The provider `finnhub` against a server on loopback that speaks as Finnhub does."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse

from providers.fakes.finnhub import KEY, LIMIT_REACHED, NO_ACCESS, Finnhub, candles
from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.finnhub.provider import FINNHUB
from stockpulse.providers.registry import installed_providers
from stockpulse.providers.transport.quota import CountsInMemory
from stockpulse.providers.transport.transport import Transport

NOW = datetime(2026, 7, 14, 18, 0, tzinfo=UTC)
EPOCH = int(NOW.timestamp())
HOUR = timedelta(hours=1)


class Waits:
    """Counts the seconds of sleep, and lets the time pass without sleeping."""

    def __init__(self):
        self.seconds = 0.0

    async def sleep(self, seconds):
        self.seconds += seconds
        await asyncio.sleep(0)

    def now(self):
        return NOW + timedelta(seconds=self.seconds)


@asynccontextmanager
async def provider_of(fake, *, key=KEY, **options):
    waits, replies = Waits(), []
    async with fake.serving() as url:
        defaults = {option.name: option.default or "" for option in FINNHUB.options}
        transport = Transport(
            CountsInMemory(),
            lambda reply, outcome: replies.append((reply, outcome)),
            now=waits.now,
            sleep=waits.sleep,
            clock=lambda: waits.seconds,
        )
        provider = FINNHUB.create(
            ProviderConfig((), options={**defaults, "key": key, "url": url, **options}, transport=transport)
        )
        provider.waits, provider.replies = waits, replies
        try:
            yield provider
        finally:
            await provider.close()


async def bars_of(provider, interval, start, end, *symbols):
    frames = [frame async for frame in provider.history(symbols or ("AAPL",), interval, start, end)]
    return pl.concat([BARS.to_frame(), *frames], how="diagonal")


def scripted(*replies):
    fake = Finnhub()
    fake.scripted = [reply if hasattr(reply, "status_code") else JSONResponse(reply) for reply in replies]
    return fake


class TestQuotes:
    async def test_they_are_prices_without_trades(self):
        async with provider_of(Finnhub()) as provider:
            ticks = await provider.latest(("AAPL", "BINANCE:BTCUSDT"))
        assert ticks.schema == TICKS
        at = NOW - timedelta(seconds=20)
        assert ticks.rows() == [
            ("AAPL", at, 231.88, 0.0, None, "quote 231.88", None, "price-only"),
            ("BINANCE:BTCUSDT", at, 118250.01, 0.0, None, "quote 118250.01", None, "price-only"),
        ]

    async def test_zeros_are_no_quote_now_and_are_not_remembered(self):
        fake = Finnhub()
        price = fake.prices.pop("AAPL")
        async with provider_of(fake) as provider:
            assert (await provider.latest(("AAPL", "MSFT")))["symbol"].to_list() == ["MSFT"]
            assert len(await provider.latest(("AAPL",))) == 0
            fake.prices["AAPL"] = price
            assert (await provider.latest(("AAPL",)))["price"].to_list() == [price]

    @pytest.mark.parametrize("body", [{"c": 5.5}, {"c": 5.5, "t": 0}, {"c": 5.5, "t": None}])
    async def test_a_quote_without_a_time_has_that_of_the_reply(self, body):
        async with provider_of(scripted(body)) as provider:
            ticks = await provider.latest(("AAPL",))
        assert ticks.select("ts", "price", "trade_id").row(0) == (NOW, 5.5, None)

    async def test_a_null_price_is_no_quote(self):
        async with provider_of(scripted({"c": None, "t": EPOCH})) as provider:
            assert len(await provider.latest(("AAPL",))) == 0

    @pytest.mark.parametrize("body", [[], {}, "quote", {"c": "much"}, {"c": True}, {"c": 1, "t": "soon"}])
    async def test_a_quote_that_cannot_be_read(self, body):
        async with provider_of(scripted(body)) as provider:
            with pytest.raises(BadReply, match="finnhub, AAPL: the quote"):
                await provider.latest(("AAPL",))

    async def test_a_symbol_that_is_refused_is_named(self):
        fake = scripted(JSONResponse({"error": NO_ACCESS}, 403))
        async with provider_of(fake) as provider:
            with pytest.raises(NotEntitled) as raised:
                await provider.latest(("AAPL", "MSFT"))
        assert raised.value.symbol in ("AAPL", "MSFT")

    async def test_a_symbol_that_is_not_answered_now_is_absent(self):
        fake = scripted([])
        async with provider_of(fake) as provider:
            assert len(await provider.latest(("AAPL", "MSFT"))) == 1


class TestCandles:
    async def test_minutes(self):
        fake = Finnhub()
        async with provider_of(fake) as provider:
            bars = await bars_of(provider, "1m", NOW - HOUR, NOW + HOUR)
        assert bars.schema == BARS
        assert bars["ts"].to_list() == [NOW - HOUR + timedelta(minutes=minute) for minute in range(60)]
        price = 100 + (EPOCH - 3600) // 60 % 1000 / 100
        first = ("AAPL", "1m", NOW - HOUR, price, price + 1, price - 1, price + 0.5)
        assert bars.row(0) == (*first, float((EPOCH - 3600) // 60 % 1000), None, None)
        ((path, params),) = fake.requests
        assert path == "/stock/candle"
        assert params == {
            "symbol": "AAPL",
            "resolution": "1",
            "from": str(EPOCH - 3600),
            "to": str(EPOCH + 3599),
        }

    async def test_a_long_range_is_asked_a_month_at_a_time(self):
        fake = Finnhub()
        async with provider_of(fake) as provider:
            bars = await bars_of(provider, "5m", NOW - timedelta(days=70), NOW)
        assert len(fake.requests) == 3
        assert len(bars) == 70 * 288
        assert bars["ts"].is_sorted()
        assert bars["ts"].n_unique() == len(bars)

    async def test_the_bars_of_several_symbols_come_one_symbol_after_the_other(self):
        async with provider_of(Finnhub()) as provider:
            bars = await bars_of(provider, "5m", NOW - HOUR, NOW, "MSFT", "AAPL", "MSFT")
        assert bars["symbol"].to_list() == ["MSFT"] * 12 + ["AAPL"] * 12

    @pytest.mark.parametrize("stamp", [0, 4, 5, 13.5, 14.5], ids="{}h".format)
    async def test_all_stamps_of_days_are_dates_of_new_york(self, stamp):
        fake = Finnhub()
        fake.day_stamp = timedelta(hours=stamp)
        start, end = datetime(2026, 7, 8, 4, tzinfo=UTC), datetime(2026, 7, 11, 4, tzinfo=UTC)
        async with provider_of(fake) as provider:
            bars = await bars_of(provider, "1d", start, end)
        assert bars["ts"].to_list() == [datetime(2026, 7, day, 4, tzinfo=UTC) for day in (8, 9, 10)]

    async def test_stamps_of_days_in_winter(self):
        start = datetime(2026, 1, 14, 5, tzinfo=UTC)
        for stamp in (0, 5, 14.5):
            fake = Finnhub()
            fake.day_stamp = timedelta(hours=stamp)
            async with provider_of(fake) as provider:
                assert (await bars_of(provider, "1d", start, start + timedelta(days=1)))["ts"].to_list() == [start]

    @pytest.mark.parametrize(
        ("symbol", "stamps", "begin"),
        [
            ("RELIANCE.NS", ["2026-07-13T03:45", "2026-07-13T00:00", "2026-07-12T18:30"], "2026-07-12T18:30"),
            ("7203.T", ["2026-07-13T00:00", "2026-07-12T15:00"], "2026-07-12T15:00"),
            ("VOD.L", ["2026-07-13T07:00", "2026-07-12T23:00", "2026-07-13T00:00"], "2026-07-12T23:00"),
            ("FPH.NZ", ["2026-07-12T22:00", "2026-07-13T00:00"], "2026-07-12T12:00"),
            ("BINANCE:BTCUSDT", ["2026-07-13T00:00"], "2026-07-13T00:00"),
            ("BRK.B", ["2026-07-13T00:00", "2026-07-13T13:30"], "2026-07-13T04:00"),
        ],
    )
    async def test_stamps_of_days_elsewhere(self, symbol, stamps, begin):
        seconds = [int(datetime.fromisoformat(f"{stamp}+00:00").timestamp()) for stamp in stamps]
        fake = scripted(*(candles([one]) for one in seconds))
        async with provider_of(fake) as provider:
            for _ in seconds:
                bars = await bars_of(provider, "1d", NOW - timedelta(days=5), NOW, symbol)
                assert bars["ts"].to_list() == [datetime.fromisoformat(f"{begin}+00:00")]

    async def test_a_series_may_mix_the_kinds_of_stamps(self):
        stamps = [datetime(2026, 7, 9, 13, 30, tzinfo=UTC), datetime(2026, 7, 10, tzinfo=UTC)]
        fake = scripted(candles([int(one.timestamp()) for one in stamps]))
        async with provider_of(fake) as provider:
            bars = await bars_of(provider, "1d", NOW - timedelta(days=9), NOW)
        assert bars["ts"].to_list() == [datetime(2026, 7, day, 4, tzinfo=UTC) for day in (9, 10)]

    async def test_the_running_day_is_left_out(self):
        async with provider_of(Finnhub()) as provider:
            bars = await bars_of(provider, "1d", NOW - timedelta(days=3), NOW + HOUR)
        assert bars["ts"].max() == datetime(2026, 7, 13, 4, tzinfo=UTC)

    @pytest.mark.parametrize(
        "body",
        [
            {"s": "no_data"},
            {"s": "no_data", "t": None, "c": None},
            {"s": "ok", "t": [], "o": [], "h": [], "l": [], "c": [], "v": []},
            {"s": "ok", "t": None, "o": None, "h": None, "l": None, "c": None, "v": None},
        ],
    )
    async def test_no_data_is_a_result(self, body):
        async with provider_of(scripted(body)) as provider:
            assert len(await bars_of(provider, "1m", NOW - HOUR, NOW)) == 0

    @pytest.mark.parametrize("name", ["t", "o", "h", "l", "c", "v"])
    async def test_arrays_of_different_lengths_are_a_fault_of_the_protocol(self, name):
        body = candles([EPOCH - 120, EPOCH - 60])
        for shorter in ([1], [1, 2, 3]):
            async with provider_of(scripted({**body, name: shorter})) as provider:
                with pytest.raises(BadReply, match="the arrays of the candles differ in length"):
                    await bars_of(provider, "1m", NOW - HOUR, NOW)

    @pytest.mark.parametrize(
        "body", [[], {}, {"s": "what"}, {"s": ["ok"]}, {"s": "ok", "t": "now"}, {"s": "ok", "t": {}, "o": 5}]
    )
    async def test_candles_that_cannot_be_read(self, body):
        async with provider_of(scripted(body)) as provider:
            with pytest.raises(BadReply, match="finnhub, AAPL: the candles"):
                await bars_of(provider, "1m", NOW - HOUR, NOW)

    async def test_volumes_may_be_fractions_or_missing(self):
        body = candles([EPOCH - 60])
        async with provider_of(scripted({**body, "v": [0.25]}, {**body, "v": None})) as provider:
            assert (await bars_of(provider, "1m", NOW - HOUR, NOW))["volume"].to_list() == [0.25]
            assert (await bars_of(provider, "1m", NOW - HOUR, NOW))["volume"].to_list() == [0.0]

    async def test_a_candle_that_cannot_be_read_keeps_its_reason(self):
        body = candles([EPOCH - 180, EPOCH - 120, EPOCH - 60])
        body["t"][0], body["c"][1] = None, "much"
        async with provider_of(scripted(body)) as provider:
            bars = await bars_of(provider, "1m", NOW - HOUR, NOW)
        assert bars["problem"].to_list() == ["ts: missing", "close: not a number: 'much'", None]
        assert '"c":"much"' in bars["raw"][1]

    async def test_they_are_not_in_the_free_plan(self):
        fake = Finnhub(premium=False)
        async with provider_of(fake) as provider:
            with pytest.raises(NotEntitled, match="finnhub: the plan of the key does not include this"):
                await bars_of(provider, "1d", NOW - timedelta(days=5), NOW)
        assert len(fake.requests) == 1

    async def test_a_plan_without_candles_is_asked_once_for_a_market_and_an_interval(self):
        fake = Finnhub(premium=False)
        async with provider_of(fake) as provider:
            for interval in ("1m", "1d"):
                for symbol in ("AAPL", "MSFT", "BRK.B", "VOD.L", "BINANCE:A", "BINANCE:B"):
                    with pytest.raises(NotEntitled, match="the plan of the key does not include this"):
                        await bars_of(provider, interval, NOW - HOUR, NOW, symbol)
            asked = [params["symbol"] for _, params in fake.requests]
            assert asked == ["AAPL", "VOD.L", "BINANCE:A"] * 2
            provider.waits.seconds += 3600
            fake.premium = True
            assert len(await bars_of(provider, "1m", NOW - HOUR, NOW, "MSFT")) == 60
            fake.scripted = [JSONResponse({"error": NO_ACCESS}, 403)]
            with pytest.raises(NotEntitled):
                await bars_of(provider, "1m", NOW - HOUR, NOW, "ODD")
            assert len(await bars_of(provider, "1m", NOW - HOUR, NOW, "AAPL")) == 60

    async def test_an_interval_that_is_not_stored_is_refused(self):
        async with provider_of(Finnhub()) as provider:
            with pytest.raises(InvalidInput, match="interval: got '60'; finnhub takes 1m, 5m, 1d"):
                await bars_of(provider, "60", NOW - HOUR, NOW)


class TestFaults:
    @pytest.mark.parametrize(
        ("status", "error", "fault"),
        [
            (401, "Please use an API key.", WrongKey),
            (401, "Invalid API key.", WrongKey),
            (401, "no", WrongKey),
            (401, NO_ACCESS, NotEntitled),
            (403, NO_ACCESS, NotEntitled),
            (403, "no", NotEntitled),
            (200, NO_ACCESS, NotEntitled),
            (200, "Invalid API key", WrongKey),
            (422, "Wrong resolution", BadRequest),
            (404, "Symbol not supported", UnknownSymbol),
            (400, {"code": 5}, BadRequest),
        ],
    )
    async def test_fatal_faults_are_not_tried_again(self, status, error, fault):
        fake = scripted(JSONResponse({"error": error}, status))
        async with provider_of(fake) as provider:
            with pytest.raises(fault) as raised:
                await bars_of(provider, "1m", NOW - HOUR, NOW)
        assert type(raised.value) is fault
        assert len(fake.requests) == 1

    @pytest.mark.parametrize(
        "reply",
        [
            HTMLResponse("<html>302</html>", 302),
            RedirectResponse("/elsewhere"),
            HTMLResponse("<html>busy</html>", 502),
            HTMLResponse("  <html>busy</html>", 200),
            HTMLResponse("<html>blocked</html>", 403),
            JSONResponse({"error": "internal"}, 500),
        ],
    )
    async def test_pages_and_faults_of_the_vendor_pass(self, reply):
        fake = scripted(reply)
        async with provider_of(fake) as provider:
            assert len(await provider.latest(("AAPL",))) == 1
        assert [outcome for _, outcome in provider.replies] == ["unreachable", "ok"]
        assert len(fake.requests) == 2

    async def test_a_page_that_stays_is_said(self):
        async with provider_of(scripted(*[HTMLResponse(f"<html>{KEY}", 502)] * 4)) as provider:
            with pytest.raises(Unreachable, match=r"finnhub sent no data \(HTTP 502\)") as raised:
                await provider.check()
        assert type(raised.value) is Unreachable
        assert KEY not in str(raised.value)

    async def test_a_text_that_is_no_json(self):
        async with provider_of(scripted(*[PlainTextResponse("what?")] * 4, PlainTextResponse("no", 401))) as provider:
            with pytest.raises(BadReply):
                await provider.check()
            with pytest.raises(WrongKey):
                await provider.check()


class TestLimits:
    @pytest.mark.parametrize(
        ("headers", "waits"),
        [
            ({"X-Ratelimit-Reset": str(EPOCH + 37)}, 37),
            ({"X-Ratelimit-Reset": str((EPOCH + 37) * 1000)}, 37),
            ({"X-Ratelimit-Reset": "37"}, 37),
            ({"Retry-After": "37"}, 37),
            ({"X-Ratelimit-Reset": str(EPOCH + 9999)}, 61),
            ({"X-Ratelimit-Reset": str(EPOCH - 5)}, 0),
            ({"X-Ratelimit-Reset": "soon"}, 0),
            ({}, 0),
        ],
    )
    async def test_the_reset_is_waited_for_in_any_unit(self, headers, waits):
        fake = scripted(JSONResponse({"error": LIMIT_REACHED}, 429, headers=headers))
        async with provider_of(fake) as provider:
            assert len(await provider.latest(("AAPL",))) == 1
            assert waits <= provider.waits.seconds < waits + 4
        assert [outcome for _, outcome in provider.replies] == ["rate_limited", "ok"]

    async def test_a_good_reply_that_was_the_last_one_holds_the_next_back(self):
        fake = Finnhub()
        fake.headers = {"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": str(EPOCH + 20)}
        async with provider_of(fake) as provider:
            await provider.latest(("AAPL",))
            assert provider._client.limit.paused_seconds == 20
            fake.headers = {"X-Ratelimit-Remaining": "59", "X-Ratelimit-Reset": str(EPOCH + 40)}
            await provider.latest(("AAPL",))
            assert provider._client.limit.paused_seconds == 0

    async def test_a_limit_that_lasts_is_said(self):
        replies = [JSONResponse({"error": LIMIT_REACHED}, 429) for _ in range(4)]
        async with provider_of(scripted(*replies)) as provider:
            with pytest.raises(RateLimited, match="API limit reached"):
                await provider.latest(("AAPL",))

    async def test_30_a_second_and_60_a_minute(self):
        fake = Finnhub()
        fake.prices = {f"S{number}": 1.0 for number in range(61)}
        async with provider_of(fake) as provider:
            await provider.latest([f"S{number}" for number in range(30)])
            assert provider.waits.seconds == 0
            await provider.latest([f"S{number}" for number in range(30, 60)])
            assert provider.waits.seconds == 1
            await provider.latest(["S60"])
            assert provider.waits.seconds == 60


class TestCheck:
    async def test_it_says_what_the_key_may_do(self):
        fake = Finnhub()
        async with provider_of(fake) as provider:
            assert await provider.check() == (
                "the key is good: the US market is open (regular); trades and quotes of US stocks are free, candles"
                " need a paid plan"
            )
        assert fake.requests == [("/stock/market-status", {"exchange": "US"})]

    async def test_a_plan_without_the_status_of_the_market(self):
        fake = Finnhub()
        fake.has_market_status = False
        async with provider_of(fake) as provider:
            assert "the key is good: it has quotes" in await provider.check()
            fake.prices.clear()
            assert "there is no quote of AAPL now" in await provider.check()

    @pytest.mark.parametrize(
        ("status", "said"),
        [
            ({"isOpen": False, "session": None, "holiday": "Christmas"}, "closed (Christmas)"),
            ({"isOpen": False, "session": None, "holiday": None}, "closed"),
            ({"isOpen": False, "session": "pre-market"}, "closed (pre-market)"),
        ],
    )
    async def test_states_of_the_market(self, status, said):
        async with provider_of(scripted(status)) as provider:
            assert f"the US market is {said};" in await provider.check()

    async def test_a_status_that_cannot_be_read(self):
        async with provider_of(scripted({"isOpen": "yes"})) as provider:
            with pytest.raises(BadReply, match="the status of the market"):
                await provider.check()

    @pytest.mark.parametrize("key", ["CANARY-wrong", ""])
    async def test_a_wrong_key(self, key):
        async with provider_of(Finnhub(), key=key) as provider:
            with pytest.raises(WrongKey, match="finnhub refuses the key"):
                await provider.check()

    async def test_no_network(self):
        async with provider_of(Finnhub(), url="http://127.0.0.1:9/api/v1") as provider:
            with pytest.raises(Unreachable, match="finnhub does not answer /stock/market-status"):
                await provider.check()


async def test_the_key_is_in_a_header_and_nowhere_else():
    fake = scripted(JSONResponse({"error": f"bad token={KEY}"}, 400))
    async with provider_of(fake) as provider:
        with pytest.raises(BadRequest) as raised:
            await provider.check()
        await provider.check()
        assert KEY not in str(raised.value)
        assert all(KEY not in repr(reply) for reply, _ in provider.replies)
    assert all(KEY not in repr(request) for request in fake.requests)


class TestTheEntry:
    def test_it_is_registered(self):
        entry = installed_providers().named("finnhub")
        assert entry is FINNHUB
        assert entry.capabilities.limits
        assert entry.options[0].variables == ("STOCKPULSE_FINNHUB_KEY", "FINNHUB_API_KEY")

    @pytest.mark.parametrize(
        ("option", "value", "variable"),
        [
            ("per_minute", "0", "STOCKPULSE_FINNHUB_PER_MINUTE"),
            ("url", "finnhub.io", "STOCKPULSE_FINNHUB_URL"),
            ("stream_url", "https://ws.finnhub.io", "STOCKPULSE_FINNHUB_STREAM_URL"),
        ],
    )
    def test_a_wrong_option_names_its_variable(self, option, value, variable):
        values = {one.name: one.default or "k" for one in FINNHUB.options} | {option: value}
        with pytest.raises(InvalidInput, match=variable):
            FINNHUB.create(ProviderConfig((), options=values))
