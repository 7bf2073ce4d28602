"""Limits on new symbols and new providers: each of them costs memory and rows for good."""

from datetime import datetime, timedelta
from typing import Final

import polars as pl

from stockpulse.market.arrays import distinct_texts
from stockpulse.market.symbology import Names

_BURST_MINUTES: Final = 5
_COMING: Final = timedelta(minutes=10)
_MINUTE: Final = timedelta(minutes=1)


class NewNames:
    """Decides which new symbols and providers the log accepts. Known ones are always accepted.

    New symbols have a limit in all and one per minute. After quiet minutes, the new symbols of five minutes may come at
    once, as at the first start of a large universe.
    """

    def __init__(self, names: Names, *, max_symbols: int, symbols_per_minute: int, max_providers: int) -> None:
        self._names = names
        self._max_symbols = max_symbols
        self._per_minute = symbols_per_minute
        self._max_providers = max_providers
        self._room = float(symbols_per_minute * _BURST_MINUTES)
        self._room_at: datetime | None = None
        self._coming: dict[str, datetime] = {}
        """New symbols that were accepted and have no id yet, each with the time from which it needs no place."""

    def refuses_provider(self, provider: str) -> str | None:
        """Return the reason to reject all rows of a provider; None if it is known or there is room."""
        known = self._names.providers
        if provider in known or len(known) < self._max_providers:
            return None
        return f"provider: new, and {self._max_providers:,} providers are the most: see STOCKPULSE_MAX_PROVIDERS"

    def refused_symbols(self, symbols: pl.Series, now: datetime) -> tuple[list[str], str]:
        """Return the new symbols for which there is no room, and the reason; the other new ones have a place now."""
        known = self._names.symbols
        new = [symbol for symbol in distinct_texts(symbols) if symbol is not None and symbol not in known]
        if not new:
            return [], ""
        self._coming = {symbol: until for symbol, until in self._coming.items() if symbol not in known and until > now}
        new = [symbol for symbol in new if symbol not in self._coming]
        in_all = max(self._max_symbols - len(known) - len(self._coming), 0)
        if not new:
            return [], ""
        accepted = new[: min(in_all, self._room_in_minute(now))]
        self._room -= len(accepted)
        self._coming |= dict.fromkeys(accepted, now + _COMING)
        if len(accepted) == len(new):
            return [], ""
        if len(accepted) == in_all:
            reason = f"new, and {self._max_symbols:,} symbols are the most: see STOCKPULSE_MAX_SYMBOLS"
        else:
            reason = (
                f"new, and {self._per_minute:,} new ones per minute are the most: send it again in a minute, or see"
                " STOCKPULSE_NEW_SYMBOLS_PER_MINUTE"
            )
        return new[len(accepted) :], f"symbol: {reason}"

    def _room_in_minute(self, now: datetime) -> int:
        minutes = 0.0 if self._room_at is None else max((now - self._room_at) / _MINUTE, 0.0)
        self._room = min(self._room + minutes * self._per_minute, self._per_minute * _BURST_MINUTES)
        self._room_at = now
        return int(self._room)
