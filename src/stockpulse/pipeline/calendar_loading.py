"""Loads the calendars of symbols in threads: one takes milliseconds from its file, and seconds without a file."""

import asyncio
from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.market.calendars import is_loaded, trading_calendar
from stockpulse.market.symbology import Names

_PAUSE_SECONDS: Final = 0.02


class CalendarLoading:
    """Loads calendars before they are needed, so that a start does not wait for all of them."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._seen = 0
        self._missing: set[str] = set()

    async def need(self, symbol_ids: npt.NDArray[np.integer]) -> None:
        """Return when the calendars of these symbols are loaded; an id may be there many times."""
        if not self._look():
            return
        known = self._names.symbol_by_id
        wanted = {known[number].calendar for number in np.unique(symbol_ids).tolist() if number in known}
        for name in sorted(wanted & self._missing):
            await asyncio.to_thread(trading_calendar, name)

    async def load_all(self) -> None:
        """Load the calendars of all known symbols, those of the most symbols first."""
        counts = Counter(symbol.calendar for symbol in self._names.in_order)
        for name, _ in counts.most_common():
            if not is_loaded(name):
                await asyncio.to_thread(trading_calendar, name)
                await asyncio.sleep(_PAUSE_SECONDS)

    def _look(self) -> bool:
        """Return True if calendars of known symbols are missing."""
        new = self._names.in_order[self._seen :]
        self._seen += len(new)
        self._missing.update(symbol.calendar for symbol in new)
        self._missing = {name for name in self._missing if not is_loaded(name)}
        return bool(self._missing)
