"""Publishes forming bars of the stored intervals, at most once per symbol and quarter of a second."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import numpy as np

from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import Batch, Change, Channel
from stockpulse.hub.served_rows import ServedRows
from stockpulse.market.intervals import BASE_INTERVALS, Interval
from stockpulse.market.symbology import Names

PACE_SECONDS: Final = 0.25
_FEW_SYMBOLS: Final = 20
"""For more symbols, it is faster to read the bars of all symbols at once."""

InMemory = Callable[[Interval, int | None], Awaitable[Rows]]


class FormingBars:
    """Reads the engine's bars of symbols that have traded."""

    def __init__(
        self, hub: Hub, names: Names, served: ServedRows, in_memory: InMemory, also: Callable[[set[int]], None]
    ) -> None:
        """`in_memory` returns the engine's bars of a stored interval, of one symbol or of all.

        `also` is called with the ids of symbols that have traded.
        """
        self._hub = hub
        self._names = names
        self._served = served
        self._in_memory = in_memory
        self._also = also
        self._shown: dict[tuple[Interval, int], tuple[int, int]] = {}
        """The start and the revision of the bar of each symbol that was published last."""

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            await self.publish(await self._hub.traded())
            await asyncio.sleep(PACE_SECONDS)

    async def publish(self, traded: set[int]) -> None:
        """Publish the forming bars of these symbols."""
        self._also(traded)
        for interval in BASE_INTERVALS:
            family = (Channel.FORMING, interval.name, "")
            read = self._hub.symbols(family)
            wanted = traded if read is None else {one for one in traded if self._names.symbol_by_id[one].name in read}
            if wanted:
                rows = await self._rows(interval, wanted)
                rows = self._changed(interval, rows[~rows["final"] & ~np.isnan(rows["open"])])
                self._hub.publish_newest(family, Change.FORMING, Batch(self._served.bars(rows, interval)))

    def _changed(self, interval: Interval, rows: Rows) -> Rows:
        """Return the bars that have changed since they were published."""
        chosen = []
        for place, key in enumerate(zip(rows["symbol_id"].tolist(), rows["ts"].tolist(), strict=True)):
            version = (key[1], int(rows["revision"][place]))
            if self._shown.get((interval, key[0])) != version:
                self._shown[interval, key[0]] = version
                chosen.append(place)
        return rows[chosen]

    async def _rows(self, interval: Interval, symbol_ids: Iterable[int]) -> Rows:
        ids = list(symbol_ids)
        if len(ids) > _FEW_SYMBOLS:
            rows = await self._in_memory(interval, None)
            return rows[np.isin(rows["symbol_id"], ids)]
        found = [await self._in_memory(interval, one) for one in ids]
        return np.concatenate(found) if found else np.empty(0, BAR)
