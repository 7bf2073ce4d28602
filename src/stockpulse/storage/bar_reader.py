"""Reading bars: what the engine holds in memory over what is stored."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR, Rows, newest_of_each, roll_up, total
from stockpulse.market.arrays import Ints
from stockpulse.market.calendar import NO_DAY, Calendar, trading_calendar
from stockpulse.market.intervals import D1, M1, Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names, Symbol
from stockpulse.market.times import from_micros, micros
from stockpulse.postgres.connect import Pool
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out, fetch_out

SERVED_BARS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "interval": pl.String(),
        "ts": UTC_MICROS,
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int64(),
        "vwap": pl.Float64(),
        "revision": pl.Int64(),
        "final": pl.Boolean(),
        "source": pl.String(),
        "filled": pl.Boolean(),
    }
)
"""Bars as the API shows them; `source` is "trades", or the provider whose own bar it is.

`filled` bars repeat the close before them where nothing traded: `filling` adds them when somebody asks for it.
"""

FAR_FUTURE: Final = datetime(2201, 1, 1, tzinfo=UTC)
"""After every bar there will be; times of requests end here too."""

_PAGE_ROWS: Final = 20_000
_FEW: Final = 200
"""Up to so many rows a prepared query is faster than a COPY."""
_COLUMNS: Final = ", ".join(LAYOUT.columns)


@dataclass(frozen=True)
class Move:
    """How a symbol's price moved over a window."""

    symbol: str
    price_open: float
    price_close: float

    @property
    def change_pct(self) -> float:
        """The change in percent of the opening price."""
        return (self.price_close - self.price_open) / self.price_open * 100


