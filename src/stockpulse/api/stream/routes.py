"""The routes of the stream: a WebSocket, and Server-Sent Events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from stockpulse.api.context import Context
from stockpulse.api.stream.formats import FORMATS, WireFormat
from stockpulse.api.stream.requests import Request as StreamRequest
from stockpulse.api.stream.requests import read_request
from stockpulse.api.stream.session import Send, Session
from stockpulse.api.stream.snapshots import Snapshots
from stockpulse.errors import StockPulseError
from stockpulse.hub.subscriber import SLOW

router = APIRouter(tags=["stream"])

_ABNORMAL: Final = 1006
_CLOSE_SECONDS: Final = 20.0
"""The time that a client has to read what was sent before the close frame."""


@router.websocket("/stream")
async def stream(socket: WebSocket) -> None:
    """Subscribe to ticks, prices, bars, indicators, signals and movers."""
    context = cast("Context", socket.state.context)
    name = _format_of(socket)
    format = FORMATS[name]
    await socket.accept(subprotocol=name if name in socket.scope.get("subprotocols", ()) else None)
    session = Session(context.hub, Snapshots(context), format, _sender(context, socket, format))
    try:
        await session.welcome()
        await session.run(_receive(socket, session))
    except WebSocketDisconnect:
        pass
    finally:
        context.hub.leave(session.subscriber)
    await _close(socket, session)


def _format_of(socket: WebSocket) -> str:
    """Return the format that the client asks for, by `?format=` or by a subprotocol; JSON by default."""
    asked = [socket.query_params.get("format", ""), *socket.scope.get("subprotocols", ())]
    return next((one for one in asked if one in FORMATS), "json")


def _sender(context: Context, socket: WebSocket, format: WireFormat) -> Send:
    traffic = context.hub.traffic

    async def send(messages: list[bytes]) -> None:
        frame = format.frame(messages)
        traffic.messages += len(messages)
        traffic.bytes += len(frame)
        key, value = ("text", frame.decode()) if format.is_text else ("bytes", frame)
        try:
            await socket.send({"type": "websocket.send", key: value})
        except RuntimeError as fault:  # the server has closed it, because of a bad frame or a missing pong
            raise WebSocketDisconnect(_ABNORMAL) from fault

    return send


async def _receive(socket: WebSocket, session: Session) -> None:
    """Answer the frames of the client, until it leaves."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        await session.take(text if text is not None else message.get("bytes") or b"")


async def _close(socket: WebSocket, session: Session) -> None:
    """Close with the hub's code, if it was the hub that ended the session."""
    closing = session.subscriber.closing
    if closing is None or socket.client_state is WebSocketState.DISCONNECTED:
        return
    missed = session.subscriber.missed
    reason = f"too slow: {missed:,} rows were missed" if closing is SLOW else closing.reason
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await socket.close(closing.code, reason)
    except (TimeoutError, WebSocketDisconnect, RuntimeError):  # it reads nothing, or has gone
        return


# --- Server-Sent Events ------------------------------------------------------------------------------

_EVENT_STREAM: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_WAITING_FRAMES: Final = 1


@router.get("/stream", include_in_schema=False)
@router.get("/stream/sse", include_in_schema=False)  # the document of the API has answers that end
async def events(
    request: Request,
    channel: Annotated[str, Query(description="ticks, prices, bars, indicators, signals or movers")],
    symbols: Annotated[
        str | None, Query(description="Symbols, separated by commas; * for all. Not for movers.", examples=["AAPL"])
    ] = None,
    interval: Annotated[str | None, Query(description="Of bars and indicators; 1m by default.")] = None,
    indicators: Annotated[str | None, Query(description="`rsi(14),macd`; for indicators only.")] = None,
    minutes: Annotated[int | None, Query(description="The window of movers; 5 by default.")] = None,
    snapshot: Annotated[int, Query(ge=0, description="The number of newest rows of each symbol to begin with.")] = 0,
    last_event_id: Annotated[
        str | None, Header(description="Resume after this event; a browser sends it when it reconnects.")
    ] = None,
) -> StreamingResponse:
    """Return messages as events, for ever. The data of an event is one message of the WebSocket as JSON."""
    given = {"symbols": symbols, "interval": interval, "indicators": indicators, "minutes": minutes}
    fields: dict[str, Any] = {"action": "subscribe", "channel": channel, "snapshot": snapshot}
    fields |= {name: value for name, value in given.items() if value is not None}
    if last_event_id and (place := _place(last_event_id)) is not None:
        fields["resume"] = place
    wanted = read_request(fields)
    context = cast("Context", request.state.context)
    return StreamingResponse(_events(context, wanted), media_type="text/event-stream", headers=_EVENT_STREAM)


def _place(event_id: str) -> dict[str, Any] | None:
    stream, _, seq = event_id.partition("-")
    return {"stream": stream, "seq": int(seq)} if seq.isascii() and seq.isdigit() and len(seq) < 18 else None  # noqa: PLR2004


async def _events(context: Context, wanted: StreamRequest) -> AsyncIterator[bytes]:
    frames: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_FRAMES)
    traffic = context.hub.traffic

    async def send(messages: list[bytes]) -> None:
        frame = b"".join(_event(context.hub.id, one) for one in messages)
        traffic.messages += len(messages)
        traffic.bytes += len(frame)
        await frames.put(frame)

    session = Session(context.hub, Snapshots(context), FORMATS["json"], send)

    async def work() -> None:
        await session.welcome()
        try:
            await session.subscribe(wanted)
        except StockPulseError as fault:
            await session.tell_error(fault)
            return
        await session.subscriber.closed.wait()

    running = asyncio.ensure_future(session.run(work()))
    try:
        while True:
            frame = asyncio.ensure_future(frames.get())
            await asyncio.wait([frame, running], return_when=asyncio.FIRST_COMPLETED)
            if not frame.done():
                frame.cancel()
                break
            yield frame.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        context.hub.leave(session.subscriber)


def _event(stream: str, message: bytes) -> bytes:
    """Return a message as an event; its id lets a browser resume."""
    head, _, _ = message.partition(b',"rows":')
    _, found, seq = head.rpartition(b'"seq":')
    id_line = b"id: %b-%b\n" % (stream.encode(), seq) if found and seq.isdigit() else b""
    return b"%bdata: %b\n\n" % (id_line, message)
