"""Reading bars: the bars in the engine's memory replace stored bars of the same time."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_math import BAR, Rows, newest_of_each
from stockpulse.market.arrays import Ints
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import Interval
from stockpulse.market.symbology import Names, Symbol
from stockpulse.market.times import from_micros, micros
from stockpulse.postgres import connect
from stockpulse.postgres.binary_copy import Layout
from stockpulse.postgres.connect import Pool
from stockpulse.storage.bar_cursor import Cursor
from stockpulse.storage.bar_rows import LAYOUT, TABLE, copy_out, fetch_out, unpack
from stockpulse.storage.derived_bars import Derivation, bases_per_bucket
from stockpulse.storage.served_bars import served_bars

FAR_FUTURE: Final = datetime(2201, 1, 1, tzinfo=UTC)
"""A time after every bar; times in requests end here too."""

_PAGE_ROWS: Final = 10_000
"""An answer of any length holds one page in memory: the largest number of base bars that are read at once."""
_PAGES_AT_ONCE: Final = os.cpu_count() or 1
"""More pages at once would not come sooner, and the database has processes for the intake on the same processors."""
_FEW: Final = 200
"""For up to this many rows a prepared query is faster than a COPY."""
_READ_SECONDS: Final = 60
_COLUMNS: Final = ", ".join(LAYOUT.columns)
_STARTS: Final = Layout({"symbol_id": "int4", "ts": "timestamptz", "provider_id": "int4"})
_NO_BARS: Final = np.empty(0, BAR)
_AT: Final = "timestamptz 'epoch' + interval '1 microsecond' *"


@dataclass(frozen=True)
class BarPage:
    """A page of bars of several symbols."""

    bars: pl.DataFrame
    """Bars as `SERVED_BARS`, sorted by symbol name, then by time."""
    next: Cursor | None
    """The cursor of the next page; None on the last page."""


@dataclass(frozen=True)
class _Span:
    """The bars of a symbol whose start lies in [first, last), in UTC microseconds."""

    symbol: Symbol
    first: int
    last: int

    def split(self, at: int, *, descending: bool) -> tuple["_Span", "_Span"]:
        """Return the span up to and with the bar at `at`, in the order of reading, and the rest of it."""
        if descending:
            return _Span(self.symbol, at, self.last), _Span(self.symbol, self.first, at)
        return _Span(self.symbol, self.first, at + 1), _Span(self.symbol, at + 1, self.last)


_Piece = tuple[Symbol, Rows, bool]
"""Ascending base bars of a symbol; True if they are the last ones of their span."""


class BarReader:
    """Reads bars of any interval, stored and forming."""

    def __init__(
        self,
        pool: Pool,
        names: Names,
        in_memory: Callable[[Interval, int | None], Awaitable[Rows]],
        *,
        extended_day: bool = False,
    ) -> None:
        """`in_memory` returns the engine's bars of a stored interval, of one symbol or of all."""
        self._pool = pool
        self._names = names
        self._in_memory = in_memory
        self._extended_day = extended_day
        self._page_turns = asyncio.Semaphore(_PAGES_AT_ONCE)

    # The newest bars --------------------------------------------------------------------------------

    @staticmethod
    def rows_for_latest(interval: Interval, limit: int) -> int:
        """Return the number of base bars that `latest` holds at a time."""
        return min(limit * bases_per_bucket(interval), _PAGE_ROWS)

    async def latest(self, symbol: Symbol, interval: Interval, limit: int, closed_until: datetime) -> pl.DataFrame:
        """Return the newest `limit` bars, oldest first, as `SERVED_BARS`.

        A bar of a derived interval is final if it ends at or before `closed_until`. A bar whose first minutes are no
        longer stored is left out.
        """
        base = interval.base
        count = limit * bases_per_bucket(interval)
        if base is not interval and count > _PAGE_ROWS:
            return await self._latest_by_pages(symbol, interval, limit, closed_until)
        query = f"SELECT {_COLUMNS} FROM {TABLE[base]} WHERE symbol_id = $1"  # noqa: S608 - names of ours
        if base is interval:
            query += " AND open <> 'NaN' ORDER BY ts DESC LIMIT $2 + 1"
        else:
            # This number of bars with a price covers enough buckets; bars without one are read for their volume.
            query += (
                f" AND ts >= coalesce((SELECT ts FROM {TABLE[base]} WHERE symbol_id = $1 AND open <> 'NaN'"  # noqa: S608
                " ORDER BY ts DESC OFFSET $2 LIMIT 1), '-infinity')"
            )
        memory = await self._in_memory(base, symbol.id)
        read = fetch_out if count <= _FEW else copy_out
        async with self._pool.acquire() as connection:
            stored = await read(connection, query, symbol.id, count)
        rows = newest_of_each(np.concatenate([stored, memory]))
        bars = _priced(self._derivation(symbol, interval).derive(rows, micros(closed_until)))
        return self.served(bars, interval).tail(limit)

    async def _latest_by_pages(
        self, symbol: Symbol, interval: Interval, limit: int, closed_until: datetime
    ) -> pl.DataFrame:
        """Return the same as `latest`, from pages of base bars: a thousand months are a million of these."""
        found: list[Rows] = []
        count = 0
        pages = self._bars([_span(symbol, None, None)], interval, lambda _: closed_until, descending=True)
        async with aclosing(pages):
            async for bars in pages:
                found.insert(0, bars)
                count += len(bars)
                if count >= limit:
                    break
        return self.served(np.concatenate(found) if found else _NO_BARS, interval).tail(limit)

    async def newest(self, interval: Interval, symbol_ids: list[int], most: int) -> Rows:
        """Return the `most` newest bars of each symbol, of a stored interval, by symbol and time."""
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
        if len(rows) == 0:
            return rows
        # Bars in memory were added to `most` stored bars.
        last = np.searchsorted(rows["symbol_id"], rows["symbol_id"], side="right")
        kept: Rows = rows[last - np.arange(len(rows)) <= most]
        return kept

    # Ranges -----------------------------------------------------------------------------------------

    async def between(
        self,
        symbol: Symbol,
        interval: Interval,
        start: datetime | None,
        end: datetime | None,
        closed_until: datetime,
        *,
        priced: bool = True,
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield the bars whose start lies in [start, end), oldest first, in pieces of `SERVED_BARS`.

        Without `priced`, bars are among them that have a volume but no price: NaN.
        """
        span = _span(symbol, start, end)
        async for rows in self._bars([span], interval, lambda _: closed_until, priced=priced):
            yield await offload.run_for_reader(len(rows), partial(self.served, rows, interval))

    async def page(
        self,
        symbols: Iterable[Symbol],
        interval: Interval,
        start: datetime | None,
        end: datetime | None,
        limit: int,
        cursor: Cursor | None = None,
        *,
        descending: bool = False,
        closed_until: Callable[[Symbol], datetime],
    ) -> BarPage:
        """Return up to `limit` bars of all these symbols together whose start lies in [start, end).

        They are sorted by symbol name, then by time (`descending`: newest first). With a `cursor` the page begins after
        that bar; together, the pages contain each bar exactly once.
        """
        spans = _spans_after(cursor, symbols, start, end, descending=descending)
        rows_at_once = min((limit + 1) * bases_per_bucket(interval), _PAGE_ROWS)
        found: list[Rows] = []
        count = 0
        async for rows in self._bars(spans, interval, closed_until, rows_at_once, descending=descending):
            found.append(rows[::-1] if descending else rows)
            count += len(rows)
            if count > limit:
                break
        bars = np.concatenate(found) if found else _NO_BARS
        last = bars[limit - 1] if count > limit else None
        after = None if last is None else Cursor(self._names.symbol_by_id[int(last["symbol_id"])].name, int(last["ts"]))
        return BarPage(self.served(bars[:limit], interval), after)

    async def all_of(self, interval: Interval, symbols: Iterable[Symbol]) -> AsyncIterator[Rows]:
        """Yield all bars of a stored interval, oldest first, in pieces: one symbol after the other."""
        spans = [_span(symbol, None, None) for symbol in symbols]
        async for rows in self._bars(spans, interval, lambda _: FAR_FUTURE):
            yield rows

    async def ends_within(self, interval: Interval, symbol_ids: list[int], start: datetime, end: datetime) -> Rows:
        """Return the bars of a stored interval that begin in [start, end), of many symbols, by symbol and time.

        Of stored bars, only the first and the last one of each symbol are among them.
        """
        memory = _priced(await self._in_memory(interval, None))
        inside = (memory["ts"] >= micros(start)) & (memory["ts"] < micros(end))
        memory = memory[inside & np.isin(memory["symbol_id"], symbol_ids)]
        of_symbol = (
            f"FROM {TABLE[interval]} t WHERE t.symbol_id = w.id AND t.ts >= $2 AND t.ts < $3 AND t.open <> 'NaN'"
        )
        async with self._pool.acquire() as connection:
            stored = await copy_out(
                connection,
                f"SELECT {', '.join(f'b.{name}' for name in LAYOUT.columns)} FROM unnest($1::int[]) AS w (id), LATERAL"  # noqa: S608
                f" ((SELECT * {of_symbol} ORDER BY t.ts LIMIT 1) UNION ALL"
                f" (SELECT * {of_symbol} ORDER BY t.ts DESC LIMIT 1)) b",
                symbol_ids,
                start,
                end,
            )
        return newest_of_each(np.concatenate([stored, memory]))

    async def starts(self, interval: Interval, spans: Mapping[int, tuple[int, int]]) -> dict[int, tuple[Ints, Ints]]:
        """Return the starts of the bars of a stored interval, and the ids of their providers (0: from trades).

        `spans` has the range of each symbol by its id, in UTC microseconds; times ascend.
        """
        if not spans:
            return {}
        memory = await self._in_memory(interval, None)
        first, last = zip(*spans.values(), strict=True)
        async with self._pool.acquire() as connection:
            data = await connect.copy_out(
                connection,
                "SELECT t.symbol_id, t.ts, t.provider_id FROM unnest($1::int[], $2::bigint[], $3::bigint[])"  # noqa: S608
                f" AS w (id, first_us, last_us) JOIN {TABLE[interval]} t ON t.symbol_id = w.id"
                f" AND t.ts >= {_AT} w.first_us AND t.ts < {_AT} w.last_us AND t.ts >= $4 AND t.ts < $5",
                list(spans),
                list(first),
                list(last),
                from_micros(min(first)),
                from_micros(max(last)),
                seconds=_READ_SECONDS,
            )
        rows = len(data) // _STARTS.row_bytes + len(memory)
        return await offload.run_for_reader(rows, partial(_starts_of, data, memory, spans))

    def served(self, rows: Rows, interval: Interval) -> pl.DataFrame:
        """Convert the engine's rows to `SERVED_BARS`."""
        return served_bars(rows, interval, self._names)

    def _derivation(self, symbol: Symbol, interval: Interval) -> Derivation:
        return Derivation(interval, trading_calendar(symbol.calendar), self._extended_day)

    async def _bars(
        self,
        spans: Sequence[_Span],
        interval: Interval,
        closed_until: Callable[[Symbol], datetime],
        rows_at_once: int | None = None,
        *,
        descending: bool = False,
        priced: bool = True,
    ) -> AsyncGenerator[Rows]:
        """Yield the bars of each span in turn, in ascending pieces; if `descending`, the latest piece first."""
        derivation = {span.symbol.id: self._derivation(span.symbol, interval) for span in spans}
        span_of = {span.symbol.id: span for span in spans}
        # A bucket that begins within the span may reach beyond its end.
        reaching = [_Span(one.symbol, one.first, derivation[one.symbol.id].reach(one.last)) for one in spans]
        held = _NO_BARS  # a bucket whose other parts come with the next piece
        pieces = self._base_bars(reaching, interval.base, rows_at_once or _PAGE_ROWS, descending=descending)
        async for symbol, piece, complete in pieces:
            bars, held = await offload.run_for_reader(
                len(piece),
                partial(
                    _derived,
                    derivation[symbol.id],
                    [piece, held] if descending else [held, piece],
                    micros(closed_until(symbol)),
                    held_at=None if complete else 0 if descending else -1,
                ),
            )
            del piece  # the page is not held while its bars are sent
            bars = _priced(bars) if priced else bars
            bars = _within(bars, span_of[symbol.id])
            if len(bars):
                yield bars

    async def _base_bars(
        self, spans: Sequence[_Span], base: Interval, rows_at_once: int, *, descending: bool
    ) -> AsyncIterator[_Piece]:
        """Yield the pieces of each span in turn."""
        memory = await self._in_memory(base, spans[0].symbol.id if len(spans) == 1 else None)
        in_memory = _by_symbol(newest_of_each(memory))
        left = list(spans)
        while left:
            data = await self._stored(left, base, rows_at_once, descending=descending)
            pieces, left = await offload.run_for_reader(
                len(data) // LAYOUT.row_bytes,
                partial(_pieces, data, left, in_memory, rows_at_once, descending=descending),
            )
            del data
            while pieces:
                yield pieces.popleft()

    async def _stored(self, spans: Sequence[_Span], base: Interval, limit: int, *, descending: bool) -> bytes:
        """Return the first `limit` stored bars of these spans, one span after the other, as the bytes of a COPY."""
        order = "DESC" if descending else "ASC"
        # The bounds over all spans are constants of the query, so that the planner leaves partitions out.
        query = (
            f"SELECT {', '.join(f'b.{name}' for name in LAYOUT.columns)} FROM"  # noqa: S608 - names of ours
            " unnest($1::int[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS w (symbol_id, first_us, last_us, place),"
            f" LATERAL (SELECT * FROM {TABLE[base]} t WHERE t.symbol_id = w.symbol_id"
            f" AND t.ts >= {_AT} w.first_us AND t.ts < {_AT} w.last_us AND t.ts >= $4 AND t.ts < $5"
            f" ORDER BY t.ts {order} LIMIT $6) b ORDER BY w.place, b.ts {order} LIMIT $6"
        )
        async with self._page_turns:
            await offload.give_way()
            async with self._pool.acquire() as connection:
                return await connect.copy_out(
                    connection,
                    query,
                    [span.symbol.id for span in spans],
                    [span.first for span in spans],
                    [span.last for span in spans],
                    from_micros(min(span.first for span in spans)),
                    from_micros(max(span.last for span in spans)),
                    limit,
                    seconds=_READ_SECONDS,
                )


def _pieces(
    data: bytes, spans: Sequence[_Span], in_memory: Mapping[int, Rows], limit: int, *, descending: bool
) -> tuple[deque[_Piece], list[_Span]]:
    """Return the pieces of a page: stored bars, with those in memory; and the spans that are left after it."""
    stored = unpack(data)
    of_symbol = _by_symbol(stored)
    cut = int(stored["symbol_id"][-1]) if len(stored) == limit else None
    pieces: deque[_Piece] = deque()
    for at, span in enumerate(spans):
        symbol_id = span.symbol.id
        mine = of_symbol.get(symbol_id, _NO_BARS)
        complete = symbol_id != cut
        here, rest = (span, None) if complete else span.split(int(mine["ts"][-1]), descending=descending)
        fresh = _within(in_memory.get(symbol_id, _NO_BARS), here)
        pieces.append((span.symbol, newest_of_each(np.concatenate([mine, fresh])), complete))
        if rest is not None:
            return pieces, [rest, *spans[at + 1 :]]
    return pieces, []


def _derived(how: Derivation, parts: Sequence[Rows], closed_until: int, *, held_at: int | None) -> tuple[Rows, Rows]:
    """Return the bars of an interval, and the base bars of a bucket whose other parts come with the next piece.

    That bucket is the one of the first (0) or last (-1) row; None: all buckets are complete.
    """
    rows = np.concatenate(parts)
    if how.is_stored or held_at is None or len(rows) == 0:
        return how.derive(rows, closed_until), _NO_BARS
    labels = how.labels(rows)
    cut = labels == labels[held_at]
    return how.derive(rows[~cut], closed_until), rows[cut]


def _starts_of(data: bytes, memory: Rows, spans: Mapping[int, tuple[int, int]]) -> dict[int, tuple[Ints, Ints]]:
    """Return the starts and providers of each symbol, from stored bars and from bars in memory, which replace them."""
    stored = _STARTS.unpack(data)
    symbol_ids, ts, provider_ids = (
        np.concatenate([memory[name], stored[name].astype(np.int64)]) for name in ("symbol_id", "ts", "provider_id")
    )
    order = np.lexsort((ts, symbol_ids))
    symbol_ids, ts, provider_ids = symbol_ids[order], ts[order], provider_ids[order]
    found = {}
    for number, (start, end) in spans.items():
        first, last = np.searchsorted(symbol_ids, [number, number + 1])
        first, last = first + np.searchsorted(ts[first:last], [start, end])
        distinct, newest = np.unique(ts[first:last], return_index=True)
        found[number] = distinct, provider_ids[first:last][newest]
    return found


def _span(symbol: Symbol, start: datetime | None, end: datetime | None) -> _Span:
    return _Span(symbol, micros(start) if start else 0, micros(end or FAR_FUTURE))


def _spans_after(
    cursor: Cursor | None,
    symbols: Iterable[Symbol],
    start: datetime | None,
    end: datetime | None,
    *,
    descending: bool,
) -> list[_Span]:
    """Return the spans of these symbols by name, after the cursor."""
    by_name = {symbol.name: symbol for symbol in symbols}
    spans = [_span(by_name[name], start, end) for name in sorted(by_name) if cursor is None or name >= cursor.symbol]
    if cursor is None or not spans or spans[0].symbol.name != cursor.symbol:
        return spans
    _, rest = spans[0].split(cursor.ts, descending=descending)
    return [_Span(rest.symbol, max(rest.first, spans[0].first), min(rest.last, spans[0].last)), *spans[1:]]


def _by_symbol(rows: Rows) -> dict[int, Rows]:
    """Return the rows of each symbol; the input has the rows of a symbol one after the other."""
    first = np.flatnonzero(np.diff(rows["symbol_id"], prepend=-1))
    last = np.append(first[1:], len(rows))[: len(first)]
    return {int(rows["symbol_id"][a]): rows[a:b] for a, b in zip(first, last, strict=True)}


def _within(rows: Rows, span: _Span) -> Rows:
    inside: Rows = rows[(rows["ts"] >= span.first) & (rows["ts"] < span.last)]
    return inside


def _priced(rows: Rows) -> Rows:
    """Return the bars with a price; bars without a price are stored for their volume only, and never shown."""
    priced: Rows = rows[~np.isnan(rows["open"])]
    return priced
