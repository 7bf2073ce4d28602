"""One WebSocket of Alpaca's stream: receives messages, answers them, sends data."""

import asyncio
from typing import Final

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from stockpulse.api.alpaca.stream.encodings import Data, Encoding
from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.api.alpaca.stream.session import AUTHENTICATED, CONNECTED, Session
from stockpulse.api.alpaca.stream.sources import Source

AUTH_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 20.0
"""The time that a client has to read what was sent before the close frame."""
_REFUSED: Final = 1008
_FAULT: Final = 1011

log = structlog.get_logger(__name__)


class Connection:
    """A client, and the source of its data."""

    def __init__(self, socket: WebSocket, encoding: Encoding, session: Session, source: Source) -> None:
        self._socket = socket
        self._encoding = encoding
        self._session = session
        self._source = source
        self._turn = asyncio.Lock()
        """Held while a message is answered: the data of a subscription come after its answer."""

    async def run(self) -> None:
        """Serve the client until it leaves, or until the source ends."""
        code, reason = 1000, ""
        try:
            await self._tell(CONNECTED)
            if self._session.authenticated:
                await self._tell(AUTHENTICATED)
            await self._serve()
        except WebSocketDisconnect:
            return
        except StreamError as error:
            code, reason = _REFUSED, str(error)
            await self._say(error)
        except Exception:
            log.exception("a stream of an Alpaca client failed")
            code, reason = _FAULT, "internal error"
            await self._say(StreamError(500))
        finally:
            self._source.close()
        if (closing := self._source.closing) is not None:
            code, reason = closing.code, closing.reason
        await self._close(code, reason)

    async def _serve(self) -> None:
        """Receive and send, until the client leaves or the source ends."""
        parts = (self._receive(), self._send_data(), self._source.ended())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _receive(self) -> None:
        """Answer the messages of the client until it leaves. Raises StreamError if it does not authenticate in time."""
        deadline = asyncio.get_running_loop().time() + AUTH_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(None if self._session.authenticated else deadline):
                    message = await self._socket.receive()
            except TimeoutError:
                raise StreamError(404) from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            text = message.get("text")
            await self._answer(text if text is not None else message.get("bytes") or b"")

    async def _answer(self, data: bytes | str) -> None:
        async with self._turn:
            try:
                message = self._encoding.read(data)
                if isinstance(message, dict) and self._session.authenticated and message.get("action") == "replay":
                    answer = self._source.take(message)
                else:
                    before = self._session.subscriptions
                    answer = self._session.take(message)
                    if self._session.subscriptions is not before:
                        self._source.subscribe(self._session.subscriptions)
            except StreamError as error:
                answer = error.message()
            await self._tell(answer)

    async def _send_data(self) -> None:
        async for frame in self._source.frames():
            async with self._turn:
                await self._send(frame)

    async def _tell(self, *messages: Data) -> None:
        await self._send(self._encoding.frame(messages))

    async def _send(self, frame: bytes) -> None:
        self._source.traffic.messages += 1
        self._source.traffic.bytes += len(frame)
        key, value = ("text", frame.decode()) if self._encoding.is_text else ("bytes", frame)
        try:
            await self._socket.send({"type": "websocket.send", key: value})
        except RuntimeError as fault:  # the server has closed it, because of a bad frame or a missing pong
            raise WebSocketDisconnect(1006) from fault

    async def _say(self, error: StreamError) -> None:
        """Send an error before the end, if the client still reads."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._tell(error.message())
        except (TimeoutError, WebSocketDisconnect):
            return

    async def _close(self, code: int, reason: str) -> None:
        if self._socket.client_state is WebSocketState.DISCONNECTED:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._socket.close(code, reason)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):  # it reads nothing, or has gone
            return
