"""The addresses of Alpaca's stream."""

import time
from collections.abc import Callable, Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Path, WebSocketException
from starlette.websockets import WebSocket

from stockpulse.api.alpaca.stream.connection import Connection
from stockpulse.api.alpaca.stream.encodings import JSON, MESSAGE_PACK, Encoding, HubFormat
from stockpulse.api.alpaca.stream.fake_feed import FakeFeed
from stockpulse.api.alpaca.stream.replay_feed import ReplayFeed, read_speed
from stockpulse.api.alpaca.stream.session import Session
from stockpulse.api.alpaca.stream.sources import LiveSource
from stockpulse.api.alpaca.stream.subscriptions import STOCK_CHANNELS, TEST_CHANNELS
from stockpulse.api.context import Context
from stockpulse.api.encoders import Format
from stockpulse.api.formats import room_for_stream
from stockpulse.api.replay.day import StoredDay
from stockpulse.api.replay.player import Player
from stockpulse.market.symbology import Names
from stockpulse.pipeline.provider_clocks import ProviderClocks

router = APIRouter()

_REFUSED: Final = 1008
_MESSAGE_PACK: Final = "application/msgpack"
_KEYS: Final = ("apca-api-key-id", "apca-api-secret-key")


class StreamFeed(StrEnum):
    """The feeds of stocks. All of them have the same data here."""

    IEX = "iex"
    SIP = "sip"
    DELAYED_SIP = "delayed_sip"


@router.websocket("/v2/test")
async def test_stream(socket: WebSocket) -> None:
    """Send made-up trades, quotes and bars of FAKEPACA."""
    context, encoding = _context(socket), _encoding(socket)
    await socket.accept()
    session = Session(TEST_CHANNELS, authenticated=_has_keys(socket))
    await Connection(socket, encoding, session, FakeFeed(context.hub, encoding, context.now)).run()


@router.websocket("/v2/replay/{day}")
@router.websocket("/v2/replay/{day}/{speed}")  # the library for Go cannot send a query
async def replay(socket: WebSocket, day: date, speed: str = "1") -> None:
    """Send what is stored of a day as if it were live."""
    try:
        pace = read_speed(speed)
    except ValueError as fault:
        raise WebSocketException(_REFUSED, f"speed: {fault}") from None
    context, encoding = _context(socket), _encoding(socket)
    async with context.budget.answers.reservation() as room:
        await room_for_stream(room, Format.JSON)
        await socket.accept()
        player = Player(StoredDay(day, context.ticks, context.bars), pace, time.monotonic)
        feed = ReplayFeed(context.hub, encoding, player, context.names)
        await Connection(socket, encoding, Session(STOCK_CHANNELS, authenticated=_has_keys(socket)), feed).run()


@router.websocket("/v2/{feed}")
async def live_stream(socket: WebSocket, feed: Annotated[StreamFeed, Path()]) -> None:  # noqa: ARG001  # it is checked
    """Send trades and bars as they come."""
    context, encoding = _context(socket), _encoding(socket)
    await socket.accept()
    session = Session(STOCK_CHANNELS, authenticated=_has_keys(socket))
    source = LiveSource(context.hub, HubFormat(encoding, _leads(context.names, context.clocks)))
    await Connection(socket, encoding, session, source).run()


def _leads(names: Names, clocks: ProviderClocks) -> Callable[[Mapping[str, Any]], bool]:
    """Return a function that is True for ticks of the provider that leads their symbol."""

    def leads(tick: Mapping[str, Any]) -> bool:
        leader = names.provider_by_id.get(clocks.provider_of(names.symbols[tick["symbol"]].id))
        return leader is None or leader.name == tick["provider"]

    return leads


def _context(socket: WebSocket) -> Context:
    return cast("Context", socket.state.context)


def _encoding(socket: WebSocket) -> Encoding:
    """Return the encoding that the client announces for its messages; it gets the same."""
    return MESSAGE_PACK if socket.headers.get("content-type") == _MESSAGE_PACK else JSON


def _has_keys(socket: WebSocket) -> bool:
    """Return True if the handshake has keys; then the client need not send them in a message."""
    return all(socket.headers.get(name) for name in _KEYS) or bool(socket.headers.get("authorization"))