class BarReader:
    """Finds the bars of a symbol, stored ones and those that are still forming."""

    def __init__(
        self,
        pool: Pool,
        names: Names,
        in_memory: Callable[[Interval, int | None], Awaitable[Rows]],
        *,
        extended_day: bool = False,
    ) -> None:
        self._pool = pool
        self._names = names
        self._in_memory = in_memory
        self._extended_day = extended_day

    async def latest(self, symbol: Symbol, interval: Interval, limit: int, closed_until: datetime) -> pl.DataFrame:
        """The newest bars, oldest first, as `SERVED_BARS`; derived ones are final if they end by `closed_until`."""
        base = interval.base
        wanted = limit if base is interval else limit * _bases_per_bucket(interval)
        memory = _priced(await self._in_memory(base, symbol.id))
        read = fetch_out if wanted <= _FEW else copy_out
        async with self._pool.acquire() as connection:
            stored = await read(
                connection,
                f"SELECT {_COLUMNS} FROM {TABLE[base]} WHERE symbol_id = $1 AND open <> 'NaN'"  # noqa: S608 - ours
                " ORDER BY ts DESC LIMIT $2",
                symbol.id,
                wanted + 1,
            )
        rows = self._derived(newest_of_each(np.concatenate([stored, memory])), symbol, interval, closed_until)
        return self.served(rows, interval).tail(limit)

    async def newest(self, interval: Interval, symbol_ids: list[int], most: int | None) -> Rows:
        """The newest bars of many symbols, so many of each or all, of a stored interval; by symbol and time."""
        memory = _priced(await self._in_memory(interval, None))
        async with self._pool.acquire() as connection:
            stored = await copy_out(
                connection,
                f"SELECT {', '.join(f'b.{name}' for name in LAYOUT.columns)} FROM unnest($1::int[]) AS w (id),"  # noqa: S608
                f" LATERAL (SELECT * FROM {TABLE[interval]} t WHERE t.symbol_id = w.id AND t.open <> 'NaN'"
                " ORDER BY t.ts DESC LIMIT $2) b",
                symbol_ids,
                most,
            )
        rows = newest_of_each(np.concatenate([stored, memory[np.isin(memory["symbol_id"], symbol_ids)]]))
        if most is None or len(rows) == 0:
            return rows
        # What is in memory came on top: only the newest of all count.
        last = np.searchsorted(rows["symbol_id"], rows["symbol_id"], side="right")
        kept: Rows = rows[last - np.arange(len(rows)) <= most]
        return kept

    async def between(
        self,
        symbol: Symbol,
        interval: Interval,
        start: datetime | None,
        end: datetime | None,
        closed_until: datetime,
    ) -> AsyncIterator[pl.DataFrame]:
        """The bars whose start lies in [start, end), oldest first, page by page, as `SERVED_BARS`."""
        first = micros(start) if start else 0
        last = micros(end or FAR_FUTURE)
        # A bucket that begins in the range is made of base bars that may lie beyond its end.
        held = np.empty(0, BAR)
        async for page in self._pages(symbol.id, interval.base, first, self._reach(symbol, interval, last)):
            rows = np.concatenate([held, page])
            labels, _ = self._labels(rows, symbol, interval)
            whole = labels != labels[-1] if interval.base is not interval else np.ones(len(rows), bool)
            held = rows[~whole]
            yield self._served_within(rows[whole], symbol, interval, closed_until, first, last)
        if len(held):
            yield self._served_within(held, symbol, interval, closed_until, first, last)

    def _reach(self, symbol: Symbol, interval: Interval, last: int) -> int:
        """Up to where base bars belong to buckets that begin before `last`."""
        if interval.base is interval:
            return last
        calendar = trading_calendar(symbol.calendar)
        before = np.array([last - 1])
        label = calendar.label(before, interval, extended=True)
        if label[0] == NO_DAY:
            label = calendar.period(calendar.floor_date(before), interval)
        return max(last, int(calendar.bucket_end(label, interval, extended=True)[0]))

    async def _pages(self, symbol_id: int, base: Interval, first: int, last: int) -> AsyncIterator[Rows]:
        memory = _priced(await self._in_memory(base, symbol_id))
        memory = memory[(memory["ts"] >= first) & (memory["ts"] < last)]
        while True:
            async with self._pool.acquire() as connection:
                page = await copy_out(
                    connection,
                    f"SELECT {_COLUMNS} FROM {TABLE[base]} WHERE symbol_id = $1 AND ts >= $2 AND ts < $3"  # noqa: S608 - ours
                    " AND open <> 'NaN' ORDER BY ts LIMIT $4",
                    symbol_id,
                    from_micros(first),
                    from_micros(last),
                    _PAGE_ROWS,
                )
            complete = len(page) < _PAGE_ROWS
            here = memory if complete else memory[memory["ts"] <= page["ts"][-1]]
            memory = memory[len(here) :]
            rows = newest_of_each(np.concatenate([page, here]))
            if len(rows):
                yield rows
            if complete:
                return
            first = int(page["ts"][-1]) + 1

    def _served_within(
        self, rows: Rows, symbol: Symbol, interval: Interval, closed_until: datetime, first: int, last: int
    ) -> pl.DataFrame:
        derived = self._derived(rows, symbol, interval, closed_until)
        return self.served(derived[(derived["ts"] >= first) & (derived["ts"] < last)], interval)

    def _derived(self, rows: Rows, symbol: Symbol, interval: Interval, closed_until: datetime) -> Rows:
        """Base bars as bars of the interval."""
        if interval.base is interval or len(rows) == 0:
            return rows
        labels, ends = self._labels(rows, symbol, interval)
        longer = roll_up(rows, labels, ends)
        starts = np.searchsorted(labels, longer["ts"])
        one_source = np.minimum.reduceat(rows["provider_id"], starts) == np.maximum.reduceat(
            rows["provider_id"], starts
        )
        longer["provider_id"] = np.where(one_source, rows["provider_id"][starts], 0)
        longer["final"] = np.logical_and.reduceat(rows["final"], starts) & (longer["end"] <= micros(closed_until))
        return longer

    def _labels(self, rows: Rows, symbol: Symbol, interval: Interval) -> tuple[Ints, Ints]:
        calendar: Calendar = trading_calendar(symbol.calendar)
        if interval.base is D1:
            labels = calendar.period(rows["ts"], interval) if interval is not D1 else rows["ts"]
        else:
            labels = calendar.bucket(rows["ts"], interval)
        return labels, calendar.bucket_end(labels, interval, extended=self._extended_day)

    def served(self, rows: Rows, interval: Interval) -> pl.DataFrame:
        """The engine's rows as `SERVED_BARS`."""
        return served_bars(rows, interval, self._names)

    async def moves(self, symbols: list[Symbol], start: datetime, end: datetime) -> list[Move]:
        """How the price of each symbol moved over its 1-minute bars in [start, end)."""
        wanted = np.array([symbol.id for symbol in symbols])
        memory = _priced(await self._in_memory(M1, None))
        inside = (memory["ts"] >= micros(start)) & (memory["ts"] < micros(end))
        memory = memory[inside & np.isin(memory["symbol_id"], wanted)]
        async with self._pool.acquire() as connection:
            stored = await copy_out(
                connection,
                f"SELECT {_COLUMNS} FROM {TABLE[M1]} WHERE symbol_id = ANY($1::int[])"  # noqa: S608 - ours
                " AND ts >= $2 AND ts < $3 AND open <> 'NaN'",
                wanted.tolist(),
                start,
                end,
            )
        rows = newest_of_each(np.concatenate([stored, memory]))
        first = np.flatnonzero(np.diff(rows["symbol_id"], prepend=-1))
        last = np.append(first[1:], len(rows)) - 1
        return [
            Move(
                self._names.symbol_by_id[int(rows["symbol_id"][a])].name,
                float(rows["open"][a]),
                float(rows["close"][b]),
            )
            for a, b in zip(first, last[: len(first)], strict=True)
        ]


