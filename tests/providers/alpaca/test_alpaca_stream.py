"""The stream of Alpaca: the real client against a server on loopback that misbehaves by its switches."""

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import polars as pl
import pytest
import structlog

from providers.alpaca.alpaca_provider import at, bar, provider_of, trade
from providers.fakes.alpaca import KEY, SECRET, FakeAlpaca
from providers.fakes.rough_network import RoughNetwork
from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS, kind_of
from stockpulse.providers.faults import (
    BadRequest,
    MuteStream,
    NotEntitled,
    ProviderFault,
    RateLimited,
    TooManyConnections,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.transport.transport import Transport

ENOUGH = 20
"""Seconds for what must happen at all; no test asserts a time."""
OPEN = at("2026-07-14T13:30:00")


@pytest.fixture
async def fake():
    async with FakeAlpaca() as fake:
        yield fake


async def until(condition):
    async with asyncio.timeout(ENOUGH):
        while not condition():
            await asyncio.sleep(0.01)


class Stream:
    """Reads a stream in the background."""

    def __init__(self, provider):
        self.frames = []
        self.fault = None
        self._task = asyncio.create_task(self._read(provider))

    async def _read(self, provider):
        try:
            async with aclosing(provider.stream()) as frames:
                async for frame in frames:
                    self.frames.append(frame)
        except ProviderFault as fault:
            self.fault = fault

    def of(self, kind):
        found = [frame for frame in self.frames if kind_of(frame) == kind]
        return pl.concat(found, how="diagonal") if found else pl.DataFrame()

    async def broken(self):
        await asyncio.wait_for(self._task, ENOUGH)
        return self.fault

    async def close(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def streaming(fake, *symbols, **options):
    """The stream, once it is subscribed or broken."""
    async with provider_of(fake, *symbols, **options) as provider:
        stream = Stream(provider)
        stream.provider = provider
        try:
            await until(lambda: stream._task.done() or is_subscribed(fake))
            yield stream
        finally:
            await stream.close()


def is_subscribed(fake):
    return any(any(client.subscribed.values()) for client in fake.clients)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
class TestData:
    async def test_a_frame_of_several_types(self, fake, encoding):
        async with streaming(fake, "AAPL", encoding=encoding) as stream:
            await fake.publish(
                [
                    {"T": "t", "S": "AAPL", **trade("2026-07-14T14:05:07.086175744Z", 2**60, c=["@", "I"])},
                    {"T": "b", "S": "AAPL", **bar("2026-07-14T13:31:00Z")},
                    {"T": "q", "S": "AAPL", "ax": "V", "ap": 1, "as": 1, "bx": "V", "bp": 1, "bs": 1, "c": ["R"]},
                    {"T": "news", "S": "AAPL", "t": "2026-07-14T13:31:00Z"},
                    {"T": ["?"], "S": 7},
                ],
                to_all=True,
            )
            await until(lambda: len(stream.frames) == 2)
        ticks, bars = stream.frames
        assert (ticks.schema, bars.schema) == (TICKS, BARS)
        assert ticks.row(0) == (
            "AAPL",
            at("2026-07-14T14:05:07.086175"),
            231.88,
            100.0,
            "V",
            "1152921504606846976",
            "C",
            "@,I",
        )
        assert bars.row(0) == (
            "AAPL",
            "1m",
            at("2026-07-14T13:31:00"),
            231.74,
            232.05,
            231.0,
            231.9,
            201987.0,
            2310,
            231.836901,
        )

    async def test_bars_of_minutes_their_later_versions_and_days(self, fake, encoding):
        async with streaming(fake, "AAPL", encoding=encoding) as stream:
            for kind, text in (("b", "13:31"), ("u", "13:31"), ("d", "04:00")):
                await fake.publish([{"T": kind, "S": "AAPL", **bar(f"2026-07-14T{text}:00Z", close=231.5)}])
            await until(lambda: len(stream.of("bars")) == 3)
        assert stream.of("bars").select("interval", "ts").rows() == [
            ("1m", at("2026-07-14T13:31:00")),
            ("1m", at("2026-07-14T13:31:00")),
            ("1d", at("2026-07-14T04:00:00")),
        ]

    async def test_cancels_and_corrections_are_no_trades(self, fake, encoding):
        wrong, right = trade("2026-07-14T14:05:07Z", 1, z="A"), trade("2026-07-14T14:05:08Z", 2, z="A")
        async with streaming(fake, "AAPL", encoding=encoding) as stream:
            await fake.trade("AAPL", wrong)
            await fake.trade("AAPL", right)
            await fake.cancel("AAPL", wrong)
            await fake.correct("AAPL", right, 231.9, 50, 3)
            await until(lambda: len(stream.of("corrections")) == 2)
        assert len(stream.of("ticks")) == 2
        corrections = stream.of("corrections")
        assert corrections.schema == CORRECTIONS
        assert corrections.rows() == [
            ("AAPL", at("2026-07-14T14:05:07"), "V", "1", None, None, None, None, None),
            ("AAPL", at("2026-07-14T14:05:08"), "V", "2", 231.9, 50.0, "@", "A", "3"),
        ]

    async def test_a_correction_without_a_price_is_no_cancel(self, fake, encoding):
        message = {"T": "c", "S": "AAPL", "oi": 1, "ci": 2, "cs": 5, "t": "2026-07-14T14:05:08Z"}
        async with streaming(fake, "AAPL", encoding=encoding) as stream:
            await fake.publish([message])
            await until(lambda: len(stream.frames) == 1)
        assert stream.frames[0]["problem"].to_list() == ["price: missing"]

    async def test_what_cannot_be_read_is_kept_with_its_reason_and_ends_nothing(self, fake, encoding):
        good = {"T": "t", "S": "AAPL", **trade("2026-07-14T14:05:07Z", 1)}
        async with streaming(fake, "AAPL", encoding=encoding) as stream:
            client = fake.clients[0]
            await client.connection.send(f"{{{KEY}".encode() if encoding == "msgpack" else f"{{{KEY}")
            await client.connection.send(b"\x07" if encoding == "msgpack" else "7")
            await fake.publish([{**good, "p": "much"}, good])
            await until(lambda: len(stream.of("ticks")) == 4)
        problems = [problem for problem in stream.of("ticks")["problem"].to_list() if problem]
        assert any("not in the encoding" in problem for problem in problems)
        assert "not an array of messages" in problems
        assert "price: not a number: 'much'" in problems
        assert KEY not in stream.of("ticks").write_json()

    async def test_many_messages_make_few_frames(self, fake, encoding):
        async with streaming(fake, "AAPL", encoding=encoding) as stream:
            for number in range(2000):
                await fake.publish([{"T": "t", "S": "AAPL", **trade("2026-07-14T14:05:07Z", number)}])
            await until(lambda: len(stream.of("ticks")) == 2000)
        assert stream.of("ticks")["trade_id"].to_list() == [str(number) for number in range(2000)]
        assert len(stream.frames) < 2000


class TestHandshake:
    @pytest.mark.parametrize(
        ("feed", "path"),
        [
            ("iex", "/v2/iex"),
            ("sip", "/v2/sip"),
            ("delayed_sip", "/v2/delayed_sip"),
            ("test", "/v2/test"),
            ("boats", "/v1beta1/boats"),
            ("overnight", "/v1beta1/overnight"),
        ],
    )
    async def test_the_feed_is_in_the_address(self, fake, feed, path):
        async with streaming(fake, feed=feed):
            assert fake.paths == [path]

    async def test_auth_waits_for_the_greeting_and_subscribing_for_auth(self, fake):
        fake.switches.greeting = None
        async with provider_of(fake) as provider:
            stream = Stream(provider)
            await until(lambda: fake.paths)
            await asyncio.sleep(0.2)
            assert fake.messages == []
            await stream.close()

    async def test_all_channels_are_subscribed_after_auth(self, fake):
        async with streaming(fake, "AAPL", "MSFT"):
            assert fake.messages == [
                {"action": "auth", "key": KEY, "secret": SECRET},
                {
                    "action": "subscribe",
                    "trades": ["AAPL", "MSFT"],
                    "bars": ["AAPL", "MSFT"],
                    "updatedBars": ["AAPL", "MSFT"],
                    "dailyBars": ["AAPL", "MSFT"],
                },
            ]

    async def test_the_channels_can_be_chosen(self, fake):
        async with streaming(fake, "AAPL", channels="Trades"):
            assert fake.messages[1] == {"action": "subscribe", "trades": ["AAPL"]}

    async def test_the_test_feed_gets_only_the_channels_that_it_has(self, fake):
        fake.switches.lacks = frozenset({"updatedBars", "dailyBars"})
        async with streaming(fake, "FAKEPACA", feed="test") as stream:
            assert stream.fault is None
            assert fake.messages[1].keys() == {"action", "trades", "bars"}

    @pytest.mark.parametrize("acknowledges", ["all", "few"])
    async def test_acknowledgements_in_all_their_forms(self, fake, acknowledges):
        fake.switches.acknowledges = acknowledges
        async with streaming(fake, "AAPL") as stream:
            assert stream.fault is None

    async def test_many_symbols_are_subscribed_in_parts_that_add_up(self, fake):
        symbols = [f"S{chr(65 + n // 676)}{chr(65 + n // 26 % 26)}{chr(65 + n % 26)}" for n in range(1100)]
        async with streaming(fake, *symbols, channels="trades"):
            await until(lambda: fake.clients[0].subscribed["trades"] == set(symbols))
        assert [len(message["trades"]) for message in fake.messages[1:]] == [500, 500, 100]

    async def test_unasked_authenticated_is_accepted(self, fake):
        """As after authentication by headers."""
        fake.switches.greeting = "authenticated"
        async with streaming(fake, "AAPL"):
            assert [message["action"] for message in fake.messages] == ["subscribe"]

    async def test_already_authenticated_is_harmless(self, fake):
        async with streaming(fake, "AAPL") as stream:
            await fake.clients[0].error(403)
            await fake.trade("AAPL", trade("2026-07-14T14:05:07Z", 1))
            await until(lambda: len(stream.of("ticks")) == 1)
            assert stream.fault is None

    @pytest.mark.parametrize(
        ("status", "fault"),
        [(401, WrongKey), (403, WrongKey), (404, BadRequest), (429, RateLimited), (502, Unreachable)],
    )
    async def test_a_refused_handshake(self, fake, status, fault):
        fake.switches.handshake = (status, f"no {KEY}")
        async with streaming(fake) as stream:
            found = await stream.broken()
        assert type(found) is fault
        assert KEY not in str(found)


class TestErrors:
    @pytest.mark.parametrize("closes", [True, False])
    @pytest.mark.parametrize(
        ("code", "fault"), [(402, WrongKey), (406, TooManyConnections), (409, NotEntitled), (404, Unreachable)]
    )
    async def test_at_auth(self, fake, code, fault, closes):
        fake.switches.auth_error, fake.switches.closes_after_error = code, closes
        async with streaming(fake) as stream:
            found = await stream.broken()
            assert type(found) is fault
            assert f"error {code}" in str(found)
            await until(lambda: not fake._stream.connections)  # we close it, if the server does not
        assert not any(secret in str(found) for secret in (KEY, SECRET))

    async def test_a_wrong_key_is_refused_by_the_server_itself(self, fake):
        async with streaming(fake, secret="wrong") as stream:
            assert type(await stream.broken()) is WrongKey

    @pytest.mark.parametrize(
        ("code", "fault"),
        [(407, Unreachable), (500, Unreachable), (401, Unreachable), (409, NotEntitled), (402, WrongKey)],
    )
    async def test_while_data_flow(self, fake, code, fault):
        async with streaming(fake) as stream:
            await fake.fail(code)
            assert type(await stream.broken()) is fault

    async def test_data_before_the_error_are_not_lost(self, fake):
        async with streaming(fake) as stream:
            client = fake.clients[0]
            data = [{"T": "t", "S": "AAPL", **trade("2026-07-14T14:05:07Z", number)} for number in range(3)]
            await client.send([*data, {"T": "error", "code": 407, "msg": "slow client"}])
            assert type(await stream.broken()) is Unreachable
        assert stream.of("ticks")["trade_id"].to_list() == ["0", "1", "2"]

    async def test_a_channel_that_the_feed_lacks(self, fake):
        fake.switches.lacks = frozenset({"dailyBars"})
        async with streaming(fake) as stream:
            found = await stream.broken()
        assert type(found) is BadRequest
        assert "STOCKPULSE_ALPACA_CHANNELS" in str(found)

    async def test_no_greeting_and_no_answer_to_auth_are_transient(self, fake, monkeypatch):
        monkeypatch.setattr("stockpulse.providers.alpaca.stream.ANSWER_SECONDS", 0.2)
        fake.switches.greeting = None
        async with streaming(fake) as stream:
            found = await stream.broken()
        assert type(found) is Unreachable
        assert "no answer within 0.2 seconds" in str(found)

    async def test_a_second_connection_is_one_too_many(self, fake):
        fake.switches.one_connection = True
        async with streaming(fake), provider_of(fake) as other:
            assert type(await Stream(other).broken()) is TooManyConnections


class TestSymbolsThatAreRefused:
    async def test_as_many_as_the_plan_allows_are_streamed_and_the_others_are_said(self, fake):
        fake.switches.symbol_limit = 30
        symbols = [f"S{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(45)]
        with structlog.testing.capture_logs() as logs:
            async with streaming(fake, *symbols) as stream:
                await until(lambda: len(fake.clients[0].subscribed["trades"]) == 30 and logs)
                await fake.trade(symbols[29], trade("2026-07-14T14:05:07Z", 1))
                await until(lambda: len(stream.of("ticks")) == 1)
        (line,) = [line for line in logs if line["log_level"] == "error"]
        assert line["symbols"] == symbols[30:]
        assert "error 405" in line["reasons"][0]
        assert dict(stream.provider.refused_symbols) == dict.fromkeys(symbols[30:], line["reasons"][0])

    async def test_none_at_all_is_an_error(self, fake):
        fake.switches.symbol_limit = 0
        async with streaming(fake) as stream:
            assert type(await stream.broken()) is NotEntitled

    async def test_a_badly_formed_one_is_left_out(self, fake):
        with structlog.testing.capture_logs() as logs:
            async with streaming(fake, "AAPL", "BTC/USD", "MSFT", "IBM"):
                await until(lambda: fake.clients[0].subscribed["trades"] == {"AAPL", "MSFT", "IBM"} and logs)
        assert [line["symbols"] for line in logs if line["log_level"] == "error"] == [["BTC/USD"]]

    async def test_a_badly_formed_one_alone_is_an_error(self, fake):
        async with streaming(fake, "BTC/USD") as stream:
            assert type(await stream.broken()) is BadRequest

    async def test_one_that_alpaca_does_not_acknowledge_is_said(self, fake):
        fake.switches.acknowledges = "wrong"
        with structlog.testing.capture_logs() as logs:
            async with streaming(fake, "AAPL", "MSFT"):
                await until(lambda: logs)
        assert [line["symbols"] for line in logs] == [["AAPL"]]


class TestBrokenConnections:
    async def test_everything_is_subscribed_again_on_the_next_one(self, fake):
        async with provider_of(fake, "AAPL", "MSFT") as provider:
            for number in (1, 2):
                fake.messages.clear()
                stream = Stream(provider)
                await until(lambda: is_subscribed(fake))
                await fake.trade("AAPL", trade("2026-07-14T14:05:07Z", number))
                await until(lambda: len(stream.of("ticks")) == 1)
                fake.drop_all()
                assert type(await stream.broken()) is Unreachable
                assert [message["action"] for message in fake.messages] == ["auth", "subscribe"]
                await until(lambda: not fake.clients)

    @pytest.mark.parametrize("way", ["drop", "close", "reset", "cut", "black_hole", "half_open"])
    async def test_each_way_to_break_is_noticed(self, fake, way):
        async with RoughNetwork(fake.stream_port) as network:
            url = f"ws://127.0.0.1:{network.port}"
            async with streaming(fake, stream_url=url, heartbeat_seconds="0.3") as stream:
                await fake.trade("AAPL", trade("2026-07-14T14:05:07Z", 1))
                await until(lambda: len(stream.of("ticks")) == 1)
                if way == "drop":
                    fake.drop_all()
                elif way == "close":
                    await fake.close_all(1011)
                else:
                    getattr(network, way)()
                assert type(await stream.broken()) is Unreachable

    async def test_a_stream_that_is_given_up_is_closed(self, fake):
        async with provider_of(fake) as provider:
            async with aclosing(provider.stream()) as frames:
                reading = asyncio.ensure_future(anext(frames))
                await until(lambda: is_subscribed(fake))
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await until(lambda: not fake.clients)


class TestMuteStreams:
    """The socket is alive and silent. Only within a session something must come."""

    async def test_within_a_session_silence_breaks_the_stream(self, fake):
        fake.switches.mute = True
        async with streaming(fake, now=lambda: OPEN, silence_seconds="0.4") as stream:
            assert type(await stream.broken()) is MuteStream

    @pytest.mark.parametrize("moment", ["2026-07-14T13:29:00", "2026-07-14T20:00:00", "2026-07-18T15:00:00"])
    async def test_outside_of_sessions_it_does_not(self, fake, moment):
        async with streaming(fake, now=lambda: at(moment), silence_seconds="0.2") as stream:
            await asyncio.sleep(0.8)
            assert stream.fault is None
            assert is_subscribed(fake)

    async def test_it_can_be_off(self, fake):
        async with streaming(fake, now=lambda: OPEN, silence_seconds="0") as stream:
            await asyncio.sleep(0.5)
            assert stream.fault is None

    async def test_the_watch_begins_when_the_market_opens(self, fake):
        """A delayed feed opens a quarter of an hour later."""
        now = [OPEN + timedelta(minutes=14, seconds=59, milliseconds=700)]
        options = {"feed": "delayed_sip", "silence_seconds": "0.3"}
        async with streaming(fake, now=lambda: now[0], **options) as stream:
            await asyncio.sleep(0.1)
            assert stream.fault is None
            now[0] += timedelta(seconds=1)
            assert type(await stream.broken()) is MuteStream

    async def test_quiet_symbols_are_given_more_time_until_data_come(self, fake):
        async with provider_of(fake, now=lambda: OPEN, silence_seconds="0.2") as provider:
            allowed = []
            for _ in range(3):
                fault = await Stream(provider).broken()
                allowed.append(str(fault).rpartition(" for ")[2])
            assert allowed == ["0.2 seconds", "0.4 seconds", "0.8 seconds"]
            await until(lambda: not fake.clients)
            stream = Stream(provider)
            await until(lambda: is_subscribed(fake))
            await fake.trade("AAPL", trade("2026-07-14T14:05:07Z", 1))
            await until(lambda: stream.frames)
            await stream.broken()
            assert provider._patience == 2


class TestWithoutAStream:
    """`live=bars`: the newest bars are asked for after each minute of the session."""

    async def test_new_bars_of_all_symbols_are_yielded_once(self, fake):
        clock = Clock(at("2026-07-14T13:31:30"))
        for symbol in ("AAPL", "MSFT"):
            fake.bars[symbol, "1Min"] = [bar("2026-07-14T13:31:00Z")]
            fake.bars[symbol, "1Day"] = [bar("2026-07-13T04:00:00Z"), bar("2026-07-14T04:00:00Z")]
        async with polling(fake, clock, "AAPL", "MSFT", "NONE") as stream:
            await until(lambda: len(fake.requests) >= 3)
            fake.bars["AAPL", "1Min"].append(bar("2026-07-14T13:32:00Z"))
            await until(lambda: len(stream.of("bars")) == 7)
            asked = len(fake.requests)
            await until(lambda: len(fake.requests) > asked + 2)
        bars = stream.of("bars")
        assert bars.schema == BARS
        assert bars.head(6)["interval"].to_list() == ["1m", "1d", "1d"] * 2
        assert bars.tail(1).select("symbol", "ts").rows() == [("AAPL", at("2026-07-14T13:32:00"))]
        assert fake.requests[0] == ("/v2/stocks/snapshots", {"symbols": "AAPL,MSFT,NONE", "feed": "iex"})
        assert fake.paths == []

    async def test_they_are_asked_for_after_each_minute_of_a_session_and_at_no_other_time(self, fake):
        clock = Clock(at("2026-07-14T19:57:10"))
        asked = []
        fake.on_request = lambda: asked.append(clock.time)
        async with polling(fake, clock):
            await until(lambda: clock.time > at("2026-07-15T13:33:30"))
        assert [f"{moment:%H:%M:%S}" for moment in asked[:6]] == [
            "19:58:04",
            "19:59:04",
            "20:00:04",
            "13:31:04",
            "13:32:04",
            "13:33:04",
        ]

    async def test_a_wrong_key_ends_it(self, fake):
        async with polling(fake, Clock(at("2026-07-14T13:31:30")), secret="wrong") as stream:
            assert type(await stream.broken()) is WrongKey


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, moment):
        self.time = moment

    def now(self):
        return self.time

    async def sleep(self, seconds):
        self.time += timedelta(seconds=seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def polling(fake, clock, *symbols, **options):
    transport = Transport(sleep=clock.sleep)
    async with provider_of(fake, *symbols, now=clock.now, transport=transport, live="bars", **options) as provider:
        stream = Stream(provider)
        try:
            yield stream
        finally:
            await stream.close()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_no_log_line_has_the_key(fake, caplog, encoding):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # the fake's own log
    async with streaming(fake, "AAPL", encoding=encoding) as stream:
        await fake.clients[0].send([{"T": "error", "code": 500, "msg": f"internal error {KEY} {SECRET}"}])
        found = await stream.broken()
    assert "internal error [hidden] [hidden]" in str(found)
    assert not any(secret in f"{caplog.text}{found!r}" for secret in (KEY, SECRET))


class TestSettings:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("key", ""),
            ("secret", "a\nb"),
            ("feed", "otc"),
            ("history_feed", "test"),
            ("live", "maybe"),
            ("channels", "trades,quotes"),
            ("encoding", "xml"),
            ("per_minute", "0"),
            ("heartbeat_seconds", "0"),
            ("silence_seconds", "nan"),
            ("url", "data.alpaca.markets"),
            ("stream_url", "https://x"),
        ],
    )
    async def test_a_wrong_one_names_its_variable(self, fake, option, value):
        with pytest.raises(ValueError, match=f"STOCKPULSE_ALPACA_{option.upper()}"):
            async with provider_of(fake, **{option: value}):
                pass
