"""Real clients of the stream of a real server."""

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import msgpack
import pytest
import websockets
from websockets.asyncio.client import connect

from app_process import AppProcess
from stream_client import SECONDS, Bars, of_api, stream

pytestmark = pytest.mark.slow

START = 1_760_000_400  # at a multiple of a quarter of an hour


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Iterator[AppProcess]:
    with AppProcess(tmp_path_factory.mktemp("stream"), cache_dir=str(compiled)) as running:
        yield running


_numbers = iter(range(1_000_000))


@pytest.fixture
def symbol():
    return f"S{next(_numbers)}"


async def post(app, *ticks, clock="event"):
    """Send ticks (symbol, seconds after the start, price), of a recording of their own."""
    provider = ticks[0][0].lower()
    rows = [{"symbol": name, "ts": START + at, "price": price, "size": 1} for name, at, price in ticks]
    async with httpx2.AsyncClient(base_url=app.url, timeout=SECONDS) as client:
        answer = await client.post(f"/api/v1/ticks?calendar=24/7&clock={clock}&provider={provider}", json=rows)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == len(ticks), answer.text


async def read(app, path):
    async with httpx2.AsyncClient(base_url=app.url, timeout=SECONDS) as client:
        answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def at(seconds):
    return datetime.fromtimestamp(START + seconds, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("path", ["/api/v1/stream", "/api/stream", "/stream", "/stream/"])
async def test_every_customary_path(app, path):
    async with stream(app.port, path=path) as client:
        assert client.welcome["stream"]


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_ticks_and_bars_of_a_symbol(app, symbol, format):
    async with stream(app.port, format=format) as client:
        await client.subscribe("ticks", symbols=[symbol])
        await client.subscribe("bars", symbols=[symbol], interval="1min")
        await post(app, (symbol, 0, 10.5), (symbol, 30, 11), ("OTHER", 30, 1))
        (first, second) = (await client.next(channel="ticks"))["rows"]
        assert (first["symbol"], first["price"], second["price"]) == (symbol, 10.5, 11)
        forming = await client.next(channel="bars")
        assert (forming["change"], forming["interval"], forming["rows"][0]["close"]) == ("forming", "1m", 11)
        await post(app, (symbol, 70, 12))
        closed = await client.next(channel="bars", change="closed")
        (bar,) = closed["rows"]
        assert (bar["final"], bar["close"], bar["trade_count"]) == (True, 11, 2)
        await post(app, (symbol, 40, 13))
        (revised,) = (await client.next(channel="bars", change="revised"))["rows"]
        assert revised["revision"] > bar["revision"]
        served = await read(app, f"/data/{symbol}?interval=1m")
        if format == "json":
            assert of_api(served)[symbol, at(0)] == revised
        else:
            assert revised["ts"] == datetime.fromtimestamp(START, UTC)


async def test_a_subprotocol_chooses_the_format(app):
    async with connect(f"ws://127.0.0.1:{app.port}/stream", subprotocols=["msgpack"]) as socket:
        assert socket.subprotocol == "msgpack"
        assert msgpack.unpackb(await socket.recv())[0]["type"] == "welcome"


async def test_prices_are_the_newest_ones(app, symbol):
    async with stream(app.port) as client:
        await client.subscribe("prices", symbols=symbol)
        await post(app, (symbol, 0, 10), (symbol, 5, 11), (symbol, 3, 9))
        (row,) = (await client.next(channel="prices"))["rows"]
        assert (row["price"], row["event_time"]) == (11, at(5))


async def test_a_snapshot_comes_before_the_changes(app, symbol):
    await post(app, *[(symbol, 60 * minute, 10 + minute) for minute in range(5)])
    async with stream(app.port) as client:
        await client.subscribe("bars", symbols=[symbol, "NEVER.SEEN"], snapshot=3)
        snapshot = await client.next(change="snapshot")
        assert [row["close"] for row in snapshot["rows"]] == [12, 13, 14]
        await client.subscribe("ticks", symbols=[symbol], snapshot=2)
        assert [row["price"] for row in (await client.next(channel="ticks"))["rows"]] == [13, 14]
        await post(app, (symbol, 400, 20))
        assert (await client.next(channel="bars"))["change"] in ("closed", "forming")


async def test_bars_of_any_interval(app, symbol):
    async with stream(app.port) as client:
        await client.subscribe("bars", symbols=[symbol], interval="15m")
        await post(app, (symbol, 0, 10), (symbol, 300, 11))
        forming = await client.next(channel="bars", change="forming")
        while forming["rows"][0]["trade_count"] < 2:
            forming = await client.next(channel="bars", change="forming")
        assert (forming["interval"], forming["rows"][0]["ts"], forming["rows"][0]["close"]) == ("15m", at(0), 11)
        await post(app, (symbol, 1000, 12))
        (closed,) = (await client.next(channel="bars", change="closed"))["rows"]
        assert (closed["ts"], closed["close"]) == (at(0), 11)
        await post(app, (symbol, 10, 13))
        (revised,) = (await client.next(channel="bars", change="revised"))["rows"]
        assert of_api(await read(app, f"/data/{symbol}?interval=15m"))[symbol, at(0)] == revised


async def test_indicators_of_forming_and_closed_bars(app, symbol):
    await post(app, *[(symbol, 60 * minute, 10 + minute) for minute in range(30)])
    async with stream(app.port) as client:
        answer = await client.subscribe("indicators", symbols=[symbol], interval="1m", indicators="sma(3),rsi")
        assert answer["indicators"] == "sma(3),rsi(14)"
        preview = await client.next(channel="indicators", change="forming")
        assert preview["rows"][0]["sma"] == pytest.approx(38)
        await post(app, (symbol, 60 * 29 + 1, 42), (symbol, 60 * 30 + 5, 50))
        closed = {}
        while at(60 * 29) not in closed:
            closed |= {row["ts"]: row for row in (await client.next(channel="indicators", change="closed"))["rows"]}
        assert closed[at(60 * 29)]["sma"] == pytest.approx((37 + 38 + 42) / 3)
        await post(app, (symbol, 60 * 5 + 1, 100))  # far back: calculated again from the first bar
        revised = await client.next(channel="indicators", change="revised")
        path = f"/indicators/{symbol}?type=sma(3),rsi&interval=1m"
        served = {row["ts"]: row for row in (await read(app, path))["values"]}
        assert len(revised["rows"]) == 25
        for row in revised["rows"]:
            assert {name: row[name] for name in ("close", "final", "sma", "rsi")}.items() <= served[row["ts"]].items()


async def test_signals(app, symbol):
    async with stream(app.port) as client:
        await client.subscribe("signals", symbols=[symbol])
        await post(app, *[(symbol, 300 * number, 10 + number % 7) for number in range(80)])
        found = await client.next(channel="signals")
        assert {row["symbol"] for row in found["rows"]} == {symbol}
        assert {row["signal"] for row in found["rows"]} <= {"BUY", "SELL", "HOLD"}


async def test_movers(app, symbol):
    await post(app, (symbol, 0, 10), (symbol, 61, 20))
    async with stream(app.port) as client:
        await client.subscribe("movers", minutes=1440)
        found = await client.next(channel="movers")
        assert found["minutes"] == 1440
        assert symbol in {row["symbol"] for row in found["rows"]}


async def test_unsubscribing_ends_a_channel(app, symbol):
    async with stream(app.port) as client:
        await client.subscribe("ticks", symbols=[symbol])
        answer = await client.ask(action="unsubscribe", channel="ticks", symbols=[symbol])
        assert answer["type"] == "unsubscribed"
        await post(app, (symbol, 0, 10))
        await client.subscribe("ticks", symbols=[symbol])
        await post(app, (symbol, 1, 11))
        assert [row["price"] for row in (await client.next(channel="ticks"))["rows"]] == [11]


async def test_a_client_resumes_without_a_gap(app, symbol):
    async with stream(app.port) as client:
        answer = await client.subscribe("ticks", symbols=[symbol])
        await post(app, (symbol, 0, 10))
        place = {"stream": answer["stream"], "seq": (await client.next(channel="ticks"))["seq"]}
    await post(app, (symbol, 1, 11), (symbol, 2, 12))
    async with stream(app.port) as client:
        answer = await client.subscribe("ticks", symbols=[symbol], resume=place, snapshot=100)
        assert answer["resumed"] == [symbol]
        assert [row["price"] for row in (await client.next(channel="ticks"))["rows"]] == [11, 12]
    async with stream(app.port) as client:
        other = place | {"stream": "another"}
        answer = await client.subscribe("ticks", symbols=[symbol], resume=other, snapshot=100)
        assert answer["resumed"] == []
        assert [row["price"] for row in (await client.next(change="snapshot"))["rows"]] == [10, 11, 12]


async def test_server_sent_events(app, symbol):
    await post(app, (symbol, 0, 10))
    address = f"{app.url}/api/v1/stream/sse?channel=ticks&symbols={symbol}&snapshot=1"
    async with httpx2.AsyncClient(timeout=SECONDS) as client:
        async with client.stream("GET", address) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            kinds = [json.loads((await _event(lines))["data"])["type"] for _ in range(3)]
            assert kinds == ["welcome", "subscribed", "data"]
            await post(app, (symbol, 1, 11))
            event = await _event(lines)
            assert json.loads(event["data"])["rows"][0]["price"] == 11
        await post(app, (symbol, 2, 12))
        async with client.stream("GET", address, headers={"Last-Event-ID": event["id"]}) as answer:
            lines = answer.aiter_lines()
            assert json.loads((await _event(lines))["data"])["type"] == "welcome"
            assert json.loads((await _event(lines))["data"])["resumed"] == [symbol]
            assert json.loads((await _event(lines))["data"])["rows"][0]["price"] == 12
        answer = await client.get(f"{app.url}/stream?channel=trades")
        assert answer.json()["error"]["message"].startswith("channel: got 'trades'; takes ticks")


async def _event(lines):
    found = {}
    async for line in lines:
        if not line and found:
            return found
        name, _, value = line.partition(": ")
        if line:
            found[name] = value
    raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("{", "frame: is not JSON"),
        ("[" * 5000, "frame: is not JSON"),
        ("1", "frame: got 1; takes an object"),
        ("[1]", "frame: got 1; takes an object"),
        ("{}", "action: got None; takes subscribe"),
        ('{"action": "auth"}', "action: got 'auth'"),
        ('{"action": "subscribe", "channel": "quotes"}', "channel: got 'quotes'; takes ticks, prices"),
        ('{"action": "subscribe", "channel": ["ticks"]}', "channel: got ['ticks']"),
        ('{"action": "subscribe", "channel": "ticks"}', "symbols: got None"),
        ('{"action": "subscribe", "channel": "ticks", "symbols": []}', "symbols: got []"),
        ('{"action": "subscribe", "channel": "ticks", "symbols": ["ä"]}', "symbols: got 'ä'"),
        ('{"action": "subscribe", "channel": "ticks", "symbols": "A", "interval": "1m"}', "interval: is not a field"),
        ('{"action": "subscribe", "channel": "bars", "symbols": "A", "interval": "7y"}', "interval: got '7y'"),
        ('{"action": "subscribe", "channel": "bars", "symbols": "*", "interval": "15m"}', "symbols: indicators"),
        ('{"action": "subscribe", "channel": "bars", "symbols": "A", "snapshot": -1}', "snapshot: got -1"),
        ('{"action": "subscribe", "channel": "bars", "symbols": "A", "start": "soon"}', "start: got 'soon'"),
        ('{"action": "subscribe", "channel": "bars", "symbols": "A", "resume": 7}', "resume: got 7"),
        ('{"action": "subscribe", "channel": "indicators", "symbols": "A", "indicators": "x"}', "indicators: got 'x'"),
    ],
)
async def test_a_wrong_request_is_answered(app, request_text, said):
    async with stream(app.port) as client:
        await client.socket.send(request_text)
        answer = await client.next(type="error")
        assert answer["code"] == "INVALID_INPUT"
        assert answer["message"].startswith(said)
        assert (await client.ask(action="ping"))["type"] == "pong"


