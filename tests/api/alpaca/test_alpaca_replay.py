"""A stored day as a live stream over real WebSockets: as stored, at any speed, with pauses and jumps."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from app_process import AppProcess
from stockpulse.api.replay.clock import MAX_SPEED, ReplayClock

DAY = "2026-07-13"
OPEN = datetime(2026, 7, 13, 13, 30, tzinfo=UTC)
MINUTES = 300
SYMBOLS = ("AAPL", "MSFT")
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
FINISHED = {"T": "success", "msg": "replay finished"}

of_app = [pytest.mark.slow, pytest.mark.xdist_group("alpaca stream")]


def rows(symbol: str, start: datetime) -> list[dict[str, Any]]:
    """Two trades a minute; every tenth minute has two of the same time."""
    times = [start + timedelta(minutes=at // 2, seconds=0 if at % 20 < 2 else at % 2 * 30) for at in range(2 * MINUTES)]
    return [
        {"symbol": symbol, "ts": ts.isoformat(), "price": 100 + at / 100, "size": 10, "trade_id": str(at)}
        for at, ts in enumerate(times)
    ]


@pytest.fixture(scope="module")
def app(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """Return a running app with two days of two symbols."""
    with AppProcess(tmp_path_factory.mktemp("replay") / "data", cache_dir=str(compiled)) as running:
        for start in (OPEN, OPEN + timedelta(days=1)):
            ticks = [row for symbol in SYMBOLS for row in rows(symbol, start)]
            parameters = {"provider": "recorded", "clock": "event", "end_of_stream": True}
            sent = httpx2.post(f"{running.url}/ticks", json=ticks, params=parameters, timeout=30)
            assert sent.json()["accepted"] == len(ticks)
        for symbol in SYMBOLS:
            running.wait_for(f"/ohlc/{symbol}?interval=1m&limit=1", lambda answer: answer["bars"][0]["final"])
        yield running


@asynccontextmanager
async def replay(app: AppProcess, address: str, **channels: list[str]) -> AsyncIterator[ClientConnection]:
    """Return a client that has subscribed to a replay."""
    url = f"{app.url.replace('http', 'ws')}/v2/replay/{address}"
    async with connect(url, additional_headers=KEYS) as socket:
        await receive(socket), await receive(socket)
        await socket.send(json.dumps({"action": "subscribe", **channels}))
        assert (await receive(socket))[0]["T"] == "subscription"
        yield socket


async def receive(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 60))


async def whole(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return all messages up to the end of the day."""
    found: list[dict[str, Any]] = []
    while not found or found[-1] != FINISHED:
        found += await receive(socket)
    return found[:-1]


