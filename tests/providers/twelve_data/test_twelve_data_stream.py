"""The stream of `twelvedata` against a WebSocket server on loopback that speaks as Twelve Data does."""

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import orjson
import polars as pl
import pytest

from providers.fakes.twelve_data import KEY, WRONG_KEY, TwelveDataStream, error, price
from stockpulse.market.schemas import TICKS
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.faults import (
    BadRequest,
    MuteStream,
    NotEntitled,
    ProviderFault,
    RateLimited,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.twelve_data.names import AskedNames
from stockpulse.providers.twelve_data.provider import TWELVE_DATA, TwelveData

AT = 1_784_037_907
ENOUGH = 20
"""Seconds for what must happen at all; no test asserts a time."""


def sends(*messages, then=None):
    async def script(connection):
        for message in messages:
            await connection.send(message if isinstance(message, str) else orjson.dumps(message).decode())
        if then is not None:
            await then(connection)

    return script


@asynccontextmanager
async def provider_of(fake, *symbols, key=KEY, heartbeat_seconds=10.0):
    async with fake.serving() as url:
        values = {option.name: option.default or "" for option in TWELVE_DATA.options} | {"key": key, "stream_url": url}
        provider = TwelveData(ProviderConfig(symbols, options=values), heartbeat_seconds)
        try:
            yield provider
        finally:
            await provider.close()


async def ticks_of(provider, count):
    frames = []
    async with asyncio.timeout(ENOUGH), aclosing(provider.stream()) as stream:
        async for frame in stream:
            frames.append(frame)
            if len(frames) == count:
                break
    return pl.concat(frames, how="diagonal")


async def fault_of(provider):
    async with asyncio.timeout(ENOUGH):
        with pytest.raises(ProviderFault) as raised:
            async for _ in provider.stream():
                pass
    assert KEY not in str(raised.value)
    return raised.value


class TestTicks:
    async def test_sizes_are_the_growth_of_the_volume_of_the_day(self):
        fake = TwelveDataStream(
            sends(
                price("AAPL", AT, 231.88, day_volume=1000),
                price("AAPL", AT, 231.9, day_volume=1250),
                price("MSFT", AT, 500, day_volume=7),
                price("AAPL", AT + 1, 231.91, day_volume=1250),
                price("AAPL", AT + 2, 231.92, day_volume=30),
                price("AAPL", AT + 3, 231.93, day_volume=40),
                price("AAPL", AT + 4, 231.94),
                price("AAPL", AT + 5, 231.95, day_volume=90),
            )
        )
        async with provider_of(fake, "AAPL", "MSFT") as provider:
            ticks = await ticks_of(provider, 8)
        assert ticks.schema == TICKS
        assert ticks["size"].to_list() == [0, 250, 0, 0, 0, 10, 0, 50]
        only_prices = [size == 0 for size in ticks["size"]]
        assert [codes == "price-only" for codes in ticks["conditions"]] == only_prices
        assert ticks["price"].to_list() == [231.88, 231.9, 500.0, 231.91, 231.92, 231.93, 231.94, 231.95]
        assert ticks["ts"][0] == datetime.fromtimestamp(AT, UTC)
        assert ticks["trade_id"].null_count() == 8

    async def test_a_new_connection_knows_no_volume(self):
        fake = TwelveDataStream(sends(price("AAPL", AT, 1.0, day_volume=10), price("AAPL", AT, 1.0, day_volume=15)))
        async with provider_of(fake, "AAPL") as provider:
            for _ in range(2):
                assert (await ticks_of(provider, 2))["size"].to_list() == [0, 5]
        assert [body["action"] for body in fake.received] == ["subscribe", "subscribe"]

    async def test_pairs_without_volumes(self):
        fake = TwelveDataStream(
            sends(
                {
                    "event": "price",
                    "symbol": "EUR/USD",
                    "exchange": "FOREX",
                    "timestamp": AT,
                    "price": 1.16215,
                    "bid": 1.1621,
                }
            )
        )
        async with provider_of(fake, "EUR/USD") as provider:
            ticks = await ticks_of(provider, 1)
        assert ticks.select("symbol", "price", "size", "conditions").row(0) == ("EUR/USD", 1.16215, 0.0, "price-only")

    async def test_a_symbol_has_the_name_that_was_asked_for(self):
        fake = TwelveDataStream(sends(price("RY", AT, 200.5, exchange="TSX")))
        async with provider_of(fake, "RY:TSX") as provider:
            assert (await ticks_of(provider, 1))["symbol"].to_list() == ["RY:TSX"]
        assert fake.received[0] == {"action": "subscribe", "params": {"symbols": "RY:TSX"}}

    @pytest.mark.parametrize(
        ("asked", "message", "symbol"),
        [
            (("RY:TSX", "RY:NYSE"), {"symbol": "RY", "exchange": "NYSE"}, "RY:NYSE"),
            (("RY:TSX", "RY:XNYS"), {"symbol": "RY", "exchange": "NYSE", "mic_code": "XNYS"}, "RY:XNYS"),
            (("RY:TSX", "RY"), {"symbol": "RY", "exchange": "LSE"}, "RY"),
            (("RY:TSX", "RY:NYSE"), {"symbol": "RY:NYSE"}, "RY:NYSE"),
            (("RY:TSX", "RY:NYSE"), {"symbol": "RY"}, "RY"),
            (("RY",), {"symbol": "TD"}, "TD"),
            (("RY",), {"symbol": 5}, None),
            (("RY",), {}, None),
        ],
    )
    def test_names(self, asked, message, symbol):
        assert AskedNames(asked).asked(message) == symbol

    async def test_a_price_that_cannot_be_read_keeps_its_reason_and_stops_nothing(self):
        wrong = [
            price("AAPL", "soon", 1.0),
            price("AAPL", AT * 1000, 1.0),
            price("AAPL", AT, None),
            price(5, AT, 1.0),
            price("AAPL", AT, 1.0, day_volume="much"),
        ]
        fake = TwelveDataStream(sends(*wrong, price("AAPL", AT, 2.0)))
        async with provider_of(fake, "AAPL") as provider:
            ticks = await ticks_of(provider, 6)
        assert ticks["problem"].to_list() == [
            "ts: not a number of seconds in the years 1970 to 2200: 'soon'",
            f"ts: not a number of seconds in the years 1970 to 2200: {AT * 1000}",
            "price: missing",
            "symbol: not text: 5",
            "day_volume: not a number: 'much'",
            None,
        ]
        assert '"timestamp":"soon"' in ticks["raw"][0]


class TestSubscription:
    async def test_partial_fails_are_named(self, caplog):
        fake = TwelveDataStream(sends(price("AAPL", AT, 1.0)))
        async with provider_of(fake, "AAPL", "NOPE") as provider:
            assert len(await ticks_of(provider, 1)) == 1
            assert provider.refused_symbols == {
                "NOPE": "twelvedata does not stream NOPE: it is unknown, or not in the plan of the key"
            }

    async def test_a_stream_without_any_symbol_ends_and_names_them(self):
        async with provider_of(TwelveDataStream(), "NOPE", "NADA") as provider:
            fault = await fault_of(provider)
        assert isinstance(fault, BadRequest)
        assert "does not stream NOPE" in str(fault)
        assert "does not stream NADA" in str(fault)

    @pytest.mark.parametrize(
        "status",
        [
            {"status": "ok", "success": None, "fails": None},
            {"status": "ok", "success": None},
            {"status": "ok"},
            {"status": "ok", "success": [], "fails": []},
            {"status": "ok", "success": "AAPL", "fails": {}},
        ],
    )
    async def test_missing_and_null_lists(self, status):
        fake = TwelveDataStream(sends(price("AAPL", AT, 1.0)))
        fake.status = {"event": "subscribe-status", **status}
        async with provider_of(fake, "AAPL") as provider:
            assert len(await ticks_of(provider, 1)) == 1
            assert provider.refused_symbols == {}

    async def test_a_status_that_only_says_error_ends_the_stream(self):
        fake = TwelveDataStream()
        fake.status = {"event": "subscribe-status", "status": "error", "messages": ["too many symbols"]}
        async with provider_of(fake, "AAPL") as provider:
            assert "too many symbols" in str(await fault_of(provider))

    async def test_unknown_events_are_ignored(self):
        others = [
            {"event": "unsubscribe-status", "status": "ok"},
            {"event": "reset-status", "status": "error"},
            {"event": 5},
            {"event": None, "hello": "world"},
            {"event": "heartbeat", "status": "ok"},
        ]
        fake = TwelveDataStream(sends(*others, price("AAPL", AT, 1.0)))
        async with provider_of(fake, "AAPL") as provider:
            assert len(await ticks_of(provider, 1)) == 1


class TestFaults:
    @pytest.mark.parametrize(
        ("status", "body", "fault"),
        [
            (401, orjson.dumps(error(401, WRONG_KEY)), WrongKey),
            (200, orjson.dumps(error(401, WRONG_KEY)), WrongKey),
            (400, orjson.dumps(error(401, WRONG_KEY)), WrongKey),
            (403, orjson.dumps(error(403, "available exclusively with Pro plans")), NotEntitled),
            (429, b"Too Many Requests", RateLimited),
            (200, b"<html></html>", Unreachable),
            (502, b"<html></html>", Unreachable),
            (524, b"", Unreachable),
            (302, b"", Unreachable),
        ],
    )
    async def test_a_handshake_that_opens_no_stream(self, status, body, fault):
        fake = TwelveDataStream()
        fake.refusal = (status, body)
        async with provider_of(fake, "AAPL") as provider:
            assert type(await fault_of(provider)) is fault

    async def test_a_wrong_key_is_fatal(self):
        async with provider_of(TwelveDataStream(), "AAPL", key="CANARY-other") as provider:
            fault = await fault_of(provider)
        assert isinstance(fault, WrongKey)
        assert "CANARY" not in str(fault)

    @pytest.mark.parametrize(
        ("message", "fault"),
        [
            ({"status": "error", "code": 401, "message": WRONG_KEY}, WrongKey),
            ({"status": "error", "code": 429, "message": "You have run out of API credits"}, RateLimited),
            ({"status": "error", "code": 500, "message": f"internal {KEY}"}, Unreachable),
        ],
    )
    async def test_messages_that_end_the_stream(self, message, fault):
        async with provider_of(TwelveDataStream(sends(message)), "AAPL") as provider:
            assert type(await fault_of(provider)) is fault

    @pytest.mark.parametrize(("message", "problem"), [("no json", "not JSON"), ("[]", "not an object")])
    async def test_a_message_that_cannot_be_read_keeps_its_reason_and_stops_nothing(self, message, problem):
        fake = TwelveDataStream(sends(message, price("AAPL", AT, 1.0)))
        async with provider_of(fake, "AAPL") as provider:
            ticks = await ticks_of(provider, 2)
        assert ticks.select("price", "problem", "raw").rows() == [(None, problem, message), (1.0, None, None)]

    async def test_an_error_about_one_message_does_not(self):
        error_frame = {"status": "error", "code": 400, "message": "Unknown action"}
        fake = TwelveDataStream(sends(error_frame, price("AAPL", AT, 1.0)))
        async with provider_of(fake, "AAPL") as provider:
            assert len(await ticks_of(provider, 1)) == 1

    async def test_a_connection_that_breaks(self):
        async def abort(connection):
            connection.transport.abort()

        fake = TwelveDataStream(sends(price("AAPL", AT, 1.0), then=abort))
        async with provider_of(fake, "AAPL") as provider:
            assert type(await fault_of(provider)) is Unreachable


class TestHeartbeats:
    async def test_they_are_sent_and_keep_a_quiet_stream_open(self):
        fake = TwelveDataStream()

        async def after_five(connection):
            while len(fake.received) < 6:
                await asyncio.sleep(0.01)
            await connection.send(orjson.dumps(price("AAPL", AT, 1.0)).decode())

        fake.script = after_five
        async with provider_of(fake, "AAPL", heartbeat_seconds=0.2) as provider:
            assert len(await ticks_of(provider, 1)) == 1
        assert fake.received[1:6] == [{"action": "heartbeat"}] * 5

    async def test_a_server_that_accepts_and_stays_mute_is_noticed(self):
        fake = TwelveDataStream()
        fake.answers_heartbeats = False
        async with provider_of(fake, "AAPL", heartbeat_seconds=0.2) as provider:
            fault = await fault_of(provider)
        assert isinstance(fault, MuteStream)
        assert "sends nothing" in str(fault)


async def test_the_key_is_in_a_header_and_nowhere_else(caplog, capsys):
    wrong = price("AAPL", "soon", 1.0, note=KEY)
    fake = TwelveDataStream(sends(wrong, {"status": "error", "code": 500, "message": f"?apikey={KEY}"}))
    with caplog.at_level(logging.DEBUG):
        async with provider_of(fake, "AAPL", "NOPE") as provider:
            assert KEY not in (await ticks_of(provider, 1))["raw"][0]
            await fault_of(provider)
    assert fake.paths == ["/v1/quotes/price"] * 2
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert KEY not in "".join([*ours, capsys.readouterr().out])