async def test_frames_of_the_other_kind(app):
    async with stream(app.port) as client:
        await client.socket.send(b"\x80")
        assert "takes text frames" in (await client.next(type="error"))["message"]
    async with stream(app.port, format="msgpack") as client:
        await client.socket.send("{}")
        assert "takes binary frames" in (await client.next(type="error"))["message"]
        for wrong in (b"", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x91" * 100_000, b"\x80\x80"):
            await client.socket.send(wrong)
            assert "is not MessagePack" in (await client.next(type="error"))["message"]
        assert (await client.ask(action="ping"))["type"] == "pong"


async def test_too_many_symbols(app):
    names = [f"X{number}" for number in range(10_000)]
    async with stream(app.port) as client:
        answer = await client.ask(action="subscribe", channel="ticks", symbols=names)
        assert answer["code"] == "TOO_LARGE"
        await client.subscribe("ticks", symbols=names[:2000])
        answer = await client.ask(action="subscribe", channel="ticks", symbols=["ONE.MORE"])
        assert answer["code"] == "TOO_LARGE"


async def test_a_message_that_is_too_large_ends_the_connection(app):
    for options in ({}, {"text": True}):
        async with stream(app.port) as client:
            await client.socket.send(b"x" * (1024 * 1024 + 1), **options)
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await client.frame()
            assert ended.value.rcvd.code == 1009


async def test_text_that_is_not_utf8_ends_the_connection(app):
    async with stream(app.port) as client:
        await client.socket.send(b"\xff", text=True)
        with pytest.raises(websockets.ConnectionClosed) as ended:
            await client.frame()
        assert ended.value.rcvd.code == 1007


async def test_a_flood_of_pings_is_answered_or_cut_off(app):
    async with stream(app.port) as client:
        for _ in range(2_000):
            await client.socket.ping()
        assert (await client.ask(action="ping"))["type"] == "pong"
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1024)
    writer.write(
        b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    ping = b"\x89\xfd" + bytes(4) + bytes(125)
    before = await _closed(app)

    async def flood():
        while True:  # it reads nothing
            writer.write(ping * 1000)
            await asyncio.wait_for(writer.drain(), SECONDS)

    with pytest.raises(OSError):
        await flood()
    assert await _closed(app) > before
    writer.transport.abort()


async def _closed(app):
    return (await read(app, "/health"))["connections"]["closed"]["stalled_answer"]


async def test_a_page_of_another_site_is_refused(app):
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{app.port}/stream", origin="http://evil.test"):
            pass
    assert refused.value.response.status_code == 403


async def test_the_metrics_count(app, symbol):
    async with stream(app.port) as client:
        await client.subscribe("ticks", symbols=[symbol])
        await post(app, (symbol, 0, 10))
        await client.next(channel="ticks")
        async with httpx2.AsyncClient(base_url=app.url) as http:
            text = (await http.get("/metrics")).text
    assert float(re.search(r"^stockpulse_stream_clients (.*)$", text, re.MULTILINE)[1]) >= 1
    for name in ("messages", "bytes", "conflated_rows", "missed_rows", "slow_clients", "published_rows"):
        assert f"stockpulse_stream_{name}_total " in text
    assert 'stockpulse_http_requests_total{method="WEBSOCKET",route="/api/v1/stream",status="101"}' in text
    assert '"event": "websocket"' in app.log.read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("interval", ["1m", "15m"])
async def test_a_client_ends_with_the_bars_of_the_api(app, symbol, interval):
    """Through late ticks and its own disconnects, with the rule: the highest revision stands."""
    symbols = [symbol, f"{symbol}B"]
    dice = random.Random(7)
    bars = Bars(symbols, interval)
    over = asyncio.Event()

    async def send():
        for minute in range(40):
            rows = [
                (name, 60 * minute + dice.uniform(0, 59) - dice.choice([0, 0, 0, 200, 1500]), dice.randint(50, 150))
                for name in symbols
                for _ in range(3)
            ]
            await post(app, *rows)
            await asyncio.sleep(dice.uniform(0, 0.05))
        over.set()

    async def follow():
        while not over.is_set():
            end = time.monotonic() + dice.uniform(0.2, 0.6)
            await bars.follow(app.port, lambda end=end: time.monotonic() > end, at(-3600))
            await asyncio.sleep(dice.uniform(0, 0.2))
        expected = {}
        for name in symbols:
            expected |= of_api(await read(app, f"/data/{name}?interval={interval}"))
        end = time.monotonic() + SECONDS
        await bars.follow(app.port, lambda: bars.kept() == expected or time.monotonic() > end, at(-3600))
        assert bars.kept() == expected

    await asyncio.gather(send(), follow())
    assert any(bars.resumed)
    assert bars.missed == 0


@pytest.mark.thorough
def test_a_stop_ends_the_stream_first(tmp_path, compiled):
    """With 1012, at once, for WebSockets and events; a client that reads nothing does not hold the process."""

    async def check():
        with AppProcess(tmp_path, cache_dir=str(compiled)) as app:
            address = f"{app.url}/stream/sse?channel=ticks&symbols=A"
            async with (
                stream(app.port) as client,
                httpx2.AsyncClient(timeout=SECONDS) as http,
                http.stream("GET", address) as events,
            ):
                await client.subscribe("ticks", symbols=["A"])
                stopping = asyncio.create_task(asyncio.to_thread(app.stop))
                with pytest.raises(websockets.ConnectionClosed) as ended:
                    await client.frame()
                assert ended.value.rcvd.code == 1012
                async for _ in events.aiter_lines():
                    pass
                assert await stopping == 0
            assert "timeout graceful shutdown exceeded" not in app.log.read_text()

    asyncio.run(check())
