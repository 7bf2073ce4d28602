"""The provider `alpha_vantage` against a server on loopback that speaks as Alpha Vantage does."""

from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta

import orjson
import polars as pl
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from providers.fakes.alpha_vantage import (
    BURST,
    DAY_LIMIT,
    FULL_IS_PREMIUM,
    KEY,
    NO_KEY,
    PREMIUM,
    UNKNOWN_SYMBOL,
    AlphaVantage,
)
from providers.fakes.http_server import Waits, serving
from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.alpha_vantage.provider import ALPHA_VANTAGE
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    ProviderFault,
    QuotaUsedUp,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.registry import installed_providers
from stockpulse.providers.transport.quota import CountsInMemory
from stockpulse.providers.transport.transport import Transport

NOW = datetime(2026, 7, 14, 22, 0, tzinfo=UTC)


@asynccontextmanager
async def provider_of(fake, *, now=NOW, quotas=None, key=KEY, **options):
    replies, waits = [], Waits()
    async with serving(fake.app) as url:
        defaults = {option.name: option.default or "" for option in ALPHA_VANTAGE.options}
        transport = Transport(
            quotas=quotas or CountsInMemory(),
            now=lambda: now,
            sleep=waits.sleep,
            clock=lambda: waits.now,
            on_reply=lambda reply, outcome: replies.append((reply, outcome)),
        )
        config = ProviderConfig(
            (),
            now=lambda: now,
            transport=transport,
            options={**defaults, "key": key, "url": url, "per_minute": "60000", **options},
        )
        provider = ALPHA_VANTAGE.create(config)
        provider.replies, provider.waits = replies, waits
        try:
            yield provider
        finally:
            await provider.close()


async def bars(provider, interval, start, end, symbol="IBM"):
    frames = [frame async for frame in provider.history((symbol,), interval, start, end)]
    return pl.concat([BARS.to_frame(), *frames])


def day(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_it_is_registered_under_the_names_that_people_know():
    registry = installed_providers()
    assert registry.named("alpha_vantage") is registry.named("alphavantage") is ALPHA_VANTAGE
    assert not ALPHA_VANTAGE.capabilities.ticks
    assert ALPHA_VANTAGE.capabilities.latest
    assert [option.variables for option in ALPHA_VANTAGE.options if option.secret] == [
        ("STOCKPULSE_ALPHA_VANTAGE_KEY", "ALPHA_VANTAGE_API_KEY")
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [("per_day", "many"), ("per_minute", "0"), ("entitlement", "all"), ("label", "middle"), ("url", "ftp://x")],
)
async def test_a_wrong_option_names_its_variable(option, value):
    with pytest.raises(InvalidInput, match=f"STOCKPULSE_ALPHA_VANTAGE_{option.upper()}: got '{value}'"):
        async with provider_of(AlphaVantage(), **{option: value}):
            pass


# Faults -----------------------------------------------------------------------------------------

BURST_OF_A_PAID_PLAN = (
    "Burst pattern detected. Please consider spreading out your API requests more evenly over a 1-minute window:"
    " no more than 5 requests per second"
)
FORMERLY = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per day."
    " Please visit https://www.alphavantage.co/premium/"
)
SENTENCES = [
    (UNKNOWN_SYMBOL.format("TIME_SERIES_DAILY"), UnknownSymbol),
    (NO_KEY, WrongKey),
    ("This API function (TIME_SERIES_HOURLY) does not exist.", BadRequest),
    (DAY_LIMIT.format(key=KEY), QuotaUsedUp),
    (DAY_LIMIT.format(key=KEY).replace("25", "500"), QuotaUsedUp),
    (BURST, RateLimited),
    (PREMIUM, NotEntitled),
    (FULL_IS_PREMIUM, NotEntitled),
    (BURST_OF_A_PAID_PLAN, RateLimited),
    ("Minute-level rate limit exceeded", RateLimited),
    ("The **demo** API key is for demo purposes only. Please claim your free API key", WrongKey),
    (FORMERLY, RateLimited),
    ("Something that nobody has seen before", ProviderFault),
]


