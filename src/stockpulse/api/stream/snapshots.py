"""The newest stored data of a subscription, before its changes."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import polars as pl

from stockpulse.api.context import Context
from stockpulse.api.stream.formats import data_head
from stockpulse.api.stream.requests import MOST_SNAPSHOT_ROWS, Request
from stockpulse.errors import InvalidInput, TooLarge
from stockpulse.hub.messages import ALL, Channel
from stockpulse.hub.served_rows import BAR_COLUMNS
from stockpulse.indicators.evaluation import Bundle
from stockpulse.indicators.selection import column_names, select
from stockpulse.market.symbology import Symbol

_MESSAGE_ROWS: Final = 500
_AT_ONCE: Final = 4
"""The maximum number of snapshots that are read at the same time."""


class Snapshots:
    """Reads snapshots from the database and from memory."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def read(self, request: Request, resumed: set[str]) -> AsyncIterator[dict[str, Any]]:
        """Yield the messages of the snapshot that a request asks for, without symbols that have resumed.

        Raises InvalidInput or TooLarge.
        """
        if not (request.snapshot or request.start):
            return
        symbols = [one for one in self._symbols(request.symbols) if one.name not in resumed and ALL not in resumed]
        if request.start is None and request.snapshot * len(symbols) > MOST_SNAPSHOT_ROWS:
            raise TooLarge(f"snapshot: {len(symbols):,} symbols take {MOST_SNAPSHOT_ROWS // len(symbols):,} rows each")
        head = data_head(request.channel, request.interval_name, request.detail) | {"change": "snapshot"}
        rows = 0
        for symbol in symbols:
            async with self._turns:
                async for frame in self._frames(request, symbol):
                    rows += frame.height
                    if rows > MOST_SNAPSHOT_ROWS:
                        raise TooLarge(f"start: the snapshot has more than {MOST_SNAPSHOT_ROWS:,} rows; use REST")
                    for piece in frame.iter_slices(_MESSAGE_ROWS):
                        yield head | {"rows": piece.to_dicts()}

    def _symbols(self, names: Iterable[str]) -> Iterator[Symbol]:
        known = self._context.names.symbols
        if ALL in names:
            return iter(list(known.values()))
        return iter([known[name] for name in names if name in known])

    def _frames(self, request: Request, symbol: Symbol) -> AsyncIterator[pl.DataFrame]:
        match request.channel:
            case Channel.BARS:
                return self._bars(request, symbol)
            case Channel.INDICATORS:
                return self._indicators(request, symbol)
            case Channel.TICKS | Channel.PRICES | Channel.SIGNALS if request.start is None:
                return self._newest(request, symbol)
        raise InvalidInput("start", f"is not for {request.channel}: use snapshot, or REST")

    async def _bars(self, request: Request, symbol: Symbol) -> AsyncIterator[pl.DataFrame]:
        reader, until = self._context.bars, self._until(symbol)
        if request.interval is None:
            return
        if request.start is None:
            yield (await reader.latest(symbol, request.interval, request.snapshot, until)).select(BAR_COLUMNS)
            return
        async for page in reader.between(symbol, request.interval, request.start, None, until):
            yield page.select(BAR_COLUMNS)

    async def _indicators(self, request: Request, symbol: Symbol) -> AsyncIterator[pl.DataFrame]:
        instances = select(request.indicators, {}, "indicators")
        kept: list[pl.DataFrame] = []
        if request.interval is None:
            return
        pages = self._context.analytics.calculated(
            Bundle(instances),
            column_names(instances),
            symbol,
            request.interval,
            request.start,
            None,
            self._until(symbol),
        )
        async for page in pages:
            named = page.select(pl.lit(symbol.name).alias("symbol"), pl.all())
            if request.start is None:
                kept = [pl.concat([*kept, named]).tail(request.snapshot)]
            else:
                yield named
        for one in kept:
            yield one

    async def _newest(self, request: Request, symbol: Symbol) -> AsyncIterator[pl.DataFrame]:
        if request.channel is Channel.SIGNALS:
            _, found = await self._context.signals.latest(request.snapshot, symbol=symbol)
        else:
            count = 1 if request.channel is Channel.PRICES else request.snapshot
            found = await self._context.ticks.latest(symbol.id, count)
        yield found.reverse()

    def _until(self, symbol: Symbol) -> datetime:
        return self._context.clocks.closed_until(symbol.id)
