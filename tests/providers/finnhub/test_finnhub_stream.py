"""The stream of `finnhub` against a WebSocket server on loopback that speaks as Finnhub does."""

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from providers.fakes.finnhub import KEY, FinnhubStream, sends, trade, trades
from stockpulse.ingest.redelivery import RedeliveryWindow
from stockpulse.ingest.validate import validate_ticks
from stockpulse.market.rows import PARSED_TICKS
from stockpulse.market.schemas import (
    COUNTS_FOR_PRICE,
    COUNTS_FOR_VOLUME,
    DAY_APART,
    DAY_PRICE,
    DAY_VOLUME,
    TICKS,
    UNREADABLE,
)
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.faults import (
    MuteStream,
    NotEntitled,
    ProviderFault,
    RateLimited,
    TooManyConnections,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.finnhub.conditions import finnhub
from stockpulse.providers.finnhub.provider import FINNHUB, Finnhub
from stockpulse.providers.trade_conditions import ALL

AT = 1_784_037_907_086
INSTANT = datetime(2026, 7, 14, 14, 5, 7, 86_000, tzinfo=UTC)
ENOUGH = 20
"""Seconds for what must happen at all; no test asserts a time."""


@asynccontextmanager
async def provider_of(fake, *symbols, key=KEY, silence_seconds=130.0):
    async with fake.serving() as url:
        values = {option.name: option.default or "" for option in FINNHUB.options} | {"key": key, "stream_url": url}
        provider = Finnhub(ProviderConfig(symbols, options=values), silence_seconds)
        try:
            yield provider
        finally:
            await provider.close()


async def frames_of(provider, count):
    frames = []
    async with asyncio.timeout(ENOUGH), aclosing(provider.stream()) as stream:
        async for frame in stream:
            frames.append(frame)
            if len(frames) == count:
                break
    return frames


async def ticks_of(*messages, symbols=("AAPL",)):
    async with provider_of(FinnhubStream(sends(*messages)), *symbols) as provider:
        (frame,) = await frames_of(provider, 1)
    return frame


async def fault_of(provider):
    async with asyncio.timeout(ENOUGH):
        with pytest.raises(ProviderFault) as raised:
            async for _ in provider.stream():
                pass
    assert KEY not in str(raised.value)
    return raised.value


class TestTrades:
    async def test_a_frame_has_trades_of_several_symbols(self):
        ticks = await ticks_of(
            trades(
                trade("AAPL", AT, 231.88, 100, c=["1", "12"]),
                trade("AAPL", AT + 5, 231.89, 3, c=["1", "24", "12"]),
                trade("BINANCE:BTCUSDT", AT + 7, 118250.01, 0.00231, c=None),
            )
        )
        assert ticks.schema == TICKS
        millis = [timedelta(milliseconds=ms) for ms in (0, 5, 7)]
        assert ticks.rows() == [
            ("AAPL", INSTANT + millis[0], 231.88, 100.0, None, "231.88x100.0", None, "1,12"),
            ("AAPL", INSTANT + millis[1], 231.89, 3.0, None, "231.89x3.0", None, "1,24,12"),
            ("BINANCE:BTCUSDT", INSTANT + millis[2], 118250.01, 0.00231, None, "118250.01x0.00231", None, None),
        ]

    @pytest.mark.parametrize("codes", [{}, {"c": None}, {"c": []}])
    async def test_missing_conditions(self, codes):
        assert (await ticks_of(trades(trade("AAPL", AT, 1.5, 2, **codes))))["conditions"].to_list() == [None]

    async def test_times_are_milliseconds_whatever_their_size(self):
        ticks = await ticks_of(trades(trade("AAPL", 1_784_037_907, 1.5, 2)))
        assert ticks["ts"].to_list() == [datetime(1970, 1, 21, 15, 33, 57, 907_000, tzinfo=UTC)]
        checked = validate_ticks(ticks, INSTANT, timedelta(seconds=5))
        assert checked.rejected["reason"].to_list() == ["ts: before 1990"]

    async def test_trades_of_a_frame_are_sorted_by_time(self):
        rows = [trade("AAPL", AT + ms, price, 1) for ms, price in ((7, 3.0), (2, 1.0), (7, 4.0), (3, 2.0))]
        assert (await ticks_of(trades(*rows)))["price"].to_list() == [1.0, 2.0, 3.0, 4.0]

    async def test_the_same_trade_in_a_frame_is_a_redelivery_whatever_its_conditions(self):
        once = trade("AAPL", AT, 231.88, 100, c=["1"])
        ticks = await ticks_of(
            trades(
                once,
                {**once, "c": ["1", "12"]},
                {**once, "c": None},
                {**once, "v": 101},
                {**once, "p": 231.89},
                {**once, "t": AT + 1},
                {**once, "s": "MSFT"},
            )
        )
        new = ticks.filter(pl.Series(RedeliveryWindow().sift(ticks)))
        assert new.select("symbol", "price", "size", "conditions").rows() == [
            ("AAPL", 231.88, 100, "1"),
            ("AAPL", 231.88, 101, "1"),
            ("AAPL", 231.89, 100, "1"),
            ("MSFT", 231.88, 100, "1"),
            ("AAPL", 231.88, 100, "1"),
        ]

    async def test_the_same_trade_after_a_reconnect_is_a_redelivery(self):
        window, counts = RedeliveryWindow(), []
        async with provider_of(FinnhubStream(sends(trades(trade("AAPL", AT, 1.5, 2)))), "AAPL") as provider:
            for _ in range(2):
                (frame,) = await frames_of(provider, 1)
                counts.append(int(window.sift(frame).sum()))
        assert counts == [1, 0]

    async def test_an_update_without_volume_is_a_price_alone(self):
        rows = [trade("AAPL", AT, 1.5, 0), trade("AAPL", AT, 1.5, 0, c=["1", "24"]), trade("AAPL", AT, 1.5, 1)]
        ticks = await ticks_of(trades(*rows))
        assert ticks["conditions"].to_list() == ["price-only", "price-only,1,24", None]
        assert not any(finnhub(codes) & (COUNTS_FOR_VOLUME | DAY_VOLUME) for codes in ticks["conditions"][:2])
        assert len(validate_ticks(ticks, INSTANT, timedelta(seconds=5)).rejected) == 0

    async def test_a_trade_that_cannot_be_read_keeps_its_reason_and_harms_no_other(self):
        good = trade("AAPL", AT, 1.5, 2)
        wrong = [
            {**good, "t": "soon"},
            {**good, "p": None},
            {**good, "v": [5]},
            {**good, "s": 7},
            {**good, "c": {"1": 2}},
            {},
            "trade",
        ]
        ticks = await ticks_of(trades(*wrong, good))
        assert ticks["problem"].to_list() == [
            "price: missing",
            "size: not a number: [5]",
            "symbol: not text: 7",
            "conditions: not text: {'1': 2}",
            None,
            "ts: not a number of milliseconds in the years 1970 to 2200: 'soon'",
            "symbol: missing; ts: missing; price: missing; size: missing",
            "not an object",
        ]
        assert validate_ticks(ticks, INSTANT, timedelta(seconds=5)).good["price"].to_list() == [1.5]


class TestConditions:
    @pytest.mark.parametrize(
        ("codes", "flags"),
        [
            ("", ALL),
            ("1", DAY_APART | ALL | DAY_PRICE | DAY_VOLUME),
            ("1,12", DAY_APART | COUNTS_FOR_VOLUME | DAY_VOLUME),
            ("1,24", DAY_APART | ALL | DAY_VOLUME),
            ("1,24,12", DAY_APART | COUNTS_FOR_VOLUME | DAY_VOLUME),
            ("price-only", COUNTS_FOR_PRICE),
            ("price-only,1", DAY_APART | COUNTS_FOR_PRICE | DAY_PRICE),
            ("price-only,1,24", DAY_APART | COUNTS_FOR_PRICE),
            ("price-only,12", DAY_APART),
            ("1,777", DAY_APART | COUNTS_FOR_VOLUME | DAY_VOLUME | UNREADABLE),
            ("@", DAY_APART | COUNTS_FOR_VOLUME | DAY_VOLUME | UNREADABLE),
        ],
    )
    def test_each(self, codes, flags):
        assert finnhub(codes) == flags
        assert FINNHUB.conditions(codes, "") == flags


class TestMessages:
    async def test_other_messages_are_ignored_and_no_ping_is_answered(self):
        others = [
            {"type": "ping"},
            {"type": "news", "data": [{"headline": "x"}]},
            {"type": "pr", "data": []},
            {"type": 5},
            {"hello": "world"},
            {"type": "trade", "data": None},
            trades(),
        ]
        fake = FinnhubStream(sends(*others, trades(trade("AAPL", AT, 1.5, 2))))
        async with provider_of(fake, "AAPL") as provider:
            assert len(await frames_of(provider, 1)) == 1
        assert fake.received == [{"type": "subscribe", "symbol": "AAPL"}]

    async def test_each_symbol_is_subscribed_by_a_message_of_its_own_without_waiting_for_an_answer(self):
        symbols = [f"S{number}" for number in range(50)]
        fake = FinnhubStream()
        arrived = asyncio.Event()

        async def when_all_are_there(connection):
            while len(fake.received) < 50:
                await asyncio.sleep(0.01)
            await sends(trades(trade("S0", AT, 1.5, 2)))(connection)
            arrived.set()

        fake.script = when_all_are_there
        async with provider_of(fake, *symbols, "S0") as provider:
            assert len(await frames_of(provider, 1)) == 1
        assert [body["symbol"] for body in fake.received] == symbols

    @pytest.mark.parametrize(
        ("message", "problem"),
        [
            ("no json", "not JSON"),
            ("[]", "not an object"),
            ("7", "not an object"),
            ('{"type":"trade","data":{"p":1}}', "data: not a list"),
        ],
    )
    async def test_a_message_that_cannot_be_read_keeps_its_reason_and_stops_nothing(self, message, problem):
        fake = FinnhubStream(sends(message, trades(trade("AAPL", AT, 1.5, 2))))
        async with provider_of(fake, "AAPL") as provider:
            wrong, good = await frames_of(provider, 2)
        assert wrong.schema == PARSED_TICKS
        assert wrong.select("symbol", "problem", "raw").rows() == [(None, problem, message)]
        assert good["price"].to_list() == [1.5]

    @pytest.mark.parametrize(
        ("message", "fault"),
        [
            ({"type": "error", "msg": "Invalid API key"}, WrongKey),
            ({"type": "error", "msg": f"Invalid API key {KEY}"}, WrongKey),
            ({"type": "error", "msg": "Too many requests"}, RateLimited),
        ],
    )
    async def test_messages_that_end_the_stream(self, message, fault):
        async with provider_of(FinnhubStream(sends(message)), "AAPL") as provider:
            assert type(await fault_of(provider)) is fault


class TestRefusedSymbols:
    async def test_an_unknown_symbol_is_named_and_stops_no_other(self):
        fake = FinnhubStream(sends(trades(trade("AAPL", AT, 1.5, 2))))
        fake.unknown = {"FX:EURUSD"}
        async with provider_of(fake, "FX:EURUSD", "AAPL") as provider:
            assert len(await frames_of(provider, 1)) == 1
            assert provider.refused_symbols == {"FX:EURUSD": "finnhub: Invalid symbol FX:EURUSD"}

    async def test_too_many_symbols_are_said(self):
        fake = FinnhubStream()
        fake.most_symbols = 2

        async def last(connection):
            while len(fake.received) < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await sends(trades(trade("A", AT, 1.5, 2)))(connection)

        fake.script = last
        async with provider_of(fake, "A", "B", "C") as provider:
            assert len(await frames_of(provider, 1)) == 1
            assert provider.refused_symbols == {
                "the stream": "finnhub does not stream all of the 3 symbols: Subscribing to too many symbols"
            }

    async def test_a_stream_without_any_symbol_ends(self):
        fake = FinnhubStream()
        fake.unknown = {"NOPE", "NADA"}
        async with provider_of(fake, "NOPE", "NADA") as provider:
            fault = await fault_of(provider)
        assert isinstance(fault, UnknownSymbol)
        assert "Invalid symbol NOPE" in str(fault)
        assert "Invalid symbol NADA" in str(fault)

    @pytest.mark.parametrize("said", [None, 5, {"a": 1}, "", "x" * 100_000])
    async def test_errors_of_any_shape(self, said):
        fake = FinnhubStream(sends({"type": "error", "msg": said}, trades(trade("AAPL", AT, 1.5, 2))))
        async with provider_of(fake, "AAPL") as provider:
            assert len(await frames_of(provider, 1)) == 1
            assert len(provider.refused_symbols["the stream"]) < 400


class TestConnections:
    @pytest.mark.parametrize(
        ("status", "fault"),
        [
            (401, WrongKey),
            (403, NotEntitled),
            (429, RateLimited),
            (200, Unreachable),
            (524, Unreachable),
            (502, Unreachable),
            (302, Unreachable),
        ],
    )
    async def test_a_handshake_that_opens_no_stream(self, status, fault):
        fake = FinnhubStream()
        fake.refusal = (status, f"<html>?token={KEY}".encode())
        async with provider_of(fake, "AAPL") as provider:
            assert type(await fault_of(provider)) is fault

    async def test_a_wrong_key_is_fatal(self):
        async with provider_of(FinnhubStream(), "AAPL", key="CANARY&other") as provider:
            fault = await fault_of(provider)
        assert isinstance(fault, WrongKey)
        assert "CANARY" not in str(fault)

    async def test_a_server_that_accepts_and_stays_mute_is_noticed(self):
        async with provider_of(FinnhubStream(), "AAPL", silence_seconds=0.3) as provider:
            fault = await fault_of(provider)
        assert isinstance(fault, MuteStream)
        assert "sends nothing" in str(fault)

    async def test_pings_keep_a_quiet_stream_open(self):
        async def pings(connection):
            for _ in range(5):
                await asyncio.sleep(0.2)
                await sends({"type": "ping"})(connection)
            await sends(trades(trade("AAPL", AT, 1.5, 2)))(connection)

        async with provider_of(FinnhubStream(pings), "AAPL", silence_seconds=0.6) as provider:
            assert len(await frames_of(provider, 1)) == 1

    async def test_one_stream_for_a_key(self):
        fake = FinnhubStream(sends(trades(trade("AAPL", AT, 1.5, 2))))
        async with provider_of(fake, "AAPL") as provider:
            async with aclosing(provider.stream()) as first:
                await asyncio.wait_for(anext(first), ENOUGH)
                assert isinstance(await fault_of(provider), TooManyConnections)
            assert len(await frames_of(provider, 1)) == 1

    async def test_a_connection_that_breaks_subscribes_anew(self):
        async def abort(connection):
            while len(fake.received) % 2:
                await asyncio.sleep(0.01)
            connection.transport.abort()

        fake = FinnhubStream(sends(trades(trade("AAPL", AT, 1.5, 2)), then=abort))
        async with provider_of(fake, "AAPL", "MSFT") as provider:
            for _ in range(2):
                assert type(await fault_of(provider)) is Unreachable
        assert sorted(body["symbol"] for body in fake.received) == ["AAPL", "AAPL", "MSFT", "MSFT"]


async def test_the_key_is_in_no_text(caplog, capsys):
    fake = FinnhubStream(sends(trades({"p": KEY}), {"type": "error", "msg": f"Invalid API key ?token={KEY}"}))
    with caplog.at_level(logging.DEBUG):
        async with provider_of(fake, "AAPL") as provider:
            (frame,) = await frames_of(provider, 1)
            await fault_of(provider)
    assert KEY not in "".join(frame["problem"].to_list() + frame["raw"].to_list())
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert KEY not in "".join([*ours, capsys.readouterr().out])
    assert fake.paths == [f"/?token={KEY}"] * 2
