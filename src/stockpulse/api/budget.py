"""The memory that requests hold at a time: one budget in bytes, in three shares.

    answers   3/8   of requests that read, with their calculations
    arriving  1/8   bodies that are on their way
    parsing   4/8   bodies that are complete, and the ticks in them until these are durable

A request reserves the bytes that it will need before it does the work. If they are in use, it waits for its turn; the
wait is short, and then the answer is 503. No share waits for another one, except that a body waits to be parsed.

Each share keeps a part for small requests, so that they do not wait for large ones: live ticks come in small bodies.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Request

from stockpulse.errors import TooLarge, Unavailable

SMALL_BYTES: Final = 2**20
"""A request that holds at most this is small."""

_KEPT_SHARE: Final = 8
"""One part in eight is kept for small requests."""
_MEGABYTE: Final = 2**20


@dataclass(frozen=True)
class Budget:
    """The memory for all requests."""

    answers: "Share"
    arriving: "Share"
    parsing: "Share"


def budget_of(total_bytes: int, answer_seconds: float, body_seconds: float) -> Budget:
    """Return a budget of this size; a request waits this long for room for its answer, or for its body."""
    eighth = total_bytes // 8
    return Budget(Share(3 * eighth, answer_seconds), Share(eighth, body_seconds), Share(4 * eighth, body_seconds))


class Share:
    """Bytes that are given out and come back; those who wait get them in the order of their asking."""

    def __init__(self, total_bytes: int, wait_seconds: float) -> None:
        self.total = total_bytes
        self.free = total_bytes
        self.most = total_bytes - total_bytes // _KEPT_SHARE
        """The largest number of bytes that one request can hold."""
        self._wait_seconds = wait_seconds
        self._large: deque[_Waiting] = deque()
        self._small: deque[_Waiting] = deque()

    @asynccontextmanager
    async def reservation(self) -> AsyncGenerator["Reservation"]:
        """Yield an empty reservation; at the end its bytes come back."""
        held = Reservation(self)
        try:
            yield held
        finally:
            held.shrink_to(0)

    async def take(self, count: int, *, small: bool) -> None:
        """Take bytes, as soon as they are free. Raises Unavailable after a time of waiting."""
        line = self._small if small else self._large
        if not line and self._fits(count, small=small):
            self.free -= count
            return
        waiting = _Waiting(count, asyncio.get_running_loop().create_future())
        line.append(waiting)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await waiting.granted
        except BaseException as fault:
            if waiting in line:
                line.remove(waiting)
            elif not waiting.granted.cancelled():
                self.free += count
            self._grant()  # a smaller request behind it may fit
            if isinstance(fault, TimeoutError):
                raise Unavailable(
                    "other requests hold all memory that STOCKPULSE_REQUEST_MEMORY_MB allows for this: try again"
                    " shortly, with fewer requests at a time"
                ) from None
            raise

    def give(self, count: int) -> None:
        """Give bytes back."""
        self.free += count
        self._grant()

    def _fits(self, count: int, *, small: bool) -> bool:
        return count <= self.free - (0 if small else self.total - self.most)

    def _grant(self) -> None:
        for line, small in ((self._small, True), (self._large, False)):
            while line and self._fits(line[0].count, small=small):
                waiting = line.popleft()
                if not waiting.granted.cancelled():  # it has just stopped waiting
                    self.free -= waiting.count
                    waiting.granted.set_result(None)


@dataclass(eq=False)
class _Waiting:
    """A request that waits for bytes; the future is done when it has them."""

    count: int
    granted: asyncio.Future[None]


class Reservation:
    """The bytes that one request holds."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.held = 0

    async def grow_to(self, count: int, too_large: str) -> None:
        """Hold this many bytes in all.

        Raises TooLarge, with the advice `too_large`, if no request can hold that many; Unavailable if they do not come
        free in time.
        """
        if count <= self.held:
            return
        if count > self._share.most:
            needs, most = -(-count // _MEGABYTE), self._share.most // _MEGABYTE
            raise TooLarge(
                f"needs about {needs:,} MB of memory, and one request may have {most:,} MB: {too_large},"
                " or raise STOCKPULSE_REQUEST_MEMORY_MB"
            )
        await self._share.take(count - self.held, small=count <= SMALL_BYTES)
        self.held = count

    def shrink_to(self, count: int) -> None:
        """Give back all bytes but these."""
        if count < self.held:
            self._share.give(self.held - count)
            self.held = count


# Reservations of requests -----------------------------------------------------------------------


def _reservation_of(share_of: Callable[[Budget], Share]) -> Callable[[Request], Awaitable[Reservation]]:
    async def reservation(request: Request) -> AsyncGenerator[Reservation]:
        async with share_of(request.state.context.budget).reservation() as held:
            yield held

    return reservation  # type: ignore[return-value]  # FastAPI turns the generator into its value


#: `async def handler(room: AnswerRoom)`: the memory of an answer, held until the answer has left.
AnswerRoom = Annotated[Reservation, Depends(_reservation_of(lambda budget: budget.answers))]
#: The memory of a body while it arrives.
ArrivalRoom = Annotated[Reservation, Depends(_reservation_of(lambda budget: budget.arriving))]
#: The memory of a body while it is parsed, and of what is made from it.
ParsingRoom = Annotated[Reservation, Depends(_reservation_of(lambda budget: budget.parsing))]
