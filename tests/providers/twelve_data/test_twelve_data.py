"""The provider `twelvedata` against a server on loopback that speaks as Twelve Data does."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from providers.fakes.twelve_data import DAY_USED_UP, KEY, MINUTE_USED_UP, NO_DATA, UNKNOWN_SYMBOL, TwelveData, error
from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    QuotaUsedUp,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.registry import installed_providers
from stockpulse.providers.transport.quota import CountsInMemory
from stockpulse.providers.transport.transport import Transport
from stockpulse.providers.twelve_data.provider import TWELVE_DATA

NOW = datetime(2026, 7, 14, 18, 0, tzinfo=UTC)
TODAY = datetime(2026, 7, 14, 13, 30, tzinfo=UTC)
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
async def provider_of(fake, *, key=KEY, quotas=None, **options):
    waits, replies = Waits(), []
    async with fake.serving() as url:
        defaults = {option.name: option.default or "" for option in TWELVE_DATA.options}
        transport = Transport(
            quotas or CountsInMemory(),
            lambda reply, outcome: replies.append((reply, outcome)),
            now=waits.now,
            sleep=waits.sleep,
            clock=lambda: waits.seconds,
        )
        values = {**defaults, "per_minute": "10000", "key": key, "url": url, **options}
        provider = TWELVE_DATA.create(ProviderConfig((), options=values, transport=transport))
        provider.waits, provider.replies = waits, replies
        try:
            yield provider
        finally:
            await provider.close()


async def frames_of(provider, symbols, interval, start, end):
    return [frame async for frame in provider.history(symbols, interval, start, end)]


async def collect(frames, stream):
    """Append the frames that come before a fault."""
    async for frame in stream:
        frames.append(frame)


async def bars_of(provider, symbol, interval, start, end):
    frames = await frames_of(provider, (symbol,), interval, start, end)
    assert all(frame.schema == BARS for frame in frames)
    return pl.concat([BARS.to_frame(), *frames])


class TestHistory:
    async def test_bars_are_ascending_though_the_newest_come_first(self):
        async with provider_of(TwelveData()) as provider:
            bars = await bars_of(provider, "AAPL", "1m", TODAY, TODAY + HOUR)
        assert bars["ts"].to_list() == [TODAY + timedelta(minutes=minute) for minute in range(60)]
        cents = int(TODAY.timestamp()) // 60 % 1000
        assert bars.row(0) == (
            "AAPL", "1m", TODAY, *(price + cents / 100 for price in (230, 231, 229, 230.5)), 1000 + cents, None, None
        )  # fmt: skip

    async def test_prices_are_raw_and_times_are_asked_in_utc(self):
        fake = TwelveData()
        async with provider_of(fake) as provider:
            await bars_of(provider, "AAPL", "5m", TODAY, TODAY + HOUR)
        ((path, params),) = fake.requests
        assert path == "/time_series"
        assert params == {
            "symbol": "AAPL",
            "interval": "5min",
            "timezone": "UTC",
            "adjust": "none",
            "outputsize": "5000",
            "start_date": "2026-07-14T13:30:00",
            "end_date": "2026-07-14T14:29:59",
        }

    @pytest.mark.parametrize("includes_end", [True, False])
    async def test_the_end_is_not_part_of_the_range_in_either_reading(self, includes_end):
        fake = TwelveData()
        fake.includes_end = includes_end
        async with provider_of(fake) as provider:
            bars = await bars_of(provider, "AAPL", "1m", TODAY, TODAY + timedelta(minutes=3))
        assert len(bars) == 3

    async def test_a_bar_that_is_not_over_is_left_out(self):
        fake = TwelveData()
        async with provider_of(fake) as provider:
            minutes = await bars_of(provider, "AAPL", "1m", TODAY, NOW + HOUR)
            days = await bars_of(provider, "AAPL", "1d", TODAY - timedelta(days=3), NOW + HOUR)
        assert minutes["ts"].max() == NOW - timedelta(minutes=1)
        assert days["ts"].to_list() == [datetime(2026, 7, 13, 4, tzinfo=UTC)]

    async def test_daily_bars_begin_at_midnight_of_the_exchange(self):
        async with provider_of(TwelveData()) as provider:
            start, end = datetime(2026, 7, 6, 4, tzinfo=UTC), datetime(2026, 7, 9, 4, tzinfo=UTC)
            of_stock = await bars_of(provider, "AAPL", "1d", start, end)
            of_pair = await bars_of(provider, "BTC/USD", "1d", start, end)
        assert of_stock["ts"].to_list() == [datetime(2026, 7, day, 4, tzinfo=UTC) for day in (6, 7, 8)]
        assert of_pair["ts"].to_list() == [datetime(2026, 7, day, tzinfo=UTC) for day in (7, 8, 9)]

    async def test_a_full_reply_is_followed_by_the_pages_before_it(self):
        fake = TwelveData(rows=5_000)
        async with provider_of(fake) as provider:
            start = NOW - timedelta(days=9)
            bars = await bars_of(provider, "BTC/USD", "1m", start, NOW)
        assert bars["ts"].to_list() == [start + timedelta(minutes=at) for at in range(9 * 24 * 60)]
        assert len(fake.requests) == 3

    async def test_a_long_range_is_asked_in_windows(self):
        fake = TwelveData()
        async with provider_of(fake) as provider:
            frames = await frames_of(provider, ("AAPL", "MSFT"), "1m", NOW - timedelta(days=25), NOW)
        assert [params["symbol"] for _, params in fake.requests] == ["AAPL", "AAPL", "MSFT", "MSFT"]
        for frame, symbol in zip(frames, ["AAPL", "AAPL", "MSFT", "MSFT"], strict=True):
            assert frame["symbol"].unique().to_list() == [symbol]
            assert frame["ts"].is_sorted()
        assert frames[0]["ts"].max() < frames[1]["ts"].min()

    async def test_a_missing_volume_is_zero_since_the_log_has_no_unknown_one(self):
        async with provider_of(TwelveData()) as provider:
            bars = await bars_of(provider, "EUR/USD", "5m", NOW - HOUR, NOW)
        assert bars["volume"].to_list() == [0.0] * 12

    @pytest.mark.parametrize("status", [200, 400])
    async def test_no_data_is_a_result(self, status):
        fake = TwelveData()
        fake.scripted = [JSONResponse(error(400, NO_DATA), status)]
        async with provider_of(fake) as provider:
            assert await frames_of(provider, ("AAPL",), "1d", NOW - timedelta(days=9), NOW) == []
            assert [outcome for _, outcome in provider.replies] == ["ok"]

    async def test_an_interval_that_is_not_stored_is_refused(self):
        async with provider_of(TwelveData()) as provider:
            with pytest.raises(InvalidInput, match="interval: got '60min'; twelvedata takes 1m, 5m, 1d"):
                await frames_of(provider, ("AAPL",), "60min", TODAY, NOW)

    async def test_a_row_that_cannot_be_read_keeps_its_reason(self):
        row = {"datetime": "2026-07-14 13:30:00", "open": "1", "high": "2", "low": "1", "close": "2", "volume": "5"}
        rows = [row, {**row, "datetime": "soon"}, {**row, "datetime": "later"}, None]
        fake = TwelveData()
        fake.scripted = [JSONResponse({"meta": {"symbol": "AAPL"}, "values": rows, "status": "ok"})]
        async with provider_of(fake) as provider:
            (frame,) = await frames_of(provider, ("AAPL",), "1m", TODAY, NOW)
        assert frame["ts"].to_list() == [None, None, None, TODAY]
        assert frame["problem"].to_list() == [
            "ts: not a time in the years 1970 to 2200: 'soon'",
            "ts: not a time in the years 1970 to 2200: 'later'",
            "not an object",
            None,
        ]
        assert frame["raw"][2] == "null"


class TestBatches:
    async def test_a_range_of_one_window_is_asked_for_eight_symbols_at_once(self):
        fake = TwelveData()
        fake.symbols |= {f"S{number}" for number in range(10)}
        async with provider_of(fake) as provider:
            frames = await frames_of(provider, [f"S{number}" for number in range(10)], "5m", TODAY, TODAY + HOUR)
        assert [params["symbol"].count(",") + 1 for _, params in fake.requests] == [8, 2]
        assert [frame["symbol"][0] for frame in frames] == [f"S{number}" for number in range(10)]
        assert all(len(frame) == 12 for frame in frames)

    @pytest.mark.parametrize(("symbol", "fault"), [("NOPE", UnknownSymbol), ("SHEL", NotEntitled)])
    @pytest.mark.parametrize("start", [TODAY, TODAY - timedelta(days=100)], ids=["one window", "two windows"])
    async def test_a_symbol_that_is_refused_is_named_after_the_bars_of_those_before_it(self, symbol, fault, start):
        async with provider_of(TwelveData()) as provider:
            frames = []
            with pytest.raises(fault, match="twelvedata") as raised:
                await collect(frames, provider.history(("AAPL", symbol, "MSFT"), "5m", start, TODAY + HOUR))
        assert {frame["symbol"][0] for frame in frames} == {"AAPL"}
        assert raised.value.symbol == symbol
        assert "**" not in str(raised.value)

    async def test_a_symbol_that_was_refused_lately_is_not_asked_for(self):
        fake, frames = TwelveData(), []
        async with provider_of(fake) as provider:
            for symbols in (("NOPE",), ("NOPE",), ("AAPL", "NOPE", "MSFT")):
                with pytest.raises(UnknownSymbol) as raised:
                    await collect(frames, provider.history(symbols, "5m", TODAY, TODAY + HOUR))
                assert raised.value.symbol == "NOPE"
            assert [params["symbol"] for _, params in fake.requests] == ["NOPE", "AAPL"]
            assert [frame["symbol"][0] for frame in frames] == ["AAPL"]
            provider.waits.seconds += 3600
            fake.symbols.add("NOPE")
            assert len(await bars_of(provider, "NOPE", "5m", TODAY, TODAY + HOUR)) == 12

    async def test_a_fault_of_the_whole_request_is_not_taken_for_symbols(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse(error(414, "Input parameter array exceeds the allowed length"))]
        async with provider_of(fake) as provider:
            with pytest.raises(BadRequest, match="exceeds the allowed length"):
                await frames_of(provider, ("code", "message"), "5m", TODAY, TODAY + HOUR)

    async def test_a_symbol_that_the_reply_leaves_out_is_said(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse({"AAPL": fake.time_series("AAPL", {"interval": "5min"})})]
        async with provider_of(fake) as provider:
            with pytest.raises(BadReply, match="twelvedata, MSFT: a time series without values"):
                await frames_of(provider, ("AAPL", "MSFT"), "5m", TODAY, TODAY + HOUR)

    async def test_credits_that_run_out_within_a_batch(self):
        fake = TwelveData()
        fake.scripted = [
            JSONResponse(
                {
                    "AAPL": fake.time_series("AAPL", {"interval": "5min"}),
                    "MSFT": error(429, MINUTE_USED_UP.format(used=9)),
                }
            )
        ]
        async with provider_of(fake) as provider:
            frames = []
            with pytest.raises(RateLimited) as raised:
                await collect(frames, provider.history(("AAPL", "MSFT"), "5m", TODAY - timedelta(days=3), NOW))
            assert raised.value.until == datetime(2026, 7, 14, 18, 1, 1, tzinfo=UTC)
            assert provider._client.limit.paused_seconds > 0
        assert [frame["symbol"][0] for frame in frames] == ["AAPL"]


class TestLatest:
    async def test_quotes_are_prices_without_trades(self):
        fake = TwelveData()
        async with provider_of(fake) as provider:
            ticks = await provider.latest(("AAPL", "MSFT"))
        assert ticks.schema == TICKS
        assert ticks["symbol"].to_list() == ["AAPL", "MSFT"]
        at = NOW - timedelta(seconds=20)
        assert ticks.row(0) == ("AAPL", at, 231.88, 0.0, None, "quote 231.88", None, "price-only")
        assert [path for path, _ in fake.requests] == ["/quote"]

    async def test_the_name_of_an_exchange_stays_with_the_symbol(self):
        async with provider_of(TwelveData()) as provider:
            assert (await provider.latest(("RY:TSX",)))["symbol"].to_list() == ["RY:TSX"]

    async def test_a_quote_without_a_time_has_that_of_the_reply(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse({"price": "231.88000"})]
        async with provider_of(fake) as provider:
            ticks = await provider.latest(("AAPL",))
        assert ticks.select("ts", "price", "trade_id").row(0) == (NOW, 231.88, None)

    @pytest.mark.parametrize(("symbol", "fault"), [("NOPE", UnknownSymbol), ("SHEL", NotEntitled)])
    async def test_a_symbol_that_is_refused_is_named(self, symbol, fault):
        async with provider_of(TwelveData()) as provider:
            for symbols in ((symbol, "AAPL"), (symbol,)):
                with pytest.raises(fault) as raised:
                    await provider.latest(symbols)
                assert raised.value.symbol == symbol

    async def test_a_symbol_that_is_not_answered_now_is_absent(self):
        fake = TwelveData()
        wrong = error(429, MINUTE_USED_UP.format(used=9))
        fake.scripted = [JSONResponse({"AAPL": fake.quote("AAPL", {}), "MSFT": part}) for part in (wrong, None)]
        async with provider_of(fake) as provider:
            for _ in range(2):
                assert (await provider.latest(("AAPL", "MSFT")))["symbol"].to_list() == ["AAPL"]
            assert provider.waits.seconds == 61

    async def test_a_price_that_is_null_is_absent(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse({"close": None}), JSONResponse({"close": "soon"})]
        async with provider_of(fake) as provider:
            assert len(await provider.latest(("AAPL",))) == 0
            with pytest.raises(BadReply, match="price: not a number: 'soon'"):
                await provider.latest(("AAPL",))


class TestFaults:
    """Each error, with its own status and with status 200."""

    @pytest.fixture(params=[True, False], ids=["status 200", "own status"])
    def fake(self, request):
        fake = TwelveData()
        fake.errors_have_status_200 = request.param
        return fake

    async def test_a_wrong_key(self, fake):
        async with provider_of(fake, key="CANARY-wrong") as provider:
            with pytest.raises(WrongKey, match="twelvedata refuses the key: apikey parameter is incorrect"):
                await provider.check()
        assert len(fake.requests) == 1

    async def test_an_unknown_symbol(self, fake):
        async with provider_of(fake) as provider:
            with pytest.raises(UnknownSymbol) as raised:
                await frames_of(provider, ("NOPE",), "1d", TODAY - timedelta(days=3), NOW)
        assert "symbol or figi parameter is missing or invalid" in str(raised.value)

    async def test_another_plan(self, fake):
        async with provider_of(fake) as provider:
            with pytest.raises(NotEntitled, match="available starting with Grow plan"):
                await frames_of(provider, ("SHEL",), "1d", TODAY - timedelta(days=3), NOW)
        assert len(fake.requests) == 1

    @pytest.mark.parametrize(
        ("code", "message", "fault"),
        [
            (400, "Invalid **interval** provided: 0.99min. Supported intervals: 1min", BadRequest),
            (400, "**symbol** not found: NOPE. Please specify it correctly", UnknownSymbol),
            (400, UNKNOWN_SYMBOL, UnknownSymbol),
            (403, "/time_series is available exclusively with Pro plans", NotEntitled),
            (403, "Forbidden", NotEntitled),
            (404, OTHER := "**symbol** is available starting with Grow plan", NotEntitled),
            (404, "no such thing", UnknownSymbol),
            (414, "Input parameter array exceeds the allowed length", BadRequest),
        ],
    )
    async def test_fatal_faults_are_not_tried_again(self, fake, code, message, fault):
        fake.scripted = [JSONResponse(error(code, message), 200 if fake.errors_have_status_200 else code)]
        async with provider_of(fake) as provider:
            with pytest.raises(fault) as raised:
                await provider.check()
        assert type(raised.value) is fault
        assert len(fake.requests) == 1

    async def test_a_fault_of_the_vendor_is_tried_again(self, fake):
        fake.scripted = [JSONResponse(error(500, "Internal"), 200 if fake.errors_have_status_200 else 500)]
        async with provider_of(fake) as provider:
            assert await provider.check()
        assert len(fake.requests) == 2

    @pytest.mark.parametrize("status", [200, 302, 403, 502])
    async def test_pages_are_no_statement_about_the_key(self, status):
        fake = TwelveData()
        fake.scripted = [HTMLResponse(f"<html>{KEY}</html>", status)] * 4
        async with provider_of(fake) as provider:
            with pytest.raises(Unreachable) as raised:
                await provider.check()
        assert KEY not in str(raised.value)
        assert len(fake.requests) == 4

    async def test_a_text_that_is_no_json(self):
        fake = TwelveData()
        fake.scripted = [PlainTextResponse("what?")] * 4 + [PlainTextResponse("no", 401)]
        async with provider_of(fake) as provider:
            with pytest.raises(BadReply):
                await provider.check()
            with pytest.raises(WrongKey):
                await provider.check()


class TestLimits:
    async def test_the_minute_is_waited_for_and_no_longer(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse(error(429, MINUTE_USED_UP.format(used=9)), 200)]
        async with provider_of(fake) as provider:
            assert await provider.check()
            assert 60 < provider.waits.seconds < 63
        assert len(fake.requests) == 2

    async def test_credits_that_are_used_up_by_the_header_hold_requests_back(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse(fake.api_usage("", {}), headers={"api-credits-left": "0"})]
        async with provider_of(fake) as provider:
            await provider.check()
            assert 60 < provider._client.limit.paused_seconds <= 61

    async def test_a_header_that_is_no_number_is_ignored(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse(fake.api_usage("", {}), headers={"api-credits-left": "many"})]
        async with provider_of(fake) as provider:
            await provider.check()
            assert provider._client.limit.paused_seconds == 0

    async def test_a_ninth_credit_waits_for_the_next_minute(self):
        fake = TwelveData()
        async with provider_of(fake, per_minute="8") as provider:
            await provider.latest(("AAPL", "MSFT", "EUR/USD", "BTC/USD", "RY:TSX"))
            await provider.latest(("AAPL", "MSFT", "EUR/USD"))
            assert provider.waits.seconds == 0
            await provider.latest(("AAPL",))
            assert provider.waits.seconds == 60

    @pytest.mark.parametrize("status", [200, 429])
    async def test_the_day_is_not_tried_again_before_midnight_utc(self, status):
        fake = TwelveData()
        fake.scripted = [JSONResponse(error(429, DAY_USED_UP), status)]
        async with provider_of(fake) as provider:
            for _ in range(2):
                with pytest.raises(QuotaUsedUp) as raised:
                    await provider.check()
                assert raised.value.until == datetime(2026, 7, 15, tzinfo=UTC)
        assert len(fake.requests) == 1

    async def test_800_credits_a_day_also_over_restarts(self):
        fake, quotas = TwelveData(), CountsInMemory()
        async with provider_of(fake, quotas=quotas, per_day="10") as provider:
            await provider.latest(("AAPL", "MSFT", "EUR/USD", "BTC/USD"))
        async with provider_of(fake, quotas=quotas, per_day="10") as provider:
            await provider.latest(("AAPL", "MSFT", "EUR/USD", "BTC/USD"))
            with pytest.raises(QuotaUsedUp, match="the 10 requests of the day are used up"):
                await provider.latest(("AAPL", "MSFT", "EUR/USD"))
            await provider.latest(("AAPL", "MSFT"))

    async def test_paid_plans_have_no_limit_of_the_day(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse(error(429, DAY_USED_UP), 429)]
        async with provider_of(fake, per_day="0") as provider:
            with pytest.raises(QuotaUsedUp) as raised:
                await provider.check()
            assert raised.value.until == datetime(2026, 7, 15, tzinfo=UTC)
            assert await provider.check()

    async def test_two_clients_of_a_key_share_its_limit(self):
        fake = TwelveData()
        async with fake.serving() as url:
            transport = Transport(now=lambda: NOW)
            values = {option.name: option.default or "" for option in TWELVE_DATA.options} | {"key": KEY, "url": url}
            first, second = (
                TWELVE_DATA.create(ProviderConfig((), options=values, transport=transport)) for _ in range(2)
            )
            assert first._client.limit is second._client.limit
            await first.close()
            await second.close()


class TestTheKey:
    async def test_it_is_in_a_header_and_nowhere_else(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse(error(404, f"no such key: {KEY}")), Response(f"?apikey={KEY}", 400)]
        async with provider_of(fake) as provider:
            for _ in range(2):
                with pytest.raises(BadRequest) as raised:
                    await provider.check()
                assert KEY not in str(raised.value)
            await provider.check()
            assert all(KEY not in repr(reply) for reply, _ in provider.replies)
        assert all(KEY not in repr(request) for request in fake.requests)


class TestCheck:
    async def test_it_says_what_is_used(self):
        async with provider_of(TwelveData()) as provider:
            assert await provider.check() == (
                "the key is good: the plan is 'basic'; 3 of 8 credits of this minute are used,"
                " and 57 of 800 of the day (UTC)"
            )

    async def test_paid_plans_have_no_numbers_of_the_day(self):
        fake = TwelveData()
        fake.scripted = [JSONResponse({"current_usage": 3, "plan_limit": 55}), JSONResponse({})]
        async with provider_of(fake) as provider:
            assert await provider.check() == "the key is good: 3 of 55 credits of this minute are used"
            with pytest.raises(BadReply, match="no plan_limit"):
                await provider.check()

    async def test_no_network(self):
        async with provider_of(TwelveData(), url="http://127.0.0.1:9") as provider:
            with pytest.raises(Unreachable, match="twelvedata does not answer /api_usage"):
                await provider.check()


class TestTheEntry:
    def test_it_is_registered(self):
        entry = installed_providers().named("twelvedata")
        assert entry is TWELVE_DATA
        assert entry.capabilities.limits
        key = entry.options[0]
        assert key.variables == ("STOCKPULSE_TWELVEDATA_KEY", "TWELVE_DATA_API_KEY")
        assert key.secret

    @pytest.mark.parametrize(
        ("option", "value", "variable"),
        [
            ("per_minute", "0", "STOCKPULSE_TWELVEDATA_PER_MINUTE"),
            ("per_day", "some", "STOCKPULSE_TWELVEDATA_PER_DAY"),
            ("url", "twelvedata.com", "STOCKPULSE_TWELVEDATA_URL"),
            ("stream_url", "https://ws.twelvedata.com", "STOCKPULSE_TWELVEDATA_STREAM_URL"),
        ],
    )
    def test_a_wrong_option_names_its_variable(self, option, value, variable):
        values = {one.name: one.default or "k" for one in TWELVE_DATA.options} | {option: value}
        with pytest.raises(InvalidInput, match=variable):
            TWELVE_DATA.create(ProviderConfig((), options=values))
