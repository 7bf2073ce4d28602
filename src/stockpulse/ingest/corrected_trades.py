"""The corrections of trades that were delivered, and the trades that they took back.

A correction that is delivered again is dropped: it could undo a later one. A trade that a correction took back is
dropped when it comes again, or when it comes after its correction, as a gap is filled.
"""

from datetime import timedelta
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from stockpulse.ingest.redelivery import RedeliveryWindow
from stockpulse.market.schemas import LOGGED_TICKS, TICKS

MOST: Final = 100_000
"""This many of the newest corrections of a provider are remembered."""

SEARCHED: Final = timedelta(days=1)
"""A trade whose time is not known lies within this time before its correction: ids of trades are unique for a day."""

MESSAGE: Final = ("symbol", "exchange", "trade_id", "ts", "price", "size", "conditions", "new_trade_id")
"""The columns that identify a message of a provider."""

_TRADE: Final = ("symbol", "exchange", "trade_id")
_TAKEN: Final = pl.Schema({**{name: TICKS[name] for name in _TRADE}, "since": TICKS["ts"], "until": TICKS["ts"]})


class _OfProvider:
    """The newest corrections of one provider."""

    def __init__(self) -> None:
        self.messages = RedeliveryWindow(most_keys=MOST, least_keys=MOST, key=MESSAGE)
        self.set_taken(_TAKEN.to_frame())

    def set_taken(self, taken: pl.DataFrame) -> None:
        """Set the trades that are not taken any more, a frame of `_TAKEN`."""
        self.taken = taken.tail(2 * MOST)
        self.hashes = np.sort(_hashes(self.taken))


class CorrectedTrades:
    """The newest corrections of all providers."""

    def __init__(self) -> None:
        self._providers: dict[str, _OfProvider] = {}

    def sift(self, corrections: pl.DataFrame, provider: str) -> pl.DataFrame:
        """Return the corrections that are new, and remember them: frames with the columns of MESSAGE."""
        if len(corrections) == 0:
            return corrections
        return corrections.filter(pl.Series(self._of(provider).messages.sift(corrections)))

    def remember(self, corrections: pl.DataFrame, provider: str) -> None:
        """Remember the trades that corrections took back, and the right trades.

        The frame has the columns of MESSAGE, and `since` and `traded_at`, between which the trade lies. A right trade
        may be delivered with the time of the trade or with that of its correction.
        """
        known = self._of(provider)
        right = corrections.filter(pl.col("price").is_not_null()).with_columns(
            trade_id=pl.coalesce("new_trade_id", "trade_id"), until="ts"
        )
        wrong = corrections.with_columns(until="traded_at")
        known.set_taken(pl.concat([known.taken, *(rows.select(list(_TAKEN)) for rows in (wrong, right))]))

    def without_corrected(self, ticks: pl.DataFrame, provider: str) -> pl.DataFrame:
        """Return TICKS without the trades that corrections have settled."""
        known = self._providers.get(provider)
        if known is None or len(known.taken) == 0 or ticks["trade_id"].null_count() == len(ticks):
            return ticks
        hashes = _hashes(ticks)
        at = np.minimum(np.searchsorted(known.hashes, hashes), len(known.hashes) - 1)
        rows = np.flatnonzero(known.hashes[at] == hashes)
        if len(rows) == 0:  # nearly always
            return ticks
        found = ticks[rows].select(*_TRADE, "ts").with_columns(pl.Series("row", rows))
        found = found.join(known.taken, on=["symbol", "trade_id"])
        same_venue = pl.col("exchange_right").is_null() | pl.col("exchange").eq_missing(pl.col("exchange_right"))
        gone = found.filter(same_venue & pl.col("ts").is_between("since", "until"))["row"].to_numpy()
        kept = np.ones(len(ticks), np.bool_)
        kept[gone] = False
        return ticks.filter(pl.Series(kept))

    def forget(self, symbol: str | None, provider: str | None, start: int, end: int) -> None:
        """Forget the corrections of trades that a forget took back; see `Redeliveries.forget`."""
        for name, known in self._providers.items():
            if provider not in (None, name):
                continue
            covered = (pl.col("until").to_physical() >= start) & (pl.col("since").to_physical() < end)
            if symbol is not None:
                covered &= pl.col("symbol") == symbol
            gone = known.taken.filter(covered)
            if len(gone):
                known.set_taken(known.taken.filter(~covered))
                trades = pl.struct("symbol", "trade_id")
                known.messages.forget(trades.is_in(gone.select(trades).to_series().implode()))

    def _of(self, provider: str) -> _OfProvider:
        return self._providers.setdefault(provider, _OfProvider())


def rounds(corrections: pl.DataFrame, symbol: str = "symbol") -> list[pl.DataFrame]:
    """Cut a batch so that no correction takes back what an earlier one of the same part has touched."""
    cuts, touched = [0], set[tuple[object, str]]()
    columns = corrections.select(symbol, "trade_id", pl.coalesce("new_trade_id", "trade_id").alias("right"))
    for row, (name, wrong, right) in enumerate(columns.iter_rows()):
        if (name, wrong) in touched or (name, right) in touched:
            cuts.append(row)
            touched.clear()
        touched |= {(name, wrong), (name, right)}
    return [corrections[first:last] for first, last in pairwise([*cuts, len(corrections)]) if last > first]


def right_trades(corrections: pl.DataFrame) -> pl.DataFrame:
    """Return the trades with the right prices among LOGGED_CORRECTIONS, as LOGGED_TICKS; they keep their seqs."""
    rows = corrections.filter(pl.col("kind_id").is_not_null())
    return rows.with_columns(trade_id=pl.coalesce("new_trade_id", "trade_id")).select(list(LOGGED_TICKS))


def _hashes(trades: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return trades.select("symbol", "trade_id").hash_rows().to_numpy()
