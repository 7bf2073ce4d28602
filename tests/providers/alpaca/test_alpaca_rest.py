"""The REST API of Alpaca: the real client against a server on loopback that misbehaves by its switches."""

import asyncio
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from starlette.responses import HTMLResponse, JSONResponse

from providers.alpaca.alpaca_provider import at, bar, provider_of, trade
from providers.fakes.alpaca import KEY, SECRET, FakeAlpaca, rate_headers, text_of
from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.transport.transport import Transport

OPEN, CLOSE = at("2026-07-14T13:30:00"), at("2026-07-14T20:00:00")
LATER = at("2026-07-15T12:00:00")


@pytest.fixture
async def fake():
    async with FakeAlpaca() as fake:
        fake.now = lambda: LATER
        yield fake


def minutes(count, first="2026-07-14T13:30:00"):
    return [bar(f"{at(first) + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}") for minute in range(count)]


async def all_of(frames):
    found = [frame async for frame in frames]
    return pl.concat(found) if found else pl.DataFrame()


class TestPages:
    @pytest.fixture
    async def three(self, fake):
        fake.switches.page_rows = 4
        for symbol in ("AAPL", "IBM", "MSFT"):
            fake.bars[symbol, "1Min"] = minutes(5)
        return fake

    async def test_three_symbols_come_in_four_pages_with_the_same_parameters(self, three):
        async with provider_of(three, now=lambda: LATER) as provider:
            bars = await all_of(provider.history(("AAPL", "IBM", "MSFT"), "1m", OPEN, CLOSE))
        assert bars.schema == BARS
        assert bars.group_by("symbol", maintain_order=True).len().rows() == [("AAPL", 5), ("IBM", 5), ("MSFT", 5)]
        assert all(rows["ts"].is_sorted() for _, rows in bars.group_by("symbol"))
        requests = [params for _, params in three.requests]
        tokens = [params.pop("page_token", None) for params in requests]
        assert len(requests) == 4
        assert len(set(tokens)) == 4
        assert all(params == requests[0] for params in requests)

    async def test_adjustment_feed_order_and_limit_are_always_sent(self, three):
        async with provider_of(three, now=lambda: LATER) as provider:
            await all_of(provider.history(("AAPL",), "1m", OPEN, CLOSE))
        _, params = three.requests[0]
        assert {name: params[name] for name in ("adjustment", "feed", "sort", "limit", "timeframe")} == {
            "adjustment": "raw",
            "feed": "sip",
            "sort": "asc",
            "limit": "10000",
            "timeframe": "1Min",
        }

    async def test_an_empty_page_with_a_token_does_not_end_the_loop(self, three):
        three.switches.empty_pages = True
        async with provider_of(three, now=lambda: LATER) as provider:
            assert len(await all_of(provider.history(("AAPL", "IBM", "MSFT"), "1m", OPEN, CLOSE))) == 15
        assert len(three.requests) == 7

    async def test_a_missing_token_ends_it(self, fake):
        fake.switches.answers = [JSONResponse({"bars": {"AAPL": minutes(1)}})]
        async with provider_of(fake, now=lambda: LATER) as provider:
            assert len(await all_of(provider.history(("AAPL",), "1m", OPEN, CLOSE))) == 1

    async def test_a_page_that_names_itself_as_the_next_is_no_endless_loop(self, fake):
        fake.switches.answers = [JSONResponse({"bars": None, "next_page_token": "x"}) for _ in range(3)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            with pytest.raises(BadReply, match="names itself"):
                await all_of(provider.history(("AAPL",), "1m", OPEN, CLOSE))

    async def test_symbols_come_in_alphabetical_order_a_hundred_per_request(self, fake):
        symbols = [f"S{chr(65 + number // 26)}{chr(65 + number % 26)}" for number in range(150)]
        for symbol in symbols:
            fake.bars[symbol, "1Day"] = [bar("2026-07-14T04:00:00Z")]
        async with provider_of(fake, now=lambda: LATER) as provider:
            bars = await all_of(provider.history(symbols[::-1], "1d", at("2026-07-14T04:00:00"), CLOSE))
        assert bars["symbol"].to_list() == symbols
        assert [len(params["symbols"].split(",")) for _, params in fake.requests] == [100, 50]


class TestRanges:
    async def test_the_end_is_left_out_although_alpaca_includes_it(self, fake):
        fake.bars["AAPL", "1Min"] = minutes(5)
        async with provider_of(fake, now=lambda: LATER) as provider:
            bars = await all_of(provider.history(("AAPL",), "1m", OPEN, OPEN + timedelta(minutes=3)))
        assert bars["ts"].to_list() == [OPEN + timedelta(minutes=minute) for minute in range(3)]

    async def test_no_trade_of_the_last_microsecond_is_missed(self, fake):
        fake.trades["AAPL"] = [trade("2026-07-14T13:59:59.999999999Z", 1), trade("2026-07-14T14:00:00Z", 2)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks = await all_of(provider.trades(("AAPL",), OPEN, at("2026-07-14T14:00:00")))
        assert ticks["trade_id"].to_list() == ["1"]


@pytest.mark.parametrize("label", ["2026-07-14T04:00:00Z", "2026-01-14T05:00:00Z"])
async def test_daily_bars_are_stamped_with_midnight_in_new_york(fake, label):
    fake.bars["AAPL", "1Day"] = [bar(label)]
    async with provider_of(fake, now=lambda: LATER) as provider:
        bars = await all_of(provider.history(("AAPL",), "1d", at("2026-01-01T05:00:00"), CLOSE))
    local = bars["ts"].dt.convert_time_zone("America/New_York")
    assert local.dt.strftime("%Y-%m-%d %H:%M").to_list() == [f"{label[:10]} 00:00"]
    assert bars["interval"].to_list() == ["1d"]


async def test_an_interval_that_it_lacks_is_refused_at_once(fake):
    async with provider_of(fake) as provider:
        with pytest.raises(BadRequest, match="1m, 5m, 1d"):
            await all_of(provider.history(("AAPL",), "7m", OPEN, CLOSE))
    assert fake.requests == []


@pytest.mark.parametrize("empty", [None, {}, []])
async def test_empty_replies_in_all_their_forms_are_no_rows(fake, empty):
    fake.switches.empty = empty
    async with provider_of(fake, now=lambda: LATER) as provider:
        assert len(await all_of(provider.history(("AAPL",), "1d", OPEN, CLOSE))) == 0
        assert len(await all_of(provider.trades(("AAPL",), OPEN, CLOSE))) == 0
        latest = await provider.latest(("AAPL", "MSFT"))
    assert latest.schema == TICKS
    assert len(latest) == 0


class TestTrades:
    async def test_all_fields_of_a_trade(self, fake):
        fake.trades["AAPL"] = [trade("2026-07-14T14:05:07.086175744Z", 2**53 + 1, c=["@", "I"], p=231)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks = await all_of(provider.trades(("AAPL",), OPEN, CLOSE))
        assert ticks.schema == TICKS
        assert ticks.row(0, named=True) == {
            "symbol": "AAPL",
            "ts": datetime(2026, 7, 14, 14, 5, 7, 86175, UTC),
            "price": 231.0,
            "size": 100.0,
            "exchange": "V",
            "trade_id": "9007199254740993",
            "tape": "C",
            "conditions": "@,I",
        }

    async def test_times_with_any_number_of_digits(self, fake):
        times = ["07Z", "07.208Z", "07.208123Z", "07.08960768Z", "07.086175744Z"]
        fake.trades["AAPL"] = [trade(f"2026-07-14T14:05:{text}", number) for number, text in enumerate(times)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks = await all_of(provider.trades(("AAPL",), OPEN, CLOSE))
        found = dict(zip(ticks["trade_id"].to_list(), ticks["ts"].dt.microsecond().to_list(), strict=True))
        assert found == {"0": 0, "1": 208000, "2": 208123, "3": 89607, "4": 86175}

    async def test_a_regular_sale_on_tape_a_keeps_its_space(self, fake):
        fake.trades["F"] = [trade("2026-07-14T14:05:07Z", 1, c=[" ", "I"], z="A")]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks = await all_of(provider.trades(("F",), OPEN, CLOSE))
        assert ticks.select("conditions", "tape").row(0) == (" ,I", "A")

    async def test_cancelled_and_replaced_trades_are_left_out(self, fake):
        fake.trades["AAPL"] = [
            trade("2026-07-14T14:05:07Z", 1),
            trade("2026-07-14T14:05:08Z", 2, u="canceled"),
            trade("2026-07-14T14:05:09Z", 3, u="incorrect"),
            trade("2026-07-14T14:05:09Z", 4, u="corrected"),
        ]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks, cancels = [frame async for frame in provider.trades(("AAPL",), OPEN, CLOSE)]
        assert ticks["trade_id"].to_list() == ["1", "4"]
        assert cancels.schema == CORRECTIONS
        assert cancels.select("trade_id", "price").rows() == [("2", None), ("3", None)]

    async def test_a_right_trade_with_the_id_of_the_wrong_one_is_not_cancelled(self, fake):
        fake.trades["AAPL"] = [
            trade("2026-07-14T14:05:09Z", 3, u="incorrect"),
            trade("2026-07-14T14:05:09Z", 3, u="corrected"),
        ]
        async with provider_of(fake, now=lambda: LATER) as provider:
            (ticks,) = [frame async for frame in provider.trades(("AAPL",), OPEN, CLOSE)]
        assert ticks["trade_id"].to_list() == ["3"]

    @pytest.mark.parametrize(("feed", "asked"), [("iex", "iex"), ("sip", "sip"), ("delayed_sip", "sip")])
    async def test_they_are_of_the_feed_that_is_streamed(self, fake, feed, asked):
        async with provider_of(fake, now=lambda: LATER, feed=feed) as provider:
            await all_of(provider.trades(("AAPL",), OPEN, CLOSE))
        assert fake.requests[0][1]["feed"] == asked

    async def test_a_row_that_cannot_be_read_keeps_its_reason(self, fake):
        good, bad = trade("2026-07-14T14:05:07Z", 1), trade("2026-07-14T14:05:08Z", 2, p="much")
        fake.switches.answers = [JSONResponse({"trades": {"AAPL": [good, bad, 7]}, "next_page_token": None})]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks = await all_of(provider.trades(("AAPL",), OPEN, CLOSE))
        assert ticks["problem"].to_list() == [None, "price: not a number: 'much'", "not an object"]
        assert '"p":"much"' in ticks["raw"][1]


class TestLatest:
    async def test_of_all_exchanges_if_the_plan_has_them(self, fake):
        fake.trades["AAPL"] = [trade("2026-07-14T14:05:07Z", 1)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            ticks = await provider.latest(("AAPL", "NONE"))
        assert ticks.select("symbol", "price").rows() == [("AAPL", 231.88)]
        assert [params["feed"] for _, params in fake.requests] == ["sip"]

    async def test_otherwise_of_iex_and_sip_is_not_asked_again(self, fake):
        fake.switches.has_sip = False
        fake.trades["AAPL"] = [trade("2026-07-14T14:05:07Z", 1)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            for _ in range(2):
                assert len(await provider.latest(("AAPL",))) == 1
        assert [params["feed"] for _, params in fake.requests] == ["sip", "iex", "iex"]


class TestPlan:
    NOW = at("2026-07-14T14:00:30")

    @pytest.fixture
    async def free(self, fake):
        """A free plan: SIP data up to 15 minutes ago."""
        fake.now = lambda: self.NOW
        fake.switches.has_sip = False
        for symbol in ("AAPL", "IBM", "MSFT"):
            fake.bars[symbol, "1Min"] = minutes(30)
        return fake

    async def test_recent_bars_come_from_iex_after_the_older_ones_of_their_symbol(self, free):
        free.switches.page_rows = 20
        async with provider_of(free, now=lambda: self.NOW) as provider:
            bars = await all_of(provider.history(("AAPL", "IBM", "MSFT"), "1m", OPEN, self.NOW))
        expected = [(one, OPEN + timedelta(minutes=m)) for one in ("AAPL", "IBM", "MSFT") for m in range(30)]
        assert bars.select("symbol", "ts").rows() == expected
        feeds = [(params["feed"], params["start"][11:16], params["end"][11:16]) for _, params in free.requests]
        assert feeds[0] == ("sip", "13:30", "14:00")
        assert set(feeds[1:]) == {("iex", "13:44", "14:00"), ("sip", "13:30", "13:43")}

    async def test_a_symbol_that_only_iex_has_keeps_its_place(self, free):
        free.bars["IBM", "1Min"] = minutes(3, "2026-07-14T13:50:00")
        async with provider_of(free, now=lambda: self.NOW) as provider:
            bars = await all_of(provider.history(("AAPL", "IBM", "MSFT"), "1m", OPEN, self.NOW))
        assert bars["symbol"].unique(maintain_order=True).to_list() == ["AAPL", "IBM", "MSFT"]

    async def test_no_bar_of_five_minutes_is_cut_in_two(self, free):
        free.bars["AAPL", "5Min"] = minutes(30)[::5]
        async with provider_of(free, now=lambda: self.NOW) as provider:
            bars = await all_of(provider.history(("AAPL",), "5m", OPEN, self.NOW))
        assert len(bars) == 6
        assert ("iex", "13:40") in {(params["feed"], params["start"][11:16]) for _, params in free.requests}

    async def test_who_follows_all_exchanges_is_told(self, free):
        async with provider_of(free, now=lambda: self.NOW, feed="sip") as provider:
            with pytest.raises(NotEntitled, match=r"subscription does not permit.*STOCKPULSE_ALPACA_FEED"):
                await all_of(provider.history(("AAPL",), "1m", OPEN, self.NOW))

    @pytest.mark.parametrize("status", [403, 422])
    async def test_the_message_counts_and_not_the_status(self, free, status):
        free.switches.no_sip_status = status
        async with provider_of(free, now=lambda: self.NOW) as provider:
            assert len(await all_of(provider.history(("AAPL",), "1m", OPEN, self.NOW))) == 30


class TestSymbols:
    @pytest.mark.parametrize(
        "text", ["code=400, message=invalid symbol: {}", "invalid symbol: {}", "invalid symbol(s): {}"]
    )
    async def test_a_bad_one_is_taken_out_and_the_others_are_asked_for_again(self, fake, text):
        fake.switches.bad_symbols, fake.switches.bad_symbol_text = frozenset({"SPX", "VIX"}), text
        fake.bars["AAPL", "1Day"] = [bar("2026-07-14T04:00:00Z")]
        fake.trades["AAPL"] = [trade("2026-07-14T14:05:07Z", 1)]
        async with provider_of(fake, now=lambda: LATER) as provider:
            bars = await all_of(provider.history(("AAPL", "SPX", "VIX"), "1d", at("2026-07-01T00:00:00"), CLOSE))
            latest = await provider.latest(("SPX", "AAPL"))
        assert bars["symbol"].to_list() == ["AAPL"]
        assert latest["symbol"].to_list() == ["AAPL"]
        assert [params["symbols"] for _, params in fake.requests] == [
            "AAPL,SPX,VIX",
            "AAPL,VIX",
            "AAPL",
            "SPX,AAPL",
            "AAPL",
        ]

    async def test_a_bad_one_alone_is_an_error(self, fake):
        fake.switches.bad_symbols = frozenset({"SPX"})
        async with provider_of(fake) as provider:
            with pytest.raises(UnknownSymbol, match="does not know the symbol SPX") as raised:
                await provider.latest(("SPX",))
        assert raised.value.symbol == "SPX"


class TestErrors:
    @pytest.mark.parametrize("kind", ["html", "401"])
    async def test_a_wrong_key_is_said_once_and_not_shown(self, fake, kind):
        fake.switches.bad_key = kind
        async with provider_of(fake, key="WRONG" + KEY) as provider:
            with pytest.raises(WrongKey, match="STOCKPULSE_ALPACA_KEY") as raised:
                await provider.latest(("AAPL",))
        assert KEY not in str(raised.value)
        assert len(fake.requests) == 1

    @pytest.mark.parametrize("status", [500, 502, 504])
    async def test_faults_of_the_server_pass(self, fake, status):
        fake.switches.answers = [HTMLResponse("<html>oops</html>", status), JSONResponse({"code": 50010000}, status)]
        fake.trades["AAPL"] = [trade("2026-07-14T14:05:07Z", 1)]
        async with provider_of(fake, transport=quick()) as provider:
            assert len(await provider.latest(("AAPL",))) == 1

    async def test_a_server_that_stays_broken_is_said(self, fake):
        fake.switches.answers = [JSONResponse({"message": f"key {KEY}"}, 500) for _ in range(4)]
        async with provider_of(fake, transport=quick()) as provider:
            with pytest.raises(Unreachable, match=r"HTTP 500: key \[hidden\]"):
                await provider.latest(("AAPL",))

    @pytest.mark.parametrize(("status", "body"), [(400, "invalid feed: x"), (404, "not found"), (422, "limit: bad")])
    async def test_a_bad_request_is_not_sent_again(self, fake, status, body):
        fake.switches.answers = [JSONResponse({"message": body}, status)]
        async with provider_of(fake) as provider:
            with pytest.raises(BadRequest, match=body):
                await provider.latest(("AAPL",))
        assert len(fake.requests) == 1

    async def test_a_reply_of_another_shape_is_said(self, fake):
        fake.switches.answers = [JSONResponse({"trades": "none"})]
        async with provider_of(fake) as provider:
            with pytest.raises(BadReply, match="no object"):
                await provider.latest(("AAPL",))


class Sleeps:
    """A sleep that takes no time, and its length."""

    def __init__(self):
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)


def quick():
    return Transport(sleep=Sleeps().sleep)


class TestLimits:
    async def test_all_clients_of_a_key_share_its_limit(self, fake):
        transport = Transport()
        async with (
            provider_of(fake, transport=transport, per_minute="3") as one,
            provider_of(fake, transport=transport, per_minute="3") as other,
        ):
            assert one._rest._client.limit is other._rest._client.limit

    @pytest.mark.parametrize("header", ["X-RateLimit-Reset", "Retry-After"])
    async def test_after_429_requests_wait_until_the_time_that_the_reply_names(self, fake, header):
        headers = {"Retry-After": "20"} if header == "Retry-After" else rate_headers(0, time.time() + 20)
        fake.switches.answers = [JSONResponse({"message": "too many requests."}, 429, headers)]
        async with provider_of(fake) as provider:
            limit = provider._rest._client.limit
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(provider.latest(("AAPL",)), 1)
            assert 10 < limit.paused_seconds <= 20

    async def test_a_limit_that_is_used_up_is_waited_for_without_an_error(self, fake):
        fake.switches.remaining = 0
        async with provider_of(fake) as provider:
            await provider.latest(("AAPL",))
            assert provider._rest._client.limit.paused_seconds > 10

    async def test_a_pause_that_is_too_long_is_raised(self, fake):
        headers = rate_headers(0, time.time() + 3600)
        fake.switches.answers = [JSONResponse({"message": "too many requests."}, 429, headers)]
        async with provider_of(fake) as provider:
            with pytest.raises(RateLimited, match="STOCKPULSE_ALPACA_PER_MINUTE") as raised:
                await provider.latest(("AAPL",))
        assert raised.value.until > datetime.now(UTC)


class TestCheck:
    async def test_a_paid_plan(self, fake):
        async with provider_of(fake) as provider:
            assert await provider.check() == (
                "the key works: live data of all exchanges (SIP); 200 requests per minute"
            )

    async def test_a_free_plan(self, fake):
        fake.switches.has_sip = False
        async with provider_of(fake) as provider:
            assert "live data of IEX" in await provider.check()

    async def test_a_wrong_key(self, fake):
        async with provider_of(fake, secret="wrong") as provider:
            with pytest.raises(WrongKey):
                await provider.check()


async def test_corporate_actions(fake):
    fake.actions = {
        "forward_splits": [
            {
                "id": "1",
                "symbol": "A",
                "new_rate": 2,
                "old_rate": 1,
                "process_date": "2026-07-13",
                "ex_date": "2026-07-13",
            }
        ],
        "cash_dividends": [{"id": "2", "symbol": "A", "rate": 0.1, "process_date": "2026-07-14", "ex_date": None}],
        "name_changes": [{"old_symbol": "ESAC", "new_symbol": "ZEO", "process_date": "2026-07-14"}],
    }
    async with provider_of(fake) as provider:
        actions = await provider.corporate_actions(("A", "ESAC"), OPEN, CLOSE)
    assert actions.select("kind", "symbol", "new_symbol", "old_rate", "new_rate", "cash").rows() == [
        ("forward_splits", "A", None, 1.0, 2.0, None),
        ("cash_dividends", "A", None, None, None, 0.1),
        ("name_changes", "ESAC", "ZEO", None, None, None),
    ]
    assert fake.requests[0][1]["end"] == "2026-07-14"


async def test_no_log_line_and_no_reply_has_the_key(fake, caplog):
    caplog.set_level("DEBUG")
    replies = []
    transport = Transport(on_reply=lambda reply, outcome: replies.append((reply, outcome)))
    fake.switches.answers = [JSONResponse({"trades": {}, "you": [KEY, SECRET]})]
    async with provider_of(fake, transport=transport) as provider:
        await provider.latest(("AAPL",))
    ((reply, outcome),) = replies
    assert outcome == "ok"
    assert b"[hidden]" in reply.body
    assert not any(secret in f"{reply}{caplog.text}" for secret in (KEY, SECRET))


async def test_large_pages_are_closed_when_the_reader_stops(fake):
    fake.switches.page_rows = 2
    fake.bars["AAPL", "1Min"] = minutes(10)
    async with (
        provider_of(fake, now=lambda: LATER) as provider,
        aclosing(provider.history(("AAPL",), "1m", OPEN, CLOSE)) as frames,
    ):
        async for _ in frames:
            break
    assert len(fake.requests) == 1


def test_the_fake_writes_times_as_alpaca_does():
    assert text_of(1784037907086175744) == "2026-07-14T14:05:07.086175744Z"
    assert text_of(1784037907208000000) == "2026-07-14T14:05:07.208Z"
    assert text_of(1784037907000000000) == "2026-07-14T14:05:07Z"
