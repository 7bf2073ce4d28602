"""The newest bars on the topic of bars, for a process that only answers requests. Only this topic has forming bars."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.journal.codecs import Codec
from stockpulse.market.intervals import INTERVAL_OF, MINUTES_OF, Interval
from stockpulse.market.symbology import Names
from stockpulse.pipeline.followed_events import FollowedBar, FollowedEvents
from stockpulse.storage.bar_rows import rows_of_topic

_MOST_BARS: Final = 3
"""The newest bars of each symbol and interval to keep; the database has the others by then."""


class FollowedBars:
    """The newest bars of all symbols, from records of the topic."""

    def __init__(
        self,
        records: Callable[[], AsyncIterator[list[bytes | None]]],
        codec: Codec,
        names: Names,
        events: FollowedEvents | None = None,
    ) -> None:
        """`records` begins to yield the values of the topic's new records; `events` passes the bars on."""
        self._records = records
        self._codec = codec
        self._names = names
        self._events = events
        self._bars: dict[tuple[str, str], dict[int, np.void]] = {}

    async def run(self) -> None:
        """Take bars from the topic until cancelled."""
        async for values in self._records():
            self._take(await asyncio.to_thread(self._codec.decode_ohlcv, values))

    def _take(self, bars: pl.DataFrame) -> None:
        for key, part in bars.group_by("interval", maintain_order=True):
            rows = rows_of_topic(part, {name: one.id for name, one in self._names.providers.items()})
            deleted = part["deleted"].fill_null(value=False).to_numpy()
            told = []
            for symbol, row, removed in zip(part["symbol"], rows, deleted, strict=True):
                kept = self._bars.setdefault((str(key[0]), symbol), {})
                known = kept.get(int(row["ts"]))
                if known is None or _version(known) < _version(row):
                    old = known is None and bool(kept) and int(row["ts"]) < min(kept)
                    revised = bool(removed or old or (known is not None and known["final"]))
                    told.append(FollowedBar(symbol, row.copy(), revised, bool(removed)))
                if known is None or known["revision"] <= row["revision"]:
                    kept[int(row["ts"])] = row
                if removed:
                    row["open"] = np.nan  # an older record may still come
                while len(kept) > _MOST_BARS:
                    del kept[min(kept)]
            if self._events is not None:
                self._events.tell_bars(INTERVAL_OF[MINUTES_OF[str(key[0])]], told)

    async def in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """Return the newest bars of one symbol, or of all symbols, including forming bars."""
        names = self._names
        symbols = names.symbols.values() if symbol_id is None else [names.symbol_by_id[symbol_id]]
        found = []
        for symbol in symbols:
            for row in self._bars.get((interval.name, symbol.name), {}).values():
                row["symbol_id"] = symbol.id
                if not np.isnan(row["open"]):
                    found.append(row)
        return np.array(found, BAR) if found else np.empty(0, BAR)


def _version(row: np.void) -> tuple[int, bool]:
    return int(row["revision"]), bool(row["final"])
