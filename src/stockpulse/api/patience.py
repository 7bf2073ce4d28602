"""Answers 503 with `Retry-After` to requests that wait in vain for the database."""

import asyncio
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stockpulse.api.context import Context
from stockpulse.api.error_responses import unavailable
from stockpulse.errors import DatabaseUnavailable, OutcomeUnknown, Unavailable

_LOOK_SECONDS: Final = 1.0
_READS: Final = frozenset({"GET", "HEAD"})
_WRITE_SECONDS: Final = 5.0
"""A write has its own time-out; it gets this much more time to answer by itself."""

log = structlog.get_logger(__name__)


class Patience:
    """Wraps the routes. Answers 503 to a request whose answer has not begun in time.

    A read is given up as soon as the database is silent, or after `read_seconds`. A write is given up only after its
    own time-out, and only if the database is silent. A request that was given up is cancelled, and nothing waits for
    it: on a frozen server, even a cancellation takes until the server answers again.
    """

    def __init__(self, app: ASGIApp, read_seconds: float, write_seconds: float) -> None:
        self._app = app
        self._read_seconds = read_seconds
        self._write_seconds = write_seconds + _WRITE_SECONDS
        self._given_up: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or answer 503 if the database does not answer."""
        context: Context | None = scope.get("state", {}).get("context")
        if scope["type"] != "http" or context is None:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        serving = asyncio.create_task(self._serve(scope, receive, answer))
        try:
            fault = await self._fault_of(serving, answer, context, scope["method"])
        except BaseException:
            serving.cancel()
            raise
        if fault is None:
            serving.result()
            return
        answer.closed = True
        self._given_up.add(serving)
        serving.add_done_callback(self._over)
        serving.cancel()
        log.warning("request_given_up", path=scope["path"], reason=str(fault), given_up=len(self._given_up))
        await unavailable(fault)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _fault_of(
        self, serving: asyncio.Task[None], answer: "_Answer", context: Context, method: str
    ) -> Unavailable | OutcomeUnknown | None:
        """Wait until the request is served and return None, or return the reason to give it up."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            done, _ = await asyncio.wait([serving], timeout=None if answer.begun else _LOOK_SECONDS)
            if done:
                return None
            waited, silent = loop.time() - began, context.pulse.is_silent()
            if answer.begun:
                continue
            if method not in _READS:
                if silent and waited > self._write_seconds:
                    return OutcomeUnknown()
            elif silent:
                return DatabaseUnavailable()
            elif waited > self._read_seconds:
                return Unavailable("the answer takes longer than STOCKPULSE_READ_TIMEOUT_SECONDS; ask for less")

    def _over(self, serving: asyncio.Task[None]) -> None:
        self._given_up.discard(serving)
        if not serving.cancelled():
            serving.exception()


class _Answer:
    """Sends the messages of a request, until it is closed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.closed = False

    async def __call__(self, message: Message) -> None:
        """Send a message; drop it if the request has been given up."""
        if self.closed:
            return
        self.begun = True
        await self._send(message)