@pytest.mark.parametrize("status", [200, 400, 429])
@pytest.mark.parametrize("field", ["Information", "Note", "Error Message"])
@pytest.mark.parametrize(("sentence", "fault"), SENTENCES, ids=[sentence[:40] for sentence, _ in SENTENCES])
async def test_a_sentence_is_a_fault_by_its_words_alone(sentence, fault, field, status):
    fake = AlphaVantage()
    fake.scripted = [JSONResponse({field: sentence}, status) for _ in range(4)]
    async with provider_of(fake) as provider:
        with pytest.raises(ProviderFault) as raised:
            await provider.latest(["IBM"])
    assert type(raised.value) is fault
    assert KEY not in str(raised.value)
    assert all(KEY.encode() not in reply.body and KEY not in reply.text for reply, _ in provider.replies)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (Response(b"<html>Will be right back", 502), Unreachable),
        (Response(b"<html>Will be right back", 200), BadReply),
        (JSONResponse({"Error Message": f"GET /query?function=X&apikey={KEY} Invalid API call"}, 503), Unreachable),
        (PlainTextResponse("", 404), BadRequest),
        (PlainTextResponse("too many", 429), RateLimited),
        (PlainTextResponse("no", 403), WrongKey),
        (JSONResponse({}), BadReply),
        (JSONResponse([1]), BadReply),
    ],
)
async def test_replies_without_a_known_sentence(reply, fault):
    fake = AlphaVantage()
    fake.scripted = [reply] * 4
    async with provider_of(fake) as provider:
        with pytest.raises(ProviderFault) as raised:
            await provider.latest(["IBM"])
    assert type(raised.value) is fault
    assert KEY not in str(raised.value)
    assert KEY not in repr([(one.params, one.body) for one, _ in provider.replies])


async def test_an_unknown_sentence_beside_data_is_no_fault():
    fake = AlphaVantage()
    good = fake.time_series_daily({"symbol": "IBM"})
    fake.scripted = [JSONResponse({"Information": "Have a nice day", **good})]
    async with provider_of(fake) as provider:
        assert len(await bars(provider, "1d", day("2026-07-01"), day("2026-07-14"))) == 9


# Quotes -----------------------------------------------------------------------------------------


async def test_the_quote_of_a_day_has_the_time_of_its_close():
    async with provider_of(AlphaVantage()) as provider:
        ticks = await provider.latest(["IBM", "AAPL"])
    assert ticks.schema == TICKS
    assert ticks.select("symbol", "price", "size").rows() == [("IBM", 288.05, 0.0), ("AAPL", 288.05, 0.0)]
    assert ticks["ts"].to_list() == [datetime(2026, 7, 14, 20, 0, tzinfo=UTC)] * 2
    assert ticks["conditions"].to_list() == ["price-only"] * 2
    assert provider.replies[0][0].params == {"function": "GLOBAL_QUOTE", "symbol": "IBM"}


async def test_the_quote_of_a_half_day_has_the_time_of_its_close():
    async with provider_of(AlphaVantage(today=date(2026, 11, 27)), now=NOW + timedelta(days=200)) as provider:
        ticks = await provider.latest(["IBM"])
    assert ticks["ts"][0] == datetime(2026, 11, 27, 18, 0, tzinfo=UTC)


async def test_a_quote_before_the_close_is_of_now():
    async with provider_of(AlphaVantage(), now=datetime(2026, 7, 14, 15, 0, tzinfo=UTC)) as provider:
        assert (await provider.latest(["IBM"]))["ts"][0] == datetime(2026, 7, 14, 15, 0, tzinfo=UTC)


async def test_an_empty_quote_is_an_unknown_symbol():
    async with provider_of(AlphaVantage()) as provider:
        with pytest.raises(UnknownSymbol, match="no quote of NOPE") as raised:
            await provider.latest(["NOPE"])
    assert raised.value.symbol == "NOPE"


async def test_a_delayed_quote_has_another_key():
    async with provider_of(AlphaVantage(), entitlement="delayed") as provider:
        assert (await provider.latest(["IBM"]))["price"][0] == 288.05
        assert provider.delay_seconds == 900


async def test_a_plan_with_real_time_asks_for_a_hundred_symbols_at_once():
    fake = AlphaVantage(premium=True)
    many = [f"S{n}" for n in range(149)]
    async with provider_of(fake, entitlement="realtime") as provider:
        ticks = await provider.latest(["IBM", *many, "AAPL"])
    assert [len(request["symbol"].split(",")) for request in fake.requests] == [100, 51]
    assert ticks.select("symbol", "ts", "price").rows() == [
        ("IBM", datetime(2026, 7, 14, 20, 5, 1, 250_000, tzinfo=UTC), 288.05),
        ("AAPL", datetime(2026, 7, 14, 20, 5, 1, 250_000, tzinfo=UTC), 288.05),
    ]


# Bars -------------------------------------------------------------------------------------------


