"""Fills the gaps of one live feed from the provider's past, one gap after the other, newest first.

Trades come first: those that are stored already are left out, so live and filled ticks may overlap. Where the provider
has no trades of the past, its own 1-minute bars fill whole minutes.

    the gap               ├───────────────────────┤
    trades            asked in ranges of an hour, each for good once its trades are durable
    minutes         ├───┼───┼───┼───┼───┼───┼───┼───┤     whole minutes: the provider's bars replace ours
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import polars as pl
import structlog

from stockpulse.aio.backoff import Backoff
from stockpulse.ingest.pieces import BULK_ROWS
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import M1
from stockpulse.market.schemas import TICKS, kind_of
from stockpulse.market.symbology import Names
from stockpulse.market.times import DAY_MICROS, micros
from stockpulse.pipeline.feed_gap_log import show_gaps
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.sources import Source
from stockpulse.providers.faults import (
    BadRequest,
    NotEntitled,
    ProviderFault,
    RateLimited,
    WrongKey,
)
from stockpulse.storage.feed_gaps import FeedGap, FeedGaps, GapState
from stockpulse.storage.retention import RETENTION
from stockpulse.storage.stored_trades import StoredTrades

POLL_SECONDS: Final = 60.0
_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
_SETTLED: Final = timedelta(seconds=15)
"""The time after which a provider has the data of a moment in its past."""
_RECENT: Final = timedelta(minutes=20)
"""Many plans do not include the newest 15 minutes of the past: a refusal may pass after that."""
_OLDEST_TRADES: Final = RETENTION["realtime_prices"].kept - timedelta(days=1)
"""The ids of older trades may be gone from the database; trades would be stored twice."""
_GROUP: Final = 100
"""The number of symbols to ask for at a time."""
_PIECE_ROWS: Final = BULK_ROWS - 1
"""Batches of this size do not keep the provider's live ticks waiting."""

log = structlog.get_logger(__name__)


_Ask = Callable[[Sequence[str]], Awaitable[None]]


class _NoTrades(Exception):
    """Trades cannot fill the gap: the message says why."""


