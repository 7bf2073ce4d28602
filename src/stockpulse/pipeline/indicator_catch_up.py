"""Indicators that are behind catch up with the stored bars, a part at a time."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from stockpulse.aio import offload
from stockpulse.engine.bar_math import Rows, keys, newest_of_each
from stockpulse.engine.indicator_track import ANCHOR_BARS, Track
from stockpulse.market.arrays import Ints, Mask
from stockpulse.market.intervals import Interval
from stockpulse.pipeline.calendar_loading import CalendarLoading
from stockpulse.pipeline.locked_engine import LockedEngine
from stockpulse.storage.engine_reads import EngineReads

_SYMBOLS: Final = 500
_BARS: Final = 20_000
_LEAST_BARS: Final = 200
"""The maximum number of bars of a part, and the minimum of each symbol in it."""
_PAUSE_SECONDS: Final = 0.01


class IndicatorCatchUp:
    """Calculates missing indicators between two batches, while no bar changes."""

    def __init__(
        self, engine: LockedEngine, reads: EngineReads, calendars: CalendarLoading, room: Callable[[], int]
    ) -> None:
        """`room` returns the number of further rows that the next flush takes."""
        self._engine = engine
        self._reads = reads
        self._calendars = calendars
        self._room = room

    async def advance(self) -> bool:
        """Calculate missing indicators while the next flush has room; return False if none are missing."""
        behind = [track for track in self._engine.unlocked.analytics.tracks.values() if track.is_behind()]
        for track in behind:
            if (most := min(self._room(), _BARS)) < _LEAST_BARS:
                await asyncio.sleep(_PAUSE_SECONDS)
                break
            await self._rewind(track)
            await self._go_on(track, most)
        return bool(behind)

    async def _rewind(self, track: Track) -> None:
        symbol_id, until = track.to_rewind(_SYMBOLS)
        if len(symbol_id):
            anchors = await self._reads.anchors(track, symbol_id, until)
            async with self._engine:
                track.rewind(symbol_id, anchors)

    async def _go_on(self, track: Track, most: int) -> None:
        symbol_id, start = track.positions(min(_SYMBOLS, most // _LEAST_BARS))
        if len(symbol_id):
            await self._calendars.need(symbol_id)
            rows, complete = await self._bars(track.interval, symbol_id, start, most)
            async with self._engine:
                await offload.run(len(rows), partial(track.catch_up, symbol_id, rows, complete=complete))

    async def _bars(self, interval: Interval, symbol_id: Ints, start: Ints, at_once: int) -> tuple[Rows, Mask]:
        """Return about `at_once` closed bars of these symbols, and a mask of the symbols that have no further bars."""
        async with self._engine as engine:
            memory = engine.bars.selected(interval, final=True)  # first: what leaves it from here on is stored
            removed = engine.bars.removed(interval)  # and these may not be deleted yet
        most = min(at_once // len(symbol_id), ANCHOR_BARS)  # so that each part may leave an anchor
        stored = await self._reads.bars_from(interval, symbol_id, start, most)
        first, last = (np.searchsorted(stored["symbol_id"], symbol_id, side) for side in ("left", "right"))
        complete = last - first < most
        end = np.full(len(symbol_id), np.iinfo(np.int64).max)
        end[~complete] = stored["ts"][last[~complete] - 1] + 1
        at = np.minimum(np.searchsorted(symbol_id, memory["symbol_id"]), len(symbol_id) - 1)
        wanted = (symbol_id[at] == memory["symbol_id"]) & (memory["ts"] >= start[at]) & (memory["ts"] < end[at])
        stored = stored[~np.isin(keys(stored["symbol_id"], stored["ts"]), removed)]
        return newest_of_each(np.concatenate([stored, memory[wanted]])), complete