def served_bars(rows: Rows, interval: Interval, names: Names) -> pl.DataFrame:
    """The engine's rows as `SERVED_BARS`."""

    def source(provider_id: int) -> str:
        return names.provider_by_id[provider_id].name if provider_id else "trades"

    volume = total(rows["volume_units"], rows["volume_nanos"])
    notional = total(rows["notional_units"], rows["notional_nanos"])
    with np.errstate(invalid="ignore", divide="ignore"):
        vwap = np.where(volume > 0, notional / volume, np.nan)
        vwap = np.where(vwap >= 1, np.round(vwap, 12), vwap)  # the sums carry no more; of tiny prices they do
    # Series by series: for ten bars, every expression costs as much as all of this.
    counts = pl.Series(np.ascontiguousarray(rows["trade_count"]))
    return pl.DataFrame(
        {
            "symbol": _named(rows["symbol_id"], lambda number: names.symbol_by_id[number].name),
            "interval": pl.Series([interval.name], dtype=pl.String).new_from_index(0, len(rows)),
            "ts": pl.Series(np.ascontiguousarray(rows["ts"])).cast(UTC_MICROS),
            **{name: np.ascontiguousarray(rows[name]) for name in ("open", "high", "low", "close")},
            "volume": pl.Series(volume, nan_to_null=True),
            "trade_count": counts if (rows["trade_count"] >= 0).all() else counts.set(counts < 0, None),
            "vwap": pl.Series(vwap, nan_to_null=True),
            "revision": np.ascontiguousarray(rows["revision"]),
            "final": np.ascontiguousarray(rows["final"]),
            "source": _named(rows["provider_id"], source),
            "filled": np.zeros(len(rows), np.bool_),
        },
        schema=SERVED_BARS,
    )


def _named(numbers: Ints, name_of: Callable[[int], str]) -> pl.Series:
    """Names for numbers, of which there are few different ones."""
    different, at = np.unique(numbers, return_inverse=True)
    names = pl.Series([name_of(int(number)) for number in different], dtype=pl.String)
    return names.new_from_index(0, len(numbers)) if len(different) == 1 else names.gather(at)


def _priced(rows: Rows) -> Rows:
    """Bars without a price are kept for their volume, and shown to nobody."""
    priced: Rows = rows[~np.isnan(rows["open"])]
    return priced


def _bases_per_bucket(interval: Interval) -> int:
    """How many base bars make a bucket at the most."""
    if interval.micros is not None and interval.base.micros is not None:
        return interval.micros // interval.base.micros
    return 7 if interval.name == "1w" else 31