@dataclass
class GapFiller:
    """Fills the gaps of one feed."""

    source: Source
    gaps: FeedGaps
    stored: StoredTrades
    ingestor: Ingestor
    names: Names
    state: FeedState
    now: Callable[[], datetime]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a gap has ended."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    backoff: Backoff = field(default_factory=Backoff)

    async def run(self) -> None:
        """Fill gaps as they end, until cancelled or until the provider refuses the key."""
        while True:
            self.ended.clear()
            try:
                while await self.fill_newest():
                    pass
            except WrongKey as fault:
                self._stop(fault)
                return
            await self.gaps.forget(self.now() - RETENTION["feed_gaps"].kept)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self.ended.wait()

    async def fill_newest(self) -> bool:
        """Fill the newest gap, or note why it is not filled; return False if no gap is left. Raises WrongKey."""
        gap = await self.gaps.to_fill(self.source.name)
        if gap is None:
            return False
        await self._fill(gap)
        await show_gaps(self.gaps, self.source.name, self.state)
        return True

    def _stop(self, fault: WrongKey) -> None:
        log.error("gaps of a feed are not filled before the next start", provider=self.source.name, why=str(fault))

    async def _fill(self, gap: FeedGap) -> None:
        """Fill one gap, or note why it is not filled. Wait if the provider does not answer now."""
        try:
            await self._fill_now(gap)
        except WrongKey as fault:
            await self.gaps.fail(gap.id, str(fault), GapState.OPEN)
            raise
        except (BadRequest, NotEntitled) as fault:
            await self._refuse(gap, fault)
        except Exception as fault:
            if not isinstance(fault, (ProviderFault, *self.source.entry.transient)):
                raise
            await self._wait(gap, fault)

    async def _fill_now(self, gap: FeedGap) -> None:
        await self.gaps.fill(gap.id, gap.filled_until or gap.start, 0)
        symbols = await self._symbols(gap)
        if symbols:
            await self._settled(_end(gap))
            await self._fill_symbols(gap, symbols)
        await self.gaps.finish(gap.id, self.now())
        self.backoff.reset()
        log.info(
            "a gap of a feed is filled",
            provider=self.source.name,
            since=gap.start.isoformat(),
            until=_end(gap).isoformat(),
        )

    async def _symbols(self, gap: FeedGap) -> list[str]:
        """Return the symbols of a gap that have a session within it, and that the provider has not refused."""
        start, end = micros(gap.start), micros(_end(gap))
        symbols = self.source.symbols if gap.symbol is None else (gap.symbol,)
        refused = await self.gaps.refused_symbols(gap)
        return [one for one in symbols if one not in refused and self._is_open(one, start, end)]

    def _is_open(self, symbol: str, start: int, end: int) -> bool:
        known = self.names.symbols.get(symbol)
        calendar = trading_calendar(known.calendar if known else self.source.feed.calendar_of(symbol))
        _, opens, closes = calendar.sessions(start - 2 * DAY_MICROS, end + DAY_MICROS)
        return bool(((opens < end) & (closes > start)).any())

    async def _fill_symbols(self, gap: FeedGap, symbols: list[str]) -> None:
        try:
            await self._fill_with_trades(gap, symbols)
        except (_NoTrades, NotEntitled) as reason:
            if M1.name not in self.source.has.history:
                raise NotEntitled(f"{reason}; {self.source.name} has no 1-minute bars of the past either") from None
            await self._fill_with_bars(gap, symbols)

    # Trades -------------------------------------------------------------------------------------

    async def _fill_with_trades(self, gap: FeedGap, symbols: list[str]) -> None:
        if not self.source.has.trades:
            raise _NoTrades(f"{self.source.name} has no trades of the past")
        at = gap.filled_until or gap.start
        if at < self.now() - _OLDEST_TRADES:
            raise _NoTrades("the gap is older than the stored ticks")
        while at < _end(gap):
            until = min(at + _HOUR, _end(gap))
            await self._ask(gap, symbols, _GROUP, partial(self._ask_for_trades, gap, at, until))
            await self.gaps.fill(gap.id, until, 0)
            at = until

    async def _ask_for_trades(self, gap: FeedGap, start: datetime, end: datetime, symbols: Sequence[str]) -> None:
        await self.ingestor.submit(TICKS.to_frame(), self.source.feed)  # live ticks that came before are stored now
        async for frame in self.source.provider.trades(symbols, start, end):
            if kind_of(frame) == "corrections":  # they may have been sent while the stream was broken
                await self.ingestor.amend(frame, self.source.feed)
                continue
            if frame["trade_id"].null_count():
                raise _NoTrades(f"trades of {self.source.name} have no ids: they could be stored twice")
            missing = await self.stored.without(frame, self.source.name)
            await self.gaps.fill(gap.id, start, await self._submit(missing, of_bars=False))

    # Bars ---------------------------------------------------------------------------------------

    async def _fill_with_bars(self, gap: FeedGap, symbols: list[str]) -> None:
        """Ask for all minutes that the gap touches: the provider's bar of a minute replaces the one of its ticks."""
        history = self.source.has.history[M1.name]
        at = _minute(gap.filled_until or gap.start)
        end = _minute(_end(gap) + _MINUTE - timedelta.resolution)
        await self._settled(end)
        while at < end:
            until = min(at + history.window, end)
            await self._ask(gap, symbols, history.symbols, partial(self._ask_for_bars, gap, at, until))
            await self.gaps.fill(gap.id, min(until, _end(gap)), 0)
            at = until

    async def _ask_for_bars(self, gap: FeedGap, start: datetime, end: datetime, symbols: Sequence[str]) -> None:
        async for bars in self.source.provider.history(symbols, M1.name, start, end):
            await self.gaps.fill(gap.id, max(start, gap.start), await self._submit(bars, of_bars=True))

    # Both ---------------------------------------------------------------------------------------

    async def _ask(self, gap: FeedGap, symbols: list[str], most: int, ask: _Ask) -> None:
        """Ask for groups of at most so many symbols. Symbols that the provider refuses leave the list."""
        for group in [symbols[at : at + most] for at in range(0, len(symbols), most)]:
            for refused, fault in await _refused(group, ask):
                if gap.symbol is not None:
                    raise fault
                await self.gaps.split_off(gap, refused, str(fault))
                symbols.remove(refused)

    async def _submit(self, frame: pl.DataFrame, *, of_bars: bool) -> int:
        """Store rows; live batches go first. Return the number of new rows."""
        stored = 0
        for piece in frame.iter_slices(_PIECE_ROWS):
            await self.ingestor.let_live_batches_pass()
            stored += (await self.ingestor.submit(piece, self.source.feed, of_bars=of_bars)).accepted
        return stored

    async def _settled(self, end: datetime) -> None:
        """Wait until the provider has the data before this event time."""
        wait = end + _SETTLED + timedelta(seconds=self.source.provider.delay_seconds) - self.now()
        if wait > timedelta():
            await self.sleep(wait.total_seconds())

    async def _wait(self, gap: FeedGap, fault: Exception) -> None:
        seconds = self.backoff.next()
        if isinstance(fault, RateLimited) and fault.until is not None:
            seconds += max(0.0, (fault.until - self.now()).total_seconds())
        await self._try_later(gap, str(fault) or repr(fault), seconds)

    async def _refuse(self, gap: FeedGap, fault: BadRequest | NotEntitled) -> None:
        """Note that the provider cannot give the data. A plan may only lack the newest minutes: then ask later."""
        young = _end(gap) + _RECENT - self.now()
        if isinstance(fault, NotEntitled) and young > timedelta():
            await self._try_later(gap, str(fault), young.total_seconds())
            return
        await self.gaps.fail(gap.id, str(fault), GapState.CANNOT)
        log.warning(
            "a gap of a feed cannot be filled", provider=self.source.name, since=gap.start.isoformat(), why=str(fault)
        )

    def _said(self, gap: FeedGap) -> dict[str, str]:
        return {"provider": self.source.name, "since": gap.start.isoformat(), "until": _end(gap).isoformat()}

    async def _try_later(self, gap: FeedGap, problem: str, seconds: float) -> None:
        await self.gaps.fail(gap.id, problem, GapState.OPEN)
        await show_gaps(self.gaps, self.source.name, self.state)
        log.warning("a gap of a feed is not filled yet", provider=self.source.name, why=problem, in_seconds=seconds)
        await self.sleep(seconds)


async def _refused(symbols: Sequence[str], ask: _Ask) -> list[tuple[str, BadRequest | NotEntitled]]:
    """Ask for symbols; return those that the provider refuses, each with the fault. The others are answered.

    Raises NotEntitled if the plan lacks the request, for whatever symbol.
    """
    try:
        await ask(symbols)
    except (BadRequest, NotEntitled) as fault:
        named = fault.symbol
        if isinstance(fault, NotEntitled) and named not in symbols:
            raise
        if named in symbols or len(symbols) == 1:
            one = named if named in symbols and named is not None else symbols[0]
            others = [other for other in symbols if other != one]
            return [(one, fault), *(await _refused(others, ask) if others else [])]
        half = len(symbols) // 2
        return await _refused(symbols[:half], ask) + await _refused(symbols[half:], ask)
    return []


def _end(gap: FeedGap) -> datetime:
    if gap.end is None:
        raise ValueError("the gap has not ended")
    return gap.end


def _minute(at: datetime) -> datetime:
    """Return the start of the minute of a time."""
    return at.replace(second=0, microsecond=0)
