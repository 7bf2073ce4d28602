"""Answers 503 with `Retry-After` to requests that wait in vain for the database."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stockpulse.api.error_responses import unavailable
from stockpulse.errors import DatabaseUnavailable, OutcomeUnknown, Unavailable
from stockpulse.postgres.pulse import Pulse

if TYPE_CHECKING:
    from stockpulse.api.context import Context

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
        self._waiting: set[_Request] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._given_up: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or answer 503 if the database does not answer."""
        context: Context | None = scope.get("state", {}).get("context")
        if scope["type"] != "http" or context is None:
            await self._app(scope, receive, send)
            return
        request = _Request(send, context.pulse, is_read=scope["method"] in _READS)
        serving = asyncio.create_task(self._serve(scope, receive, request))
        serving.add_done_callback(request.served)
        self._wait_for(request)
        try:
            fault = await request.fault
        except BaseException:
            serving.cancel()
            raise
        finally:
            self._waiting.discard(request)
        if fault is None:
            serving.result()
            return
        self._given_up.add(serving)
        serving.add_done_callback(self._over)
        serving.cancel()
        log.warning("request_given_up", path=scope["path"], reason=str(fault), given_up=len(self._given_up))
        await unavailable(fault)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _wait_for(self, request: "_Request") -> None:
        self._waiting.add(request)
        if self._next_look is None:  # one timer for all: a timer for each request would cost more than the rest
            self._next_look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Give up the requests that have waited too long."""
        for request in [one for one in self._waiting if not one.begun and not one.fault.done()]:
            if (fault := self._fault_of(request)) is not None:
                request.give_up(fault)
        self._next_look = None
        if self._waiting:
            self._next_look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _fault_of(self, request: "_Request") -> Unavailable | OutcomeUnknown | None:
        """Return the reason to give a request up; None while it may wait."""
        waited, silent = time.monotonic() - request.began, request.pulse.is_silent()
        if not request.is_read:
            return OutcomeUnknown() if silent and waited > self._write_seconds else None
        if silent and waited > _LOOK_SECONDS:
            return DatabaseUnavailable()
        if waited > self._read_seconds:
            return Unavailable("the answer takes longer than STOCKPULSE_READ_TIMEOUT_SECONDS; ask for less")
        return None

    def _over(self, serving: asyncio.Task[None]) -> None:
        self._given_up.discard(serving)
        if not serving.cancelled():
            serving.exception()


class _Request:
    """A request that is being served. It sends the messages of its answer, until it is given up."""

    def __init__(self, send: Send, pulse: Pulse, *, is_read: bool) -> None:
        self._send = send
        self.pulse = pulse
        self.is_read = is_read
        self.began = time.monotonic()
        self.begun = False
        """True once a part of the answer is sent."""
        self.fault: asyncio.Future[Unavailable | OutcomeUnknown | None] = asyncio.get_running_loop().create_future()
        """Done when the request is served, with None, or given up, with the reason."""

    async def __call__(self, message: Message) -> None:
        """Send a message; drop it if the request has been given up."""
        if self.fault.done():
            return
        self.begun = True
        await self._send(message)

    def served(self, _: object) -> None:
        """Note that the request is served, or has failed."""
        if not self.fault.done():
            self.fault.set_result(None)

    def give_up(self, fault: Unavailable | OutcomeUnknown) -> None:
        """End the request with this fault."""
        self.fault.set_result(fault)
