"""The wall clock without its steps: time that always goes forward, and never jumps by minutes.

A user or NTP may set the clock of the machine. Bars of the skipped time would be missing, and after a step back a feed
would be silent, or trade the same minutes twice. So this clock follows the uptime of the machine from the start of the
process, and approaches the wall clock at double or half speed after a step.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from stockpulse.market.clocks import utc_now
from stockpulse.market.times import SECOND_MICROS, from_micros, micros

_STEP_MICROS: Final = SECOND_MICROS
"""NTP corrects smaller differences all the time."""
_FOLLOWED_AT_ONCE_MICROS: Final = 2 * 3600 * SECOND_MICROS
"""A clock that is set by more than this was wrong before, on a machine that had no time at its start."""
_SAME_MOMENT_MICROS: Final = 200
_TRIES: Final = 3
#: This one runs on while the machine sleeps. Not every system has it.
_UPTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Step:
    """A step of the wall clock."""

    at: datetime
    """The time of this process when it saw the step."""
    seconds: float
    """The length of the step; negative if the clock was set back."""


def _uptime_micros() -> int:
    return time.clock_gettime_ns(_UPTIME) // 1000


class SteadyClock:
    """Returns the present time, UTC, when called. Threads may share it."""

    def __init__(
        self, wall: Callable[[], datetime] = utc_now, uptime_micros: Callable[[], int] = _uptime_micros
    ) -> None:
        """Follow `wall`; the time in between is measured with `uptime_micros`, which cannot be set."""
        self._wall = wall
        self._uptime_micros = uptime_micros
        self._lock = threading.Lock()
        self._read_at = uptime_micros()
        self._now = micros(wall())
        self._behind = 0
        self.last_step: Step | None = None

    def __call__(self) -> datetime:
        """Return the present time: no earlier than before, unless the clock was set back by more than two hours."""
        with self._lock:
            uptime, wall = self._read()
            passed = max(uptime - self._read_at, 0)
            self._read_at = uptime
            self._now += passed
            behind = wall - self._now
            if abs(behind - self._behind) > _STEP_MICROS:
                self._note(behind - self._behind)
            self._now += self._correction(behind, passed)
            self._behind = wall - self._now
            return from_micros(self._now)

    def _read(self) -> tuple[int, int]:
        """Return uptime and wall clock of the same moment: the thread may be interrupted between the two reads."""
        for _ in range(_TRIES):
            uptime, wall = self._uptime_micros(), micros(self._wall())
            if self._uptime_micros() - uptime < _SAME_MOMENT_MICROS:
                break
        return uptime, wall

    def behind_seconds(self) -> float:
        """Return the delay of this clock behind the wall clock in seconds; negative if it is ahead."""
        self()
        return self._behind / SECOND_MICROS

    def _correction(self, behind: int, passed: int) -> int:
        if abs(behind) > _FOLLOWED_AT_ONCE_MICROS:
            return behind
        return min(behind, passed) if behind >= 0 else max(behind, -passed // 2)

    def _note(self, step: int) -> None:
        self.last_step = Step(from_micros(self._now), step / SECOND_MICROS)
        log.warning("the clock of the machine was set", by_seconds=self.last_step.seconds)
