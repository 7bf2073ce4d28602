"""Drops ticks and corrections that were delivered before, in the order of the log of one shard."""

from datetime import timedelta
from typing import Final

import polars as pl

from stockpulse.ingest.corrected_trades import MESSAGE, MOST, SEARCHED, right_trades
from stockpulse.ingest.redelivery import LEAST_KEYS, MOST_KEYS, RedeliveryWindow, within
from stockpulse.market.symbology import Names

_LOGGED_KEY: Final = ("symbol_id", "venue", "trade_id", "ts")


class ShardRedeliveries:
    """The window of one shard, in the order of its log, whichever process appended the ticks.

    `parts` is the number of shards, which share the bounds on keys.
    """

    def __init__(self, names: Names, parts: int) -> None:
        self._names = names
        self._window = RedeliveryWindow(most_keys=MOST_KEYS // parts, least_keys=LEAST_KEYS // parts, key=_LOGGED_KEY)
        self._corrections = _ShardCorrections(names, parts)

    def sift(self, ticks: pl.DataFrame) -> pl.DataFrame:
        """Return the LOGGED_TICKS that are new, and remember them."""
        if ticks["trade_id"].null_count() == len(ticks):
            return ticks
        venues = self._names.venues_of(ticks["kind_id"].to_numpy())
        new = self._window.sift(ticks.with_columns(venue=pl.Series(venues)))
        return ticks if new.all() else ticks.filter(pl.Series(new))

    def sift_corrections(self, corrections: pl.DataFrame) -> pl.DataFrame:
        """Return the LOGGED_CORRECTIONS that are new, and remember them and their right trades."""
        fresh = self._corrections.sift(corrections)
        self.sift(right_trades(fresh))
        return fresh

    def forget(self, symbol: str | None, provider: str | None, start: int, end: int) -> None:
        """Drop keys of ticks that were taken back; see `Redeliveries.forget`."""
        forgotten = within(start, end)
        if symbol is not None:
            known = self._names.symbols.get(symbol)
            forgotten &= pl.col("symbol_id") == (-1 if known is None else known.id)
        if provider is not None:
            forgotten &= pl.col("venue").is_in(self._names.venues_of_provider(provider))
        self._window.forget(forgotten)
        self._corrections.forget(symbol, provider, start, end)


_LOGGED_MESSAGE: Final = ("symbol_id", "provider_id", *MESSAGE[1:])


class _ShardCorrections:
    """The newest corrections of one shard, in the order of its log, whichever process appended them."""

    def __init__(self, names: Names, parts: int) -> None:
        """`parts` is the number of shards, which share the bound."""
        self._names = names
        self._messages = RedeliveryWindow(most_keys=MOST // parts, least_keys=MOST // parts, key=_LOGGED_MESSAGE)
        self._judged_to = 0
        self._repeated: list[int] = []

    def sift(self, corrections: pl.DataFrame) -> pl.DataFrame:
        """Return the LOGGED_CORRECTIONS that are new, and remember them. Records may be given again, after a fault."""
        new = corrections.filter(pl.col("seq") >= self._judged_to)
        if len(new):
            kinds = self._names.kind_by_id
            codes = [None if kind is None else kinds[kind].conditions for kind in new["kind_id"]]
            keys = new.with_columns(pl.Series("conditions", codes, pl.String), ts="sent_at")
            repeated = new.filter(~pl.Series(self._messages.sift(keys)))["seq"].to_list()
            self._repeated = repeated if len(new) == len(corrections) else [*self._repeated, *repeated]
            self._judged_to = int(new["seq"][-1]) + 1
        return corrections.filter(~pl.col("seq").is_in(self._repeated))

    def forget(self, symbol: str | None, provider: str | None, start: int, end: int) -> None:
        """Drop the keys of corrections of trades that were taken back."""
        sent = pl.col("ts").to_physical()  # a correction is sent within a day of its trade
        gone = (sent >= start) & (sent < end + SEARCHED // timedelta(microseconds=1))
        if symbol is not None:
            known = self._names.symbols.get(symbol)
            gone &= pl.col("symbol_id") == (-1 if known is None else known.id)
        if provider is not None:
            owner = self._names.providers.get(provider)
            gone &= pl.col("provider_id") == (-1 if owner is None else owner.id)
        self._messages.forget(gone)
