"""Alpaca: US stocks of all exchanges (SIP), or free of charge those of one (IEX)."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime, time, timedelta
from functools import partial
from typing import Final
from zoneinfo import ZoneInfo

import polars as pl
import structlog

from stockpulse.aio import offload
from stockpulse.market.intervals import MINUTES_OF
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.market.times import MINUTE_MICROS, from_micros, micros
from stockpulse.providers.alpaca.actions import ACTIONS, actions_in
from stockpulse.providers.alpaca.encoding import Json, MessagePack
from stockpulse.providers.alpaca.faults import read_refusal
from stockpulse.providers.alpaca.hours import market_hours, minutes_in_sessions, watch_in_sessions
from stockpulse.providers.alpaca.plan import OPTIONS, Plan, read_plan
from stockpulse.providers.alpaca.replies import (
    bars_in,
    bars_in_snapshots,
    cancels_in,
    corrections_of,
    frames_of,
    ticks_of,
    trades_in,
    unreadable,
)
from stockpulse.providers.alpaca.rest import NAME, PAGE_ROWS, SYMBOLS, AlpacaRest
from stockpulse.providers.alpaca.stream import Session
from stockpulse.providers.base import Capabilities, History, ProviderBase, ProviderConfig, ProviderEntry
from stockpulse.providers.faults import BadRequest, MuteStream, NotEntitled
from stockpulse.providers.trade_conditions import alpaca
from stockpulse.providers.transport.live_socket import LiveSocket, StreamDialect
from stockpulse.providers.transport.transport import Transport

_TIMEFRAMES: Final = {"1m": "1Min", "5m": "5Min", "1d": "1Day"}
_RECENT: Final = timedelta(minutes=16)
"""Without a paid plan, SIP data of the last 15 minutes are refused."""
_NEW_YORK: Final = ZoneInfo("America/New_York")
_OF_PROBLEMS: Final = ("problem", "raw")
_MOST_PATIENCE: Final = 20
"""A stream of quiet symbols may be silent for at most so many times the setting."""

log = structlog.get_logger(__name__)


class AlpacaProvider(ProviderBase):
    """The live feed, the history and the latest prices of one key."""

    name = NAME

    def __init__(self, plan: Plan, symbols: Sequence[str], now: Callable[[], datetime], transport: Transport) -> None:
        self.calendar = plan.calendar
        self.delay_seconds = plan.delay_seconds
        self._plan = plan
        self._symbols = tuple(symbols)
        self._now = now
        self._transport = transport
        self._rest = AlpacaRest(plan, transport)
        self._encoding = MessagePack() if plan.msgpack else Json()
        self._has_recent_sip = True
        """False once Alpaca has refused SIP data of the last minutes."""
        self._patience = 1
        """The silence watch allows so many times the setting, doubled each time that it was in vain."""

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    # Live ----------------------------------------------------------------------------------------

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield ticks and bars as they arrive, over one connection; or the newest bars of each minute."""
        frames = self._streamed() if self._plan.streams else self._polled()
        async with contextlib.aclosing(frames):
            async for frame in frames:
                yield frame

    async def _streamed(self) -> AsyncGenerator[pl.DataFrame]:
        hours = await market_hours(self.calendar, self._now, self.delay_seconds)
        async with self._transport.stream(NAME, self._dialect, self._plan.secrets) as socket:
            session = Session(socket, self._encoding)
            await session.authenticate(self._plan.key, self._plan.secret)
            await self._subscribe(session)
            patience = self._plan.silence_seconds * self._patience
            watch = asyncio.create_task(watch_in_sessions(hours, socket, patience), name="hours of alpaca")
            try:
                while True:
                    messages = await session.read()
                    self._patience = 1
                    for frame in frames_of(messages):
                        yield _without_keys(frame, socket)
                    while session.unreadable:
                        yield unreadable(*session.unreadable.pop(0))
            except MuteStream:
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
                raise
            finally:
                watch.cancel()

    async def _subscribe(self, session: Session) -> None:
        refused = await session.subscribe(self._symbols, self._plan.channels)
        self.refused_symbols = {symbol: str(fault) for symbol, fault in refused.items()}
        asked = [symbol for symbol in self._symbols if symbol not in refused]
        silent = [symbol for symbol in asked if not session.has(symbol, self._plan.channels)]
        if silent:
            log.warning("symbols are not in the acknowledged subscription", provider=NAME, symbols=silent)
        if refused:
            reasons = {str(fault) for fault in refused.values()}
            log.error("symbols are not streamed", provider=NAME, symbols=sorted(refused), reasons=sorted(reasons))

    async def _polled(self) -> AsyncGenerator[pl.DataFrame]:
        hours = await market_hours(self.calendar, self._now, self.delay_seconds)
        before = BARS.to_frame()
        async with contextlib.aclosing(minutes_in_sessions(hours, self._transport.sleep)) as minutes:
            async for _ in minutes:
                found = [
                    bars_in_snapshots(reply) async for reply in self._rest.snapshots(self._symbols, self._plan.feed)
                ]
                bars = pl.concat([BARS.to_frame(), *found], how="diagonal")
                fresh = bars.join(before, on=list(BARS), how="anti", nulls_equal=True, maintain_order="left")
                before = bars.select(list(BARS))
                if len(fresh):
                    yield fresh

    @property
    def _dialect(self) -> StreamDialect:
        return StreamDialect(
            self._plan.stream_url,
            read_refusal,
            headers={"Content-Type": self._encoding.content_type},
            heartbeat_seconds=self._plan.heartbeat_seconds,
            is_text=not self._plan.msgpack,
        )

    # The past ------------------------------------------------------------------------------------

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield raw bars; with a free plan and IEX as the live feed, the last 16 minutes are bars of IEX."""
        if interval not in _TIMEFRAMES:
            raise BadRequest(f"alpaca has bars of {', '.join(_TIMEFRAMES)}; {interval!r} was asked for")
        while True:
            recent, cut = await self._recent_bars(symbols, interval, start, end)
            begun = False
            pages = self._bars(symbols, interval, start, cut, self._plan.history_feed)
            try:
                async with contextlib.aclosing(_with_recent(pages, recent)) as frames:
                    async for frame in frames:
                        begun = True
                        yield frame
            except NotEntitled:
                if begun or not self._may_do_without_recent_sip(end):
                    raise
                self._has_recent_sip = False
            else:
                return

    async def trades(self, symbols: Sequence[str], start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Yield trades of the live feed, and the cancels of those that were taken back: they may be stored already."""
        pages = self._rest.trades(symbols, start, end, self._plan.rest_feed)
        async with contextlib.aclosing(pages):
            async for page in pages:
                rows = trades_in(page)
                if rows:
                    yield await offload.run(len(rows), partial(ticks_of, rows))
                if cancels := cancels_in(page):
                    yield corrections_of(cancels)

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the latest trades: of all exchanges if the plan includes them, else of the live feed."""
        if self._has_recent_sip:
            try:
                return await self._latest(symbols, "sip")
            except NotEntitled:
                self._has_recent_sip = False
        return await self._latest(symbols, self._plan.feed)

    async def corporate_actions(self, symbols: Sequence[str], start: datetime, end: datetime) -> pl.DataFrame:
        """Return splits, dividends, renames and so on, with the columns of `actions.ACTIONS`."""
        pages = self._rest.corporate_actions(symbols, start, end)
        async with contextlib.aclosing(pages):
            return pl.concat([ACTIONS.to_frame(), *[actions_in(page) async for page in pages]])

    async def check(self) -> str:
        """Ask for one price; say which feed the key may use."""
        try:
            allowed = await self._rest.allowed_per_minute("sip")
        except NotEntitled:
            allowed = await self._rest.allowed_per_minute("iex")
            return f"the key works: live data of IEX, older data of all exchanges{_per_minute(allowed)}"
        return f"the key works: live data of all exchanges (SIP){_per_minute(allowed)}"

    async def _latest(self, symbols: Sequence[str], feed: str) -> pl.DataFrame:
        replies = self._rest.latest_trades(symbols, feed)
        async with contextlib.aclosing(replies):
            found = [ticks_of(trades_in(reply)) async for reply in replies]
        return pl.concat([TICKS.to_frame(), *found], how="diagonal")

    async def _recent_bars(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> tuple[pl.DataFrame, datetime]:
        """Return the bars that only the live feed may have, and the time at which they begin."""
        if self._has_recent_sip or not self._may_do_without_recent_sip(end):
            return BARS.to_frame(), end
        cut = max(start, _begin_of_bar(self._now() - _RECENT, interval))
        pages = self._bars(symbols, interval, cut, end, self._plan.rest_feed)
        async with contextlib.aclosing(pages):
            return pl.concat([BARS.to_frame(), *[page async for page in pages]], how="diagonal"), cut

    def _may_do_without_recent_sip(self, end: datetime) -> bool:
        plan = self._plan
        return plan.history_feed == "sip" and plan.rest_feed == "iex" and end > self._now() - _RECENT

    async def _bars(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime, feed: str
    ) -> AsyncGenerator[pl.DataFrame]:
        if start >= end:
            return
        pages = self._rest.bars(symbols, _TIMEFRAMES[interval], start, end, feed)
        async with contextlib.aclosing(pages):
            async for page in pages:
                bars = await offload.run(PAGE_ROWS, partial(bars_in, page, interval))
                if len(bars):
                    yield bars


async def _with_recent(pages: AsyncIterator[pl.DataFrame], recent: pl.DataFrame) -> AsyncGenerator[pl.DataFrame]:
    """Yield the pages, with the recent bars of each symbol after its older ones."""
    left = dict(sorted((str(symbol), bars) for (symbol,), bars in recent.group_by("symbol", maintain_order=True)))
    async for page in pages:
        if not left:
            yield page
            continue
        for (symbol,), bars in page.group_by("symbol", maintain_order=True):
            for done in [one for one in left if one < str(symbol)]:
                yield left.pop(done)
            yield bars
    for bars in left.values():
        yield bars


def _without_keys(frame: pl.DataFrame, socket: LiveSocket) -> pl.DataFrame:
    """Remove keys from the reasons and the original text of rows that could not be read."""
    if "raw" not in frame.columns:
        return frame
    texts = [[text if text is None else socket.clean(text) for text in frame[name]] for name in _OF_PROBLEMS]
    return frame.with_columns(pl.Series(name, some, pl.String) for name, some in zip(_OF_PROBLEMS, texts, strict=True))


def _begin_of_bar(moment: datetime, interval: str) -> datetime:
    """Return the start of the bar that a moment lies in."""
    if interval == "1d":
        return datetime.combine(moment.astimezone(_NEW_YORK), time(), _NEW_YORK)
    length = MINUTES_OF[interval] * MINUTE_MICROS
    return from_micros(micros(moment) // length * length)


def _per_minute(allowed: str) -> str:
    return f"; {allowed} requests per minute" if allowed else ""


def _create(config: ProviderConfig) -> AlpacaProvider:
    return AlpacaProvider(read_plan(config.options), config.symbols, config.now, config.transport)


ALPACA: Final = ProviderEntry(
    NAME,
    _create,
    capabilities=Capabilities(
        history={
            "1d": History(timedelta(days=7_300), symbols=SYMBOLS, rows=PAGE_ROWS),
            "5m": History(timedelta(days=366), symbols=SYMBOLS, rows=PAGE_ROWS),
            "1m": History(timedelta(days=92), symbols=SYMBOLS, rows=PAGE_ROWS),
        },
        trades=True,
        latest=True,
        latest_symbols=100,
        stream_symbols=30,
        limits="free: 200 requests per minute, a stream of IEX with 30 symbols, one stream per key; bars since 2016",
    ),
    options=OPTIONS,
    conditions=alpaca,
    description="US stocks, of IEX free of charge, of all exchanges with a paid plan.",
)
