"""A simulated market that never closes and needs no key: realistic ticks and bars of any symbol.

The trades of an instant are a function of (seed, symbol, instant), see `random_walk`. So live ticks continue where
history ends, a restart continues where the last run would be by now, and tests can ask for any time.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.market.arrays import Floats, Ints
from stockpulse.market.clocks import utc_now
from stockpulse.market.schemas import BARS, TICKS, UTC_MICROS
from stockpulse.market.times import SECOND_MICROS, micros
from stockpulse.providers.base import Capabilities, Clock, History, ProviderBase, ProviderConfig, ProviderEntry
from stockpulse.providers.random_walk import (
    Hashes,
    RandomWalk,
    deviates,
    key_of,
    scramble,
    to_cents,
)

DAY_SECONDS: Final = 86_400

BATCH_ROWS: Final = 20_000
SHORTEST_PAUSE_MICROS: Final = 10_000  # from one batch to the next, unless there is a backlog
LONGEST_PAUSE_SECONDS: Final = 1.0  # then the clock is read again, in case it was set
LONGEST_LAG_MICROS: Final = SECOND_MICROS
LONGEST_SILENCE_MICROS: Final = 60 * SECOND_MICROS  # after the clock was set back; then the stream starts again
FASTEST: Final = 1e7  # ticks per second that stand for an infinite rate: more than can be made
SECONDS_PER_TRADE: Final = 2  # of one symbol: the default rate, and the rate of history

#: The length of a bucket and the distance of the prices that make its bar, in seconds. Each grid contains the next
#: coarser walk, so that the open and close of a day are those of its first and last minute.
INTERVALS: Final = {"1m": (60, 10), "5m": (300, 60), "1d": (DAY_SECONDS, 900)}
HISTORY_ROWS: Final = 10_000
HISTORY_PRICES: Final = 50_000  # per chunk: about 10 ms of work before the event loop gets its turn


def _believable_sizes() -> Floats:
    """Return 1024 equally likely sizes: small odd lots, one or a few round lots, rarely thousands."""
    odd = 1 + np.floor(99 * np.linspace(0, 1, 563, endpoint=False) ** 2)
    lots = np.ceil(-1.2 * np.log1p(-np.linspace(0, 1, 445, endpoint=False)))
    large = np.array([1000.0, 1000, 1000, 1000, 1000, 1200, 1500, 1500, 2000, 2000, 2000, 2500, 3000, 4000, 5000, 8000])
    return np.concatenate([odd, 100 * np.maximum(lots, 1), large])


SIZES: Final = _believable_sizes()
#: 64 equally likely venues, as the consolidated tape names them.
EXCHANGES: Final = pl.Series([*"D" * 24, *"Q" * 12, *"P" * 8, *"Z" * 6, *"N" * 5, *"K" * 4, *"V" * 3, None, None])


class _Schedule:
    """The times of all ticks: number n is due (n + jitter(n)) / rate seconds after 1970."""

    def __init__(self, rate: float, key: int) -> None:
        self._spacing = SECOND_MICROS / rate
        self._key = np.array([key], np.uint64)

    def hashes(self, ticks: Ints) -> Hashes:
        """Return a hash of each tick number, from which the tick's time, size and exchange are made."""
        return scramble(ticks, self._key)

    def due(self, ticks: Ints, hashes: Hashes) -> Ints:
        """Return times in microseconds, ascending with the numbers: the jitter is less than the spacing."""
        jitter = (hashes >> np.uint64(40)) * 2.0**-24
        return ((ticks + jitter) * self._spacing).astype(np.int64)

    def due_of(self, tick: int) -> int:
        """Return the time of one tick, in microseconds."""
        ticks = np.array([tick])
        return int(self.due(ticks, self.hashes(ticks))[0])

    def first_after(self, micros: int) -> int:
        """Return the number of the first tick that is due after `micros`."""
        tick = int(micros / self._spacing)
        return tick + 1 if self.due_of(tick) <= micros else tick


