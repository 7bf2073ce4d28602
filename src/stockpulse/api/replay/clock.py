"""The clock of a replay: market time that runs at any speed, stands still, or jumps."""

import math
from collections.abc import Callable
from typing import Final

from stockpulse.market.times import SECOND_MICROS

MAX_SPEED: Final = math.inf
"""The speed of a replay that never waits."""


class ReplayClock:
    """Market time in UTC microseconds, as a function of the machine's clock."""

    def __init__(self, start: int, speed: float, seconds: Callable[[], float]) -> None:
        """`seconds` is a clock that never runs back."""
        self._seconds = seconds
        self._at = start
        self._since = seconds()
        self.speed = speed
        """Market seconds in a second of the machine."""
        self.paused = False

    def now(self) -> int:
        """Return the market time. At the highest speed it stands where it was last set."""
        if self.paused or math.isinf(self.speed):
            return self._at
        return self._at + round((self._seconds() - self._since) * self.speed * SECOND_MICROS)

    def wait_for(self, ts: int) -> float | None:
        """Return the seconds until the market time is `ts`; 0 if it is reached, None if the clock is paused."""
        if self.paused:
            return None
        return 0.0 if math.isinf(self.speed) else max(0.0, (ts - self.now()) / SECOND_MICROS / self.speed)

    def reach(self, ts: int) -> None:
        """Note that the events up to a time have been sent: at the highest speed, this moves the clock."""
        if math.isinf(self.speed):
            self._at = ts

    def set(self, *, at: int | None = None, speed: float | None = None, paused: bool | None = None) -> None:
        """Jump to a time, change the speed, stand still or go on."""
        self._at = self.now() if at is None else at
        self._since = self._seconds()
        self.speed = self.speed if speed is None else speed
        self.paused = self.paused if paused is None else paused
