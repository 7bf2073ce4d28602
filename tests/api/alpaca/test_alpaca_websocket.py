"""Alpaca's stream over real WebSockets: the order of frames, both encodings, hostile clients, the end."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgpack
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from app_process import AppProcess

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("alpaca stream")]

KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
PACKED = {"Content-Type": "application/msgpack"}
CONNECTED = [{"T": "success", "msg": "connected"}]
AUTHENTICATED = [{"T": "success", "msg": "authenticated"}]


@pytest.fixture(scope="module")
def app(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    with AppProcess(tmp_path_factory.mktemp("stream") / "data", cache_dir=str(compiled)) as running:
        yield running


def client(app: AppProcess, feed: str = "iex", **headers: str) -> connect:
    return connect(f"{app.url.replace('http', 'ws')}/v2/{feed}", additional_headers=headers)


async def receive(socket: ClientConnection) -> Any:
    frame = await asyncio.wait_for(socket.recv(), 30)
    return json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)


async def ask(socket: ClientConnection, **message: Any) -> Any:
    """Send a message as JSON; return the next frame."""
    await socket.send(json.dumps(message))
    return await receive(socket)


def post(app: AppProcess, symbol: str, minutes: range, provider: str = "", **fields: Any) -> None:
    rows = [
        {"symbol": symbol, "ts": f"2026-07-13T14:{at:02}:05.5Z", "price": 10.5 + at, "size": 5 + at, **fields}
        for at in minutes
    ]
    # Each symbol has its own provider, so that the clock of one does not close the bars of another.
    parameters = {"provider": provider or symbol.lower(), "clock": "event"}
    sent = httpx2.post(f"{app.url}/ticks", json=rows, params=parameters, timeout=30)
    assert sent.json()["accepted"] == len(rows)


async def test_a_conversation_in_json(app: AppProcess) -> None:
    async with client(app) as socket:
        assert await receive(socket) == CONNECTED
        assert await ask(socket, action="auth", key="key", secret="secret") == AUTHENTICATED
        (answer,) = await ask(socket, action="subscribe", trades=["JSON"])
        assert (answer["T"], answer["trades"]) == ("subscription", ["JSON"])
        await asyncio.to_thread(post, app, "JSON", range(1), trade_id="77", exchange="V", conditions=["@"], tape="C")
        trade = {"T": "t", "S": "JSON", "i": 77, "x": "V", "p": 10.5, "s": 5, "c": ["@"], "z": "C"}
        assert await receive(socket) == [trade | {"t": "2026-07-13T14:00:05.5Z"}]


async def test_a_conversation_in_message_pack_with_keys_in_the_headers(app: AppProcess) -> None:
    async with client(app, "sip", **PACKED, **KEYS) as socket:
        assert await receive(socket) == CONNECTED
        assert await receive(socket) == AUTHENTICATED
        message = msgpack.packb({"action": "subscribe", "bars": ["PACKED"]})
        await socket.send([message[:7], message[7:9], message[9:]])  # in fragments
        assert (await receive(socket))[0]["bars"] == ["PACKED"]
        await asyncio.to_thread(post, app, "PACKED", range(2))
        frame = await asyncio.wait_for(socket.recv(), 30)
        (bar,) = msgpack.unpackb(frame, timestamp=3)
        assert next(iter(bar)) == "T"
        assert bar | {"t": None} == {
            "T": "b", "S": "PACKED", "t": None, "o": 10.5, "h": 10.5, "l": 10.5, "c": 10.5, "v": 5, "n": 1, "vw": 10.5
        }  # fmt: skip
        assert bar["t"].isoformat() == "2026-07-13T14:00:00+00:00"


async def test_bars_and_updated_bars_of_different_symbols(app: AppProcess) -> None:
    async with client(app, **KEYS) as socket:
        await receive(socket), await receive(socket)
        await ask(socket, action="subscribe", bars=["*"], updatedBars=["LATE2"])
        await asyncio.to_thread(post, app, "LATE1", range(2))
        await asyncio.to_thread(post, app, "LATE2", range(2))
        closed = await receive(socket) + await receive(socket)
        assert [(bar["T"], bar["S"]) for bar in closed] == [("b", "LATE1"), ("b", "LATE2")]
        await asyncio.to_thread(post, app, "LATE1", range(1), trade_id="late")
        await asyncio.to_thread(post, app, "LATE2", range(1), trade_id="late")
        (updated,) = await receive(socket)
        assert (updated["T"], updated["S"], updated["n"]) == ("u", "LATE2", 2)


async def test_trades_are_those_of_the_leading_provider(app: AppProcess) -> None:
    async with client(app, **KEYS) as socket:
        await receive(socket), await receive(socket)
        await ask(socket, action="subscribe", trades=["TWICE"])
        await asyncio.to_thread(post, app, "TWICE", range(2))
        assert [trade["p"] for trade in await receive(socket)] == [10.5, 11.5]
        await asyncio.to_thread(post, app, "TWICE", range(2), provider="other", size=1)
        await asyncio.to_thread(post, app, "TWICE", range(2, 3))
        assert [trade["p"] for trade in await receive(socket)] == [12.5]
    async with httpx2.AsyncClient() as rest:
        stored = await rest.get(f"{app.url}/v2/stocks/TWICE/trades", params={"start": "2026-07-13"})
    assert [trade["p"] for trade in stored.json()["trades"]] == [10.5, 11.5, 12.5]


async def test_hostile_frames_have_answers(app: AppProcess) -> None:
    async with client(app) as socket:
        await receive(socket)
        assert (await ask(socket, action="subscribe", trades=["*"]))[0]["code"] == 401
        await ask(socket, action="auth", key="key", secret="secret")
        assert (await ask(socket, action="auth", key="key", secret="secret"))[0]["code"] == 403
        for frame in ("{", "[]", b"\xff\xfe", json.dumps({"action": "subscribe", "trades": [{}] * 1000})):
            await socket.send(frame)
            assert (await receive(socket))[0]["code"] == 400
        many = [f"S{at}" for at in range(30_000)]
        assert (await ask(socket, action="subscribe", trades=many))[0]["code"] == 405
        assert (await ask(socket, action="subscribe", trades=many[:10_000]))[0]["T"] == "subscription"
        assert (await ask(socket, action="subscribe", pricing=["*"]))[0]["code"] == 410


async def test_an_unknown_feed_is_refused(app: AppProcess) -> None:
    with pytest.raises(websockets.InvalidStatus):
        async with client(app, "nasdaq"):
            pass


@pytest.mark.thorough
async def test_a_client_that_never_authenticates_is_closed(app: AppProcess) -> None:
    async with client(app) as socket:
        await receive(socket)
        assert await receive(socket) == [{"T": "error", "code": 404, "msg": "auth timeout"}]
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.mark.thorough
async def test_a_stop_ends_the_stream_first(compiled: Path, tmp_path: Path) -> None:
    with AppProcess(tmp_path / "data", cache_dir=str(compiled)) as app:
        async with client(app, **KEYS) as socket, client(app, "test", **KEYS) as other:
            for one in (socket, other):
                await receive(one), await receive(one)
            assert await asyncio.to_thread(app.stop) == 0
            for one in (socket, other):
                with pytest.raises(websockets.ConnectionClosedError) as closed:
                    await receive(one)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
