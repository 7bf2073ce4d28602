"""Drops ticks that were delivered before.

A redelivery has the same (provider, symbol, exchange, trade_id, ts). Keys are remembered for a window of event time,
and their number is bounded below and above. Ticks without a trade_id are never redeliveries.

Keys are looked up by a 64-bit hash in sorted runs, which grow by merging as in a log-structured merge tree: a look-up
is a handful of binary searches, vectorised. A hit is then compared with the key itself: a hash collision drops nothing.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from stockpulse.aio import offload
from stockpulse.market.schemas import UTC_MICROS

MOST_KEYS: Final = 1_000_000
LEAST_KEYS: Final = 300_000
"""This many keys are remembered however fast event time passes: three of the largest requests."""

KEY: Final = ("symbol", "exchange", "trade_id", "ts")


@dataclass(frozen=True)
class _Run:
    """Keys sorted by hash, with the provider's event clock when the newest of them arrived."""

    hashes: npt.NDArray[np.uint64]
    keys: pl.DataFrame
    clock: int

    def __len__(self) -> int:
        return len(self.hashes)


class RedeliveryWindow:
    """The keys of one provider's recent ticks."""

    def __init__(
        self,
        window_micros: int = 600_000_000,
        most_keys: int = MOST_KEYS,
        least_keys: int = LEAST_KEYS,
        key: tuple[str, ...] = KEY,
    ) -> None:
        self._key = key
        self._window = window_micros
        self._most = most_keys
        self._least = least_keys
        self._runs: list[_Run] = []
        self._clock = np.iinfo(np.int64).min

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def sift(self, ticks: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return True for each new tick, and remember it. Of equal ticks, the first is new."""
        new = np.ones(len(ticks), bool)
        if ticks["trade_id"].null_count() == len(ticks):
            return new
        rows = np.flatnonzero(ticks["trade_id"].is_not_null().to_numpy())
        keys = ticks.select(self._key)[rows] if len(rows) < len(ticks) else ticks.select(self._key)
        new[rows] = keys.select(pl.struct(self._key).is_first_distinct()).to_series().to_numpy() & ~self._known(keys)
        self._remember(keys.filter(new[rows]))
        return new

    def _known(self, keys: pl.DataFrame) -> npt.NDArray[np.bool_]:
        hashes = _hash(keys)
        known = np.zeros(len(keys), bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run.hashes, hashes), len(run) - 1)
            hit = np.flatnonzero(run.hashes[at] == hashes)
            if len(hit):
                known[hit] |= _among(keys[hit], run)
        return known

    def _remember(self, keys: pl.DataFrame) -> None:
        if len(keys) == 0:
            return
        newest = int(keys["ts"].dt.epoch("us").max())  # type: ignore[arg-type]
        self._clock = max(self._clock, newest)
        self._runs.append(_sorted_run(keys, self._clock))
        while self._newest_two_should_merge():
            newer, older = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted_run(pl.concat([older.keys, newer.keys]), newer.clock))
        self._forget()

    def times_of(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Find remembered ticks by `symbol`, `trade_id`, `exchange` (null: any) and a time in [`since`, `until`].

        Returns `row`, the number in the frame, `traded_at` and `venue`, of the newest tick of each that is found.
        """
        if len(trades) == 0 or not self._runs:
            return _TIMES.to_frame()
        ids = trades["trade_id"].implode()
        keys = pl.concat([run.keys.filter(pl.col("trade_id").is_in(ids)) for run in self._runs])
        keys = keys.select("symbol", "trade_id", pl.col("ts").alias("traded_at"), pl.col("exchange").alias("venue"))
        return newest_match(trades, keys)

    def forget(self, forgotten: pl.Expr) -> None:
        """Drop the keys for which this expression holds: such ticks may be delivered again."""
        kept = [(run.keys.filter(~forgotten), run) for run in self._runs]
        self._runs = [run if len(keys) == len(run) else _sorted_run(keys, run.clock) for keys, run in kept if len(keys)]

    def _newest_two_should_merge(self) -> bool:
        """Return True if the newest two runs are of like size, and together not too large to be dropped whole."""
        if len(self._runs) == 1:
            return False
        older, newer = (len(run) for run in self._runs[-2:])
        return older < 2 * newer and older + newer <= self._most // 4

    def _forget(self) -> None:
        while len(self._runs) > 1:
            left = len(self) - len(self._runs[0])
            old = self._runs[0].clock < self._clock - self._window
            if not (left >= self._most or (old and left >= self._least)):
                return
            del self._runs[0]


_TIMES: Final = pl.Schema({"row": pl.UInt32(), "traded_at": UTC_MICROS, "venue": pl.String()})


def newest_match(trades: pl.DataFrame, ticks: pl.DataFrame) -> pl.DataFrame:
    """Return the newest of the `ticks` (symbol, trade_id, traded_at, venue) for each trade; see `times_of`."""
    found = trades.select("symbol", "trade_id", "exchange", "since", "until").with_row_index("row")
    found = found.join(ticks, on=["symbol", "trade_id"])
    same_venue = pl.col("exchange").is_null() | pl.col("exchange").eq_missing(pl.col("venue"))
    found = found.filter(same_venue & pl.col("traded_at").is_between("since", "until"))
    return found.sort("traded_at").unique("row", keep="last").select(list(_TIMES)).cast(_TIMES)


def _hash(keys: pl.DataFrame) -> npt.NDArray[np.uint64]:
    return keys.hash_rows().to_numpy()


def _sorted_run(keys: pl.DataFrame, clock: int) -> _Run:
    hashes = _hash(keys)
    order = np.argsort(hashes)
    return _Run(hashes[order], keys[order], clock)


def _among(keys: pl.DataFrame, run: _Run) -> npt.NDArray[np.bool_]:
    """Return True for each key that the run contains; its hash is known to match."""
    hashes = _hash(keys)
    first = int(np.searchsorted(run.hashes, hashes.min(), side="left"))
    last = int(np.searchsorted(run.hashes, hashes.max(), side="right"))
    candidates = run.keys[np.flatnonzero(np.isin(run.hashes[first:last], hashes)) + first]
    marked = keys.with_row_index("row").join(candidates, on=keys.columns, how="semi", nulls_equal=True)
    among = np.zeros(len(keys), bool)
    among[marked["row"].to_numpy()] = True
    return among


class Redeliveries:
    """The windows of all providers. A look-up also remembers, so each tick is looked up once."""

    def __init__(self) -> None:
        self._windows: dict[str, RedeliveryWindow] = {}
        self._turn = asyncio.Lock()

    async def sift(self, ticks: pl.DataFrame, provider: str | None = None) -> pl.DataFrame:
        """Return the ticks that are new. Without `provider`, the frame has a column of providers."""
        async with self._turn:
            new = await offload.run(len(ticks), partial(self._new, ticks, provider))
        return ticks if new.all() else ticks.filter(pl.Series(new))

    def _new(self, ticks: pl.DataFrame, provider: str | None) -> npt.NDArray[np.bool_]:
        if provider is not None:
            return self._window(provider).sift(ticks)
        new = np.ones(len(ticks), bool)
        for name in ticks["provider"].unique():
            rows = (ticks["provider"] == name).arg_true().to_numpy()
            new[rows] = self._window(name).sift(ticks[rows])
        return new

    def _window(self, provider: str) -> RedeliveryWindow:
        return self._windows.setdefault(provider, RedeliveryWindow())

    async def times_of(self, trades: pl.DataFrame, provider: str) -> pl.DataFrame:
        """Find ticks of a provider by their ids; see `RedeliveryWindow.times_of`."""
        async with self._turn:
            window = self._window(provider)
            return await offload.run(len(window), partial(window.times_of, trades))

    async def forget(self, symbol: str | None, provider: str | None, start: int, end: int) -> None:
        """Drop keys of ticks that were taken back: of a symbol (None: of all), a provider (None: all) and [start, end).

        Times are UTC microseconds.
        """
        forgotten = within(start, end)
        if symbol is not None:
            forgotten &= pl.col("symbol") == symbol
        async with self._turn:
            for name, window in self._windows.items():
                if provider is None or provider == name:
                    await offload.run(len(window), partial(window.forget, forgotten))

    async def remember(self, keys: pl.DataFrame) -> None:
        """Remember ticks from elsewhere or from before a restart: the columns of KEY and `provider`, in log order."""
        async with self._turn:
            await offload.run(len(keys), partial(self._new, keys, None))


def within(start: int, end: int) -> pl.Expr:
    """Return an expression that holds for keys whose event time, in UTC microseconds, is in [start, end)."""
    return pl.col("ts").to_physical().is_between(start, end, closed="left")