async def test_daily_bars_come_ascending_and_begin_at_midnight_in_new_york():
    async with provider_of(AlphaVantage()) as provider:
        found = await bars(provider, "1d", day("2026-03-05"), day("2026-03-11"))
    assert found.schema == BARS
    assert found["ts"].to_list() == [
        datetime(2026, 3, 5, 5, tzinfo=UTC),
        datetime(2026, 3, 6, 5, tzinfo=UTC),
        datetime(2026, 3, 9, 4, tzinfo=UTC),  # summer time
        datetime(2026, 3, 10, 4, tzinfo=UTC),
    ]
    first = found.row(0, named=True)
    offset = date(2026, 3, 5).toordinal() % 50
    assert (first["open"], first["high"], first["low"], first["close"]) == (
        200.1 + offset,
        202.25 + offset,
        199.05 + offset,
        201.0 + offset,
    )
    assert first["volume"] == 1000 + offset


async def test_recent_days_cost_the_free_request_and_older_ones_the_paid_one():
    fake = AlphaVantage()
    async with provider_of(fake) as provider:
        await bars(provider, "1d", NOW - timedelta(days=139), NOW)
        for _ in range(3):
            with pytest.raises(NotEntitled, match="the plan of the key does not include this request"):
                await bars(provider, "1d", NOW - timedelta(days=300), NOW - timedelta(days=139))
    assert [request["outputsize"] for request in fake.requests] == ["compact", "full"]


async def test_one_request_serves_all_windows_of_twenty_years():
    fake = AlphaVantage(premium=True)
    async with provider_of(fake) as provider:
        whole = await bars(provider, "1d", NOW - timedelta(days=2_000), NOW - timedelta(days=200))
        parts = [
            await bars(provider, "1d", NOW - timedelta(days=back), NOW - timedelta(days=back - 100))
            for back in range(2_000, 200, -100)
        ]
    assert pl.concat(parts).equals(whole)
    assert len(fake.requests) == 1


async def test_minute_bars_come_by_month_on_new_yorks_clock():
    fake = AlphaVantage(premium=True)
    async with provider_of(fake) as provider:
        found = await bars(provider, "1m", day("2026-01-30"), day("2026-02-03"))
        assert found["ts"][0] == datetime(2026, 1, 30, 14, 30, tzinfo=UTC)  # 09:30 in winter
        summer = await bars(provider, "5m", day("2026-07-14"), day("2026-07-15"))
        assert summer["ts"][0] == datetime(2026, 7, 14, 13, 30, tzinfo=UTC)
    assert found["ts"].is_sorted()
    assert len(found) == 2 * 390  # Friday and Monday
    assert [(request["month"], request["interval"], request["outputsize"]) for request in fake.requests] == [
        ("2026-01", "1min", "full"),
        ("2026-02", "1min", "full"),
        ("2026-07", "5min", "full"),
    ]
    assert {request["adjusted"] for request in fake.requests} == {"false"}


async def test_the_last_instant_of_a_range_asks_for_no_further_month():
    fake = AlphaVantage(premium=True)
    async with provider_of(fake) as provider:
        await bars(provider, "5m", day("2026-05-10"), datetime(2026, 6, 1, 4, tzinfo=UTC))
        await bars(provider, "5m", NOW + timedelta(days=1), NOW + timedelta(days=2))
    assert [request["month"] for request in fake.requests] == ["2026-05"]


async def test_times_at_the_end_of_the_bucket_are_a_setting():
    async with provider_of(AlphaVantage(premium=True), label="end") as provider:
        found = await bars(provider, "5m", day("2026-07-14"), day("2026-07-15"))
    assert found["ts"][0] == datetime(2026, 7, 14, 13, 25, tzinfo=UTC)


async def test_a_free_plan_has_no_intraday_bars_and_asks_once():
    fake = AlphaVantage()
    async with provider_of(fake) as provider:
        for interval in ("5m", "1m"):
            with pytest.raises(NotEntitled):
                await bars(provider, interval, day("2026-07-01"), day("2026-07-02"))
    assert len(fake.requests) == 1


async def test_other_intervals_are_refused_by_name():
    async with provider_of(AlphaVantage()) as provider:
        with pytest.raises(InvalidInput, match=r"interval: got '1h'; takes 1m, 5m, 1d"):
            await bars(provider, "1h", day("2026-07-01"), day("2026-07-02"))


async def test_a_value_that_cannot_be_read_is_null_and_its_row_stays():
    rows = {
        "2026-07-14": {"1. open": "None", "2. high": "2", "3. low": "1", "4. close": "-", "5. volume": ""},
        "soon": {"1. open": "1", "2. high": "2", "3. low": "1", "4. close": "2", "5. volume": "3"},
    }
    fake = AlphaVantage()
    fake.scripted = [JSONResponse({"Meta Data": {}, "Time Series (Daily)": rows})]
    async with provider_of(fake) as provider:
        found = await bars(provider, "1d", day("2026-07-01"), day("2026-07-20"))
    assert found.select("ts", "open", "close", "volume").rows() == [
        (None, 1.0, 2.0, 3.0),
        (datetime(2026, 7, 14, 4, tzinfo=UTC), None, None, None),
    ]