class SimulatedProvider(ProviderBase):
    """Random walks of prices, paced by the wall clock.

    `rate` is in ticks per second over all symbols together (default: each symbol every two seconds;
    `math.inf`: as many as the reader asks for). Raises InvalidInput for no symbols or a rate that is not above 0.
    """

    name = "simulated"
    calendar = "24/7"
    clock = Clock.WALL
    delay_seconds = 0.0
    can_wait = True

    def __init__(
        self,
        symbols: Sequence[str],
        rate: float | None = None,
        seed: int = 0,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if not symbols:
            raise InvalidInput("symbols", "at least one is needed")
        rate = len(symbols) / SECONDS_PER_TRADE if rate is None else rate
        if not rate > 0:
            raise InvalidInput("rate", f"{rate} is not a number of ticks per second above 0")
        self.symbols = tuple(symbols)
        self.rate = rate
        self.skipped = 0
        """Ticks that were due but never sent, since the reader did not ask for them within a second."""
        self._seed = seed
        self._now = now
        self._sleep = sleep
        self._schedule = _Schedule(min(rate, FASTEST), key_of(seed, "ticks"))
        self._walk = RandomWalk(self.symbols, seed)
        self._seconds: dict[int, Floats] = {}
        # The symbols take turns, so the column of any batch is a slice of this one.
        turns = -(-BATCH_ROWS // len(symbols)) + 1
        self._turns = pl.Series(list(self.symbols) * turns, dtype=pl.String)
        self._nulls = pl.Series([None], dtype=pl.String).new_from_index(0, BATCH_ROWS)

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield ticks when they are due, from now on and without end.

        Ticks that the reader did not ask for in time are skipped.
        """
        position = self._schedule.first_after(self._now_micros())
        while True:
            now = self._now_micros()
            position = self._skip_to(position, now - LONGEST_LAG_MICROS)
            due = self._schedule.first_after(now)
            if self._schedule.due_of(position) - self._schedule.due_of(due) > LONGEST_SILENCE_MICROS:
                position = due
            stop = min(due, position + BATCH_ROWS)
            if stop > position:
                yield self._ticks(position, stop)
                position = stop
            if position < due:
                await self._sleep(0)
            else:
                await self._sleep_until(max(self._schedule.due_of(position), now + SHORTEST_PAUSE_MICROS))

    async def _sleep_until(self, micros: int) -> None:
        """Sleep until `micros`; return at once if it is past, since the reader of the stream may be slow."""
        wait = (micros - self._now_micros()) / SECOND_MICROS
        await self._sleep(min(max(wait, 0), LONGEST_PAUSE_SECONDS))

    def _skip_to(self, position: int, oldest_micros: int) -> int:
        """Return the first tick from `position` on that is not older than that, and count the skipped ones."""
        oldest = self._schedule.first_after(oldest_micros)
        self.skipped += max(0, oldest - position)
        return max(position, oldest)

    def _now_micros(self) -> int:
        return micros(self._now())

    def _ticks(self, first: int, stop: int) -> pl.DataFrame:
        """Return the ticks first, first + 1, ... stop - 1."""
        ticks = np.arange(first, stop)
        hashes = self._schedule.hashes(ticks)
        ts = self._schedule.due(ticks, hashes)
        low_bits = hashes.astype(np.int64)
        nulls = self._nulls.head(len(ticks))
        columns = {
            "symbol": self._turns.slice(first % len(self.symbols), len(ticks)),
            "ts": pl.Series(ts).cast(UTC_MICROS),
            "price": self._prices(ts, ticks % len(self.symbols)),
            "size": SIZES.take(low_bits & (len(SIZES) - 1)),
            "exchange": EXCHANGES.gather(low_bits >> 10 & (len(EXCHANGES) - 1)),
            "trade_id": nulls,
            "conditions": nulls,
            "tape": nulls,
        }
        return pl.DataFrame(columns, schema=TICKS)

    def _prices(self, ts: Ints, symbols: Ints) -> Floats:
        """Return the price of each (instant, symbol), interpolated between the whole seconds before and after it."""
        seconds, micros = np.divmod(ts, SECOND_MICROS)
        first, last = int(seconds[0]), int(seconds[-1])
        known = np.concatenate([self._second(second) for second in range(first, last + 2)])
        here = (seconds - first) * len(self.symbols) + symbols
        before = known.take(here)
        after = known.take(here + len(self.symbols))
        return to_cents(before + (after - before) * (micros / SECOND_MICROS))

    def _second(self, second: int) -> Floats:
        """Return the prices of all symbols at a whole second; the newest few are cached."""
        if second not in self._seconds:
            self._seconds = {known: prices for known, prices in self._seconds.items() if known >= second - 2}
            self._seconds[second] = self._walk.at(np.array([second]))[0]
        return self._seconds[second]

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield bars of any symbols, for the whole UTC buckets in [start, end) that are over by now.

        Raises InvalidInput for an interval other than 1m, 5m and 1d.
        """
        if interval not in INTERVALS:
            raise InvalidInput("interval", f"got {interval!r}; takes {', '.join(INTERVALS)}")
        length, step = INTERVALS[interval]
        first = -(-micros(start) // (length * SECOND_MICROS))
        stop = min(micros(end), self._now_micros()) // (length * SECOND_MICROS)
        rows = min(HISTORY_ROWS, HISTORY_PRICES // (length // step + 1))
        for symbol in symbols:
            walk = RandomWalk((symbol,), self._seed)
            for begin in range(first, stop, rows):
                starts = np.arange(begin, min(begin + rows, stop)) * length
                yield self._bars(walk, symbol, interval, starts)
                await self._sleep(0)

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the price of any symbols at this moment, as trades of one share."""
        now = self._now_micros()
        prices = to_cents(RandomWalk(symbols, self._seed).at(np.array([now // SECOND_MICROS]))[0])
        columns = {"symbol": pl.Series(symbols, dtype=pl.String), "price": pl.Series(prices)}
        rows = pl.DataFrame(columns).with_columns(ts=pl.lit(now).cast(UTC_MICROS), size=1.0)
        return pl.concat([TICKS.to_frame(), rows], how="diagonal")

    def _bars(self, walk: RandomWalk, symbol: str, interval: str, starts: Ints) -> pl.DataFrame:
        """Return the bars of the buckets that start at these seconds."""
        length, step = INTERVALS[interval]
        # The last second of a bucket is the one before the next bucket's first: the bars join.
        offsets = np.append(np.arange(0, length, step), length - 1)
        prices = to_cents(walk.at((starts[:, None] + offsets).ravel()).reshape(-1, len(offsets)))
        trades, volume = _turnover(self._seed, symbol, starts, length)
        columns = {
            "symbol": pl.repeat(symbol, len(starts), eager=True),
            "interval": pl.repeat(interval, len(starts), eager=True),
            "ts": pl.Series(starts * SECOND_MICROS).cast(UTC_MICROS),
            "open": prices[:, 0],
            "high": prices.max(axis=1),
            "low": prices.min(axis=1),
            "close": prices[:, -1],
            "volume": volume,
            "trade_count": trades,
            "vwap": np.round(prices.mean(axis=1), 4),
        }
        return pl.DataFrame(columns, schema=BARS)


def _turnover(seed: int, symbol: str, starts: Ints, length: int) -> tuple[Ints, Floats]:
    """Return trades and shares of each bucket: there are busy days, busy afternoons (UTC), and chance.

    The average is that of the stream at its default rate, and a day is about the sum of its minutes.
    """
    trades = length / SECONDS_PER_TRADE * _chance(seed, f"busy days of {symbol}", starts // DAY_SECONDS, 0.3)
    mean_sizes = np.full(len(starts), SIZES.mean())
    if length < DAY_SECONDS:
        hours = (starts % DAY_SECONDS) / 3600
        trades *= 1 + 0.6 * np.cos((hours - 17) * math.tau / 24)
        trades *= _chance(seed, f"{length} s trades of {symbol}", starts, 0.3)
        mean_sizes *= _chance(seed, f"{length} s sizes of {symbol}", starts, 0.2)
    counts = np.maximum(1, np.round(trades)).astype(np.int64)
    return counts, np.round(counts * mean_sizes)


def _chance(seed: int, name: str, values: Ints, spread: float) -> Floats:
    """Return a log-normal factor around 1 for each value; `spread` is the deviation of its logarithm."""
    keys = np.array([key_of(seed, name)], np.uint64)
    return np.exp(spread * deviates(scramble(values, keys)) - spread**2 / 2)


def _create(config: ProviderConfig) -> SimulatedProvider:
    symbols = config.symbols or ("NONE",)  # no feed: it has history and latest prices of any symbol
    return SimulatedProvider(symbols, config.rate * len(symbols), config.seed, config.now)


SIMULATED: Final = ProviderEntry(
    "simulated",
    _create,
    aliases=("test",),
    capabilities=Capabilities(
        history={
            "1d": History(timedelta(days=3_650), depth=timedelta(days=730)),
            "5m": History(timedelta(days=365), depth=timedelta(days=30)),
            "1m": History(timedelta(days=30), depth=timedelta(days=7)),
        },
        latest=True,
        latest_symbols=1_000,
        limits="none: it is made up here",
    ),
    standby=True,
    description="A made-up market that never closes and needs no key.",
)
