"""Plays a stored day: yields its events when the clock of the replay reaches them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from stockpulse.api.replay.clock import ReplayClock
from stockpulse.api.replay.day import Event, StoredDay, Wanted
from stockpulse.market.times import MINUTE_MICROS, SECOND_MICROS

_TOGETHER: Final = 500
"""About this number of events are sent together."""
_SHORTEST: Final = SECOND_MICROS
_LONGEST: Final = 128 * MINUTE_MICROS
_FEW: Final = 2_000
_MANY: Final = 20_000

_NOTHING: Final = Wanted(frozenset(), frozenset(), frozenset())


class Player:
    """The replay of one client. It begins with the first stored event that the client wants."""

    def __init__(self, day: StoredDay, speed: float, seconds: Callable[[], float]) -> None:
        """`speed` is in market seconds per second; `seconds` is a clock that never runs back."""
        self.clock = ReplayClock(0, speed, seconds)
        self._day = day
        self._wanted = _NOTHING
        self._changed = asyncio.Event()
        self._next = 0
        """All events before this time have been sent, UTC microseconds."""
        self._begun = False
        self._piece = MINUTE_MICROS
        """The length of market time that is read at once."""

    @property
    def place(self) -> int:
        """The market time that the replay has reached, UTC microseconds; 0 before its first event."""
        return self.clock.now() if self._begun else 0

    def want(self, wanted: Wanted) -> None:
        """Send these events from now on."""
        self._wanted = wanted
        self._changed.set()

    def jump(self, at: int) -> None:
        """Go on with the events from this time on."""
        self._next = at
        self._begun = True
        self.clock.set(at=at)
        self._changed.set()

    def pace(self, *, speed: float | None = None, paused: bool | None = None) -> None:
        """Change the speed, pause, or go on."""
        self.clock.set(speed=speed, paused=paused)
        self._changed.set()

    async def events(self) -> AsyncIterator[Sequence[Event]]:
        """Yield events that are due together, and an empty list at the end of the day. It can jump back from there."""
        while True:
            self._changed.clear()
            if not self._wanted.symbols:
                await self._changed.wait()
                continue
            first, last = self._day.span(self._wanted.symbols)
            start = max(first, self._next)
            if start >= last:
                yield ()
                await self._changed.wait()
                continue
            end = min(start + self._piece, last)
            events = await self._day.events(self._wanted, start, end)
            self._measure(len(events))
            if events and not self._begun:
                self._begun = True
                self.clock.set(at=events[0].at)
            async for due in self._played(events):
                yield due
            if not self._changed.is_set():
                self._next = end

    async def _played(self, events: Sequence[Event]) -> AsyncIterator[Sequence[Event]]:
        """Yield the events of a piece when they are due; stop early if the client changes anything."""
        at = 0
        while at < len(events) and not self._changed.is_set():
            seconds = self.clock.wait_for(events[at].at)
            if seconds is None or seconds > 0:
                await self._until_changed(seconds)
                continue
            end = _end_of_due(events, at, self.clock)
            self._next = events[end - 1].at + 1
            self.clock.reach(events[end - 1].at)
            yield events[at:end]
            at = end

    async def _until_changed(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _measure(self, count: int) -> None:
        """Read more at once if there is little in a piece, less if there is much."""
        if count > _MANY:
            self._piece = max(self._piece // 2, _SHORTEST)
        elif count < _FEW:
            self._piece = min(self._piece * 2, _LONGEST)


def _end_of_due(events: Sequence[Event], first: int, clock: ReplayClock) -> int:
    """Return the place after the events that are sent together: those that are due, all events of one time."""
    end = first + 1
    while end < len(events):
        same = events[end].at == events[end - 1].at
        if not same and (end - first >= _TOGETHER or clock.wait_for(events[end].at) != 0):
            break
        end += 1
    return end
