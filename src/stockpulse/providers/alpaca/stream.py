"""One connection to Alpaca's stream: it greets, we authenticate and subscribe, and then it sends data.

Every frame is an array of messages. Messages with `T` success, error and subscription are answers; all others are
data. A subscription is added to the ones before, and each answer lists all of them.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from stockpulse.providers.alpaca.encoding import Encoding
from stockpulse.providers.alpaca.faults import (
    ALREADY_AUTHENTICATED,
    INVALID_SYNTAX,
    SYMBOL_LIMIT,
    stream_fault,
)
from stockpulse.providers.alpaca.replies import Row
from stockpulse.providers.faults import NotEntitled, ProviderFault, Unreachable
from stockpulse.providers.transport.live_socket import LiveSocket

ANSWER_SECONDS: Final = 10.0
"""Alpaca itself waits this long for `auth`."""
_SYMBOLS_PER_MESSAGE: Final = 500
_ANSWERS: Final = ("success", "error", "subscription")
_REFUSALS_OF_SYMBOLS: Final = (INVALID_SYNTAX, SYMBOL_LIMIT)


class Session:
    """The messages of one connection."""

    def __init__(self, socket: LiveSocket, encoding: Encoding) -> None:
        self._socket = socket
        self._encoding = encoding
        self._answers: list[Row] = []
        self._data: list[Row] = []
        self._full: ProviderFault | None = None
        self.subscribed: dict[str, list[str]] = {}
        """The symbols of each channel, by Alpaca's last word."""
        self.unreadable: list[tuple[str, str]] = []
        """Frames that are no arrays of messages, without keys, and the reasons."""

    async def authenticate(self, key: str, secret: str) -> None:
        """Wait for the greeting, send the key, wait for the answer. Raises ProviderFault."""
        if await self._success("connected", "authenticated") == "connected":
            await self._send({"action": "auth", "key": key, "secret": secret})
            await self._success("authenticated")

    async def subscribe(self, symbols: Sequence[str], channels: Sequence[str]) -> dict[str, ProviderFault]:
        """Subscribe to as many symbols as Alpaca accepts; return the others with their faults.

        Raises the fault if it accepts none.
        """
        refused: dict[str, ProviderFault] = {}
        for at in range(0, len(symbols), _SYMBOLS_PER_MESSAGE):
            await self._subscribe(list(symbols[at : at + _SYMBOLS_PER_MESSAGE]), channels, refused)
        if len(refused) == len(symbols):
            raise next(iter(refused.values()))
        return refused

    def has(self, symbol: str, channels: Sequence[str]) -> bool:
        """Return True if a symbol is in all of these channels that Alpaca's last word has."""
        known = [set(self.subscribed[channel]) for channel in channels if channel in self.subscribed]
        return all(symbol in symbols or "*" in symbols for symbols in known)

    async def read(self) -> list[Row]:
        """Return data messages as soon as there are some.

        Raises the fault that an error message states, after the data before it.
        """
        while not (self._data or self.unreadable):
            while self._answers:
                answer = self._answers.pop(0)
                if answer["T"] == "error" and _code(answer) != ALREADY_AUTHENTICATED:
                    raise self._fault(answer)
            await self._receive()
        data, self._data = self._data, []
        return data

    async def _subscribe(self, symbols: list[str], channels: Sequence[str], refused: dict[str, ProviderFault]) -> None:
        """Subscribe to symbols, and to each half of them if Alpaca refuses all because of some.

        Once it refuses a single symbol because there are too many, it is not asked for further ones.
        """
        fault = self._full or await self._ask(symbols, channels)
        if fault is None:
            return
        if self._full is not None or len(symbols) == 1:
            refused |= dict.fromkeys(symbols, fault)
            if isinstance(fault, NotEntitled):
                self._full = fault
            return
        middle = len(symbols) // 2
        try:
            await self._subscribe(symbols[:middle], channels, refused)
            await self._subscribe(symbols[middle:], channels, refused)
        except Unreachable:
            raise fault from None  # it closed the connection after such an error

    async def _ask(self, symbols: list[str], channels: Sequence[str]) -> ProviderFault | None:
        """Subscribe to symbols; return the fault if Alpaca refuses because of the symbols. Raises other faults."""
        await self._send({"action": "subscribe", **dict.fromkeys(channels, symbols)})
        while True:
            answer = await self._answer()
            if answer["T"] == "subscription":
                self.subscribed = {name: value for name, value in answer.items() if isinstance(value, list)}
                return None
            if answer["T"] == "error" and _code(answer) != ALREADY_AUTHENTICATED:
                if _code(answer) in _REFUSALS_OF_SYMBOLS:
                    return self._fault(answer)
                raise self._fault(answer)

    async def _success(self, *expected: str) -> str:
        """Wait for one of these successes; return it."""
        while True:
            answer = await self._answer()
            if answer["T"] == "error":
                if _code(answer) != ALREADY_AUTHENTICATED:
                    raise self._fault(answer)
                return "authenticated"
            if answer["T"] == "success" and answer.get("msg") in expected:
                return str(answer["msg"])

    async def _answer(self) -> Row:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not self._answers:
                    await self._receive()
        except TimeoutError:
            raise Unreachable(f"the stream of alpaca gives no answer within {ANSWER_SECONDS:g} seconds") from None
        return self._answers.pop(0)

    async def _send(self, message: Row) -> None:
        await self._socket.send(self._encoding.dumps(message))

    async def _receive(self) -> None:
        """Receive frames, and keep their messages: answers and data, in order."""
        for frame in await self._socket.receive_waiting():
            for message in self._messages(frame):
                (self._answers if message.get("T") in _ANSWERS else self._data).append(message)

    def _messages(self, frame: bytes) -> list[Row]:
        try:
            content: Any = self._encoding.loads(frame)
        except ValueError as error:
            self._reject(frame, f"not in the encoding of the stream: {error}")
            return []
        if isinstance(content, dict):
            content = [content]
        if not isinstance(content, list) or any(type(message) is not dict for message in content):
            self._reject(frame, "not an array of messages")
            return []
        return content

    def _reject(self, frame: bytes, reason: str) -> None:
        self.unreadable.append((self._socket.clean(frame.decode(errors="replace")), self._socket.clean(reason)))

    def _fault(self, answer: Row) -> ProviderFault:
        return stream_fault(_code(answer), self._socket.clean(str(answer.get("msg", "")))[:200])


def _code(answer: Row) -> int:
    code = answer.get("code")
    return code if isinstance(code, int) else 0