# Limits -----------------------------------------------------------------------------------------


async def test_the_26th_request_of_a_day_is_not_sent_also_after_a_restart():
    fake, quotas = AlphaVantage(), CountsInMemory()
    for count in (20, 5):
        async with provider_of(fake, quotas=quotas) as provider:
            for _ in range(count):
                await provider.latest(["IBM"])
    async with provider_of(fake, quotas=quotas) as provider:
        with pytest.raises(QuotaUsedUp, match="the 25 requests of the day are used up") as raised:
            await provider.latest(["IBM"])
        assert raised.value.until == datetime(2026, 7, 15, 4, tzinfo=UTC)
    assert len(fake.requests) == 25
    async with provider_of(fake, quotas=quotas, now=NOW + timedelta(hours=6)) as provider:
        await provider.latest(["IBM"])
    assert len(fake.requests) == 26


async def test_the_vendors_word_ends_the_day():
    fake, quotas = AlphaVantage(per_day=1), CountsInMemory()  # another program on this address used the others
    async with provider_of(fake, quotas=quotas) as provider:
        await provider.latest(["IBM"])
        for _ in range(3):
            with pytest.raises(QuotaUsedUp):
                await provider.latest(["IBM"])
    assert len(fake.requests) == 2


async def test_a_plan_without_a_limit_per_day_counts_nothing():
    async with provider_of(AlphaVantage(), per_day="0") as provider:
        for _ in range(30):
            await provider.latest(["IBM"])


async def test_a_transient_fault_is_tried_once_more_since_each_request_counts():
    fake = AlphaVantage()
    fake.scripted = [Response(b"", 502)] * 9
    async with provider_of(fake) as provider:
        with pytest.raises(Unreachable):
            await provider.latest(["IBM"])
    assert len(fake.requests) == 2


async def test_requests_are_at_least_a_second_apart_on_the_free_plan():
    async with provider_of(AlphaVantage(), per_minute="50") as provider:
        for _ in range(4):
            await provider.latest(["IBM"])
        assert provider.waits.now == pytest.approx(3 * 1.2)


async def test_a_paid_plan_sends_five_a_second():
    async with provider_of(AlphaVantage(), per_minute="75") as provider:
        for _ in range(11):
            await provider.latest(["IBM"])
        assert provider.waits.now == 2.0


async def test_the_key_travels_in_the_query_only():
    fake = AlphaVantage()
    async with provider_of(fake) as provider:
        await provider.latest(["IBM"])
    assert fake.requests == [{"function": "GLOBAL_QUOTE", "symbol": "IBM", "apikey": KEY}]
    assert [(reply.params, outcome) for reply, outcome in provider.replies] == [
        ({"function": "GLOBAL_QUOTE", "symbol": "IBM"}, "ok")
    ]


async def test_a_check_says_that_a_key_cannot_be_checked():
    async with provider_of(AlphaVantage()) as provider:
        said = await provider.check()
    assert said == (
        "it answers, and takes any key: whether yours is valid shows only in its limits;"
        " 1 of 25 requests of today are used"
    )


async def test_a_check_without_a_key_raises():
    fake = AlphaVantage()
    fake.scripted = [JSONResponse({"Error Message": NO_KEY})]
    async with provider_of(fake) as provider:
        with pytest.raises(WrongKey, match="the key is missing or wrong"):
            await provider.check()


def test_the_fake_speaks_json_as_the_vendor_does():
    assert orjson.loads(orjson.dumps(AlphaVantage().time_series_daily({"symbol": "IBM"})))


# Plans ------------------------------------------------------------------------------------------


async def test_a_paid_plan_has_more_data_than_a_free_one():
    async with provider_of(AlphaVantage()) as free, provider_of(AlphaVantage(), per_day="0") as paid:
        assert free.capabilities == ALPHA_VANTAGE.capabilities
        assert free.capabilities.history.keys() == {"1d"}
        assert paid.capabilities.history.keys() == {"1d", "5m", "1m"}
        assert (free.capabilities.latest_symbols, paid.capabilities.latest_symbols) == (1, 1)
    async with provider_of(AlphaVantage(), per_day="0", entitlement="realtime") as realtime:
        assert realtime.capabilities.latest_symbols == 100


async def test_the_whole_depth_of_the_free_plan_is_free():
    fake = AlphaVantage()
    depth = ALPHA_VANTAGE.capabilities.history["1d"].depth
    async with provider_of(fake) as provider:
        found = await bars(provider, "1d", NOW - depth - timedelta(days=4), NOW)  # a plan made before a long weekend
    assert [request["outputsize"] for request in fake.requests] == ["compact"]
    assert found["ts"][0] <= NOW - depth
