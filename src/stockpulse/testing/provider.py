"""A provider that follows a script."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import polars as pl

from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import check_provider_name
from stockpulse.providers.base import ProviderBase
from stockpulse.testing.frames import bars_frame


class ScriptedProvider(ProviderBase):
    """A provider that streams the steps of a script, and whose history is a frame of bars.

    A step of the script is a frame of ticks, which the stream yields, or an exception, which it raises. A stream that
    is opened again after an exception continues with the next step. After the last step the stream ends; a `live`
    stream waits for the steps of `add`, until `end`.
    """

    def __init__(
        self,
        script: Iterable[pl.DataFrame | Exception] = (),
        bars: pl.DataFrame | None = None,
        *,
        name: str = "scripted",
        calendar: str = "24/7",
        clock: Clock = Clock.WALL,
        can_wait: bool = True,
        delay_seconds: float = 0.0,
        live: bool = False,
    ) -> None:
        check_provider_name(name)
        self.name = name
        self.calendar = calendar
        self.clock = clock
        self.can_wait = can_wait
        self.delay_seconds = delay_seconds
        self.bars = bars_frame() if bars is None else bars
        self.requests: list[tuple[tuple[str, ...], str, datetime, datetime]] = []
        """Symbols, interval, start and end of each call of `history`."""
        self.history_faults: deque[Exception] = deque()
        """The next calls of `history` raise these, one each."""
        self._script = deque(script)
        self._live = live
        self._changed = asyncio.Event()

    def add(self, *steps: pl.DataFrame | Exception) -> None:
        """Append steps to the script."""
        self._script += steps
        self._changed.set()

    def end(self) -> None:
        """End the stream after the last step."""
        self._live = False
        self._changed.set()

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield frames and raise exceptions in the order of the script."""
        while self._script or self._live:
            if not self._script:
                self._changed.clear()
                await self._changed.wait()
                continue
            step = self._script.popleft()
            if isinstance(step, Exception):
                raise step
            yield step

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield the bars of `symbols` with start <= ts < end, symbol by symbol, ascending."""
        self.requests.append((tuple(symbols), interval, start, end))
        if self.history_faults:
            raise self.history_faults.popleft()
        chosen = (pl.col("interval") == interval) & pl.col("ts").is_between(start, end, closed="left")
        for symbol in symbols:
            found = self.bars.filter(chosen & (pl.col("symbol") == symbol)).sort("ts")
            if len(found):
                yield found