async def stored(app: AppProcess, kind: str, symbol: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the day's rows as the REST API has them."""
    query = {"start": DAY, "end": DAY, "limit": 10_000} | parameters
    async with httpx2.AsyncClient() as client:
        reply = await client.get(f"{app.url}/v2/stocks/{symbol}/{kind}", params=query, timeout=60)
    return reply.json()[kind]


def of_type(messages: list[dict[str, Any]], kind: str, symbol: str) -> list[dict[str, Any]]:
    found = [message for message in messages if (message["T"], message["S"]) == (kind, symbol)]
    return [{name: value for name, value in one.items() if name not in ("T", "S")} for one in found]


class TestReplay:
    pytestmark = of_app

    async def test_a_day_is_sent_as_it_is_stored(self, app: AppProcess) -> None:
        async with replay(app, f"{DAY}?speed=max", trades=["*"], bars=["AAPL"], dailyBars=["MSFT"]) as socket:
            messages = await whole(socket)
        for symbol in SYMBOLS:
            assert of_type(messages, "t", symbol) == await stored(app, "trades", symbol)
        assert of_type(messages, "b", "AAPL") == await stored(app, "bars", "AAPL", timeframe="1Min")
        assert of_type(messages, "d", "MSFT") == await stored(app, "bars", "MSFT", timeframe="1Day")
        assert len(messages) == len(SYMBOLS) * 2 * MINUTES + MINUTES + 1

    async def test_bars_come_when_their_minute_is_over(self, app: AppProcess) -> None:
        async with replay(app, f"{DAY}/max", trades=["AAPL"], bars=["AAPL"]) as socket:
            messages = await whole(socket)
        times = [
            datetime.fromisoformat(one["t"]) + (timedelta(minutes=1) if one["T"] == "b" else timedelta(0))
            for one in messages
        ]
        assert times == sorted(times)

    async def test_clients_have_their_own_clocks(self, app: AppProcess) -> None:
        async with (
            replay(app, f"{DAY}?speed=max", trades=["AAPL"]) as fast,
            replay(app, f"{DAY}?speed=7200", trades=["AAPL"]) as slow,
            replay(app, f"{DAY}?speed=0.001", trades=["AAPL"]) as slowest,
        ):
            first, second = await asyncio.gather(whole(fast), whole(slow))
            assert first == second
            assert await receive(slowest) == first[:2]  # two of the same time
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(slowest.recv(), 0.5)

    async def test_pause_jump_and_speed(self, app: AppProcess) -> None:
        async with replay(app, f"{DAY}?speed=0.001", trades=["AAPL"]) as socket:
            await receive(socket)

            async def control(**fields: Any) -> Any:
                await socket.send(json.dumps({"action": "replay", **fields}))
                return await receive(socket)

            at = (OPEN + timedelta(minutes=200)).isoformat()
            assert await control(paused=True, at=at) == [
                {"T": "replay", "at": "2026-07-13T16:50:00Z", "speed": 0.001, "paused": True}
            ]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.5)
            (state,) = await control(speed="max", paused=False)
            assert (state["speed"], state["paused"]) == ("max", False)
            rest = await whole(socket)
            assert of_type(rest, "t", "AAPL") == (await stored(app, "trades", "AAPL"))[400:]
            await control(at=(OPEN + timedelta(minutes=299)).isoformat())  # back from the end
            assert len(await whole(socket)) == 2
            for wrong in ({"speed": 0}, {"speed": "fast"}, {"paused": 1}, {"at": "soon"}, {"at": 5}):
                assert (await control(**wrong))[0]["code"] == 400

    async def test_a_later_subscription_goes_on_at_the_present_time(self, app: AppProcess) -> None:
        async with replay(app, f"{DAY}?speed=max", trades=["AAPL"]) as socket:
            await whole(socket)
            await socket.send(json.dumps({"action": "subscribe", "trades": ["MSFT"]}))
            assert (await receive(socket))[0]["trades"] == ["AAPL", "MSFT"]
            assert await whole(socket) == []

    @pytest.mark.parametrize("address", ["today", f"{DAY}?speed=0", f"{DAY}?speed=fast", f"{DAY}?speed=nan"])
    async def test_a_wrong_address_is_refused(self, app: AppProcess, address: str) -> None:
        with pytest.raises(websockets.InvalidStatus):
            async with replay(app, address):
                pass


def test_the_clock_runs_at_its_speed_stands_still_and_jumps() -> None:
    seconds = 0.0
    clock = ReplayClock(1_000_000, 60, lambda: seconds)
    seconds = 2.0
    assert clock.now() == 121_000_000
    assert clock.wait_for(181_000_000) == pytest.approx(1.0)
    clock.set(paused=True)
    seconds = 5.0
    assert (clock.now(), clock.wait_for(181_000_000)) == (121_000_000, None)
    clock.set(paused=False, speed=1)
    seconds = 6.0
    assert clock.now() == 122_000_000
    clock.set(at=0)
    assert clock.wait_for(3_000_000) == pytest.approx(3.0)
    clock.set(speed=MAX_SPEED)
    assert clock.wait_for(10**15) == 0
    clock.reach(7_000_000)
    assert clock.now() == 7_000_000
