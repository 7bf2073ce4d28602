"""The sessions of a market, for what happens only while it is open."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.times import MINUTE_MICROS, SECOND_MICROS, micros
from stockpulse.providers.transport.live_socket import LiveSocket

_LONGEST_SLEEP_SECONDS: Final = 60.0
"""Then the clock is read again, in case it was set."""
_AFTER_MINUTE_SECONDS: Final = 4.0
"""The bar of a minute is asked for so long after the minute: Alpaca makes it right after the minute's end."""
_AHEAD: Final = timedelta(days=30)


@dataclass(frozen=True)
class Hours:
    """The sessions of a calendar, seen from a clock that may be behind the wall clock, as a delayed feed is."""

    calendar: Calendar
    now: Callable[[], datetime]

    def is_open(self) -> bool:
        """Return True within a session."""
        return bool(self.calendar.in_session(np.array([micros(self.now())]))[0])

    def seconds_to_change(self) -> float:
        """Return the seconds until the session opens or closes."""
        now = self.now()
        _, opens, closes = self.calendar.sessions(micros(now - _AHEAD), micros(now + _AHEAD))
        times = np.concatenate([opens, closes])
        later = times[times > micros(now)]
        return (int(later.min()) - micros(now)) / SECOND_MICROS if len(later) else _LONGEST_SLEEP_SECONDS


async def market_hours(calendar: str, now: Callable[[], datetime], delay_seconds: float) -> Hours:
    """Return the hours of a calendar for a feed with this delay; the first time, loading takes up to seconds."""
    loaded = await asyncio.to_thread(trading_calendar, calendar)
    return Hours(loaded, lambda: now() - timedelta(seconds=delay_seconds))


async def watch_in_sessions(hours: Hours, socket: LiveSocket, seconds: float) -> None:
    """Arm the silence watch of a socket when a session opens, and disarm it when it closes; 0 seconds: never."""
    armed = False
    while seconds > 0:
        if hours.is_open() != armed:
            armed = not armed
            socket.watch_silence(seconds if armed else None)
        await asyncio.sleep(min(hours.seconds_to_change(), _LONGEST_SLEEP_SECONDS))


async def minutes_in_sessions(hours: Hours, sleep: Callable[[float], Awaitable[None]]) -> AsyncGenerator[None]:
    """Yield after each minute of a session, the last one included; without end."""
    while True:
        was_open = hours.is_open()
        await sleep(_seconds_to_next_minute(hours.now()))
        if was_open:
            yield


def _seconds_to_next_minute(now: datetime) -> float:
    return 60.0 - micros(now) % MINUTE_MICROS / SECOND_MICROS + _AFTER_MINUTE_SECONDS
