"""The shards that this process works on: taken, processed, shared with other processes, and released."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np
import structlog

from stockpulse.aio.supervisor import Supervisor
from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.errors import Fenced
from stockpulse.indicators.evaluation import Functions
from stockpulse.journal.records import Appended
from stockpulse.market.intervals import Interval
from stockpulse.pipeline.forgetting import Forgotten
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shard_opener import OwnedShard, ShardOpener
from stockpulse.pipeline.shard_processor import ShardProcessor

_RETAKE_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


class Shards:
    """The shards of this process, by number."""

    def __init__(self, opener: ShardOpener, clocks: ProviderClocks, tasks: Supervisor) -> None:
        self._opener = opener
        self._clocks = clocks
        self._tasks = tasks
        self._functions: Functions | None = None
        self.owned: dict[int, OwnedShard] = {}

    @property
    def processors(self) -> dict[int, ShardProcessor]:
        """The processor of each shard."""
        return {number: one.processor for number, one in self.owned.items()}

    def use(self, functions: Functions) -> None:
        """Calculate indicators with these compiled functions from now on."""
        self._functions = functions
        for one in self.owned.values():
            one.processor.engine.unlocked.analytics.set_functions(functions)

    # Taking and releasing -----------------------------------------------------------------------

    async def take(self, shard: int) -> None:
        """Take a shard over and recover it; `start` then works on it."""
        one = await self._opener.open(shard, self._functions)
        self.owned[shard] = one
        if self._functions is not None:  # they may have been compiled since then
            one.processor.engine.unlocked.analytics.set_functions(self._functions)
        self._clocks.sources[shard] = one.processor.clocks

    async def take_all(self, shards: Iterable[int]) -> None:
        """Take several shards at once. A fault is raised when all have been tried."""
        await _all_done(self.take(shard) for shard in shards)

    def start(self, shard: int, *, lost: Callable[[int], None] | None = None) -> None:
        """Start the tasks of a shard. If another process takes it, `lost` is called; without `lost` that is fatal."""
        one = self.owned[shard]
        processor = one.processor
        stages: list[tuple[str, Callable[[], Awaitable[None]], Callable[[], int] | None]] = [
            ("flush", processor.writer.flush, lambda: processor.lag()[1]),
            ("step", processor.step, lambda: processor.lag()[0]),
        ]
        if one.source.follow is not None:
            stages.append(("follow", partial(_follow, one.source.follow, processor), None))
        for stage, run, lag in stages:
            guarded = run if lost is None else partial(self._until_lost, shard, run, lost)
            self._tasks.start(self._task(stage, shard), guarded, stage=stage, lag=lag)

    async def _until_lost(self, shard: int, run: Callable[[], Awaitable[None]], lost: Callable[[int], None]) -> None:
        try:
            await run()
        except Fenced:
            log.info("another process has taken the shard", shard=shard)
            lost(shard)

    async def release(self, shard: int) -> None:
        """Stop working on a shard without a last flush: its next owner continues from the stored checkpoint."""
        names = [self._task(stage, shard) for stage in ("follow", "step", "flush")]
        await self._tasks.stop(names)
        self._tasks.forget(names)
        one = self.owned.pop(shard)
        del self._clocks.sources[shard]
        await one.close()

    def _task(self, stage: str, shard: int) -> str:
        """Name a task of a shard; the only shard of a log is left out of the name."""
        return stage if len(list(self._opener.logs.shards)) == 1 else f"{stage}:{shard}"

    async def close(self) -> None:
        """Close the connections of all shards, after their tasks have ended."""
        for one in self.owned.values():
            await one.close()

    async def share(self, assigned: Callable[[], set[int]], changed: asyncio.Event) -> None:
        """Work on the assigned shards and on no others, until cancelled."""
        fenced: set[int] = set()

        def lose(shard: int) -> None:
            fenced.add(shard)
            changed.set()

        while True:
            changed.clear()
            for shard in fenced | (self.owned.keys() - assigned()):
                if shard in self.owned:
                    await self.release(shard)
            await self._take_assigned(assigned() - self.owned.keys() - fenced, lose)
            # A shard that is ours but was taken by another process is taken back later: that process may not know yet.
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETAKE_SECONDS if fenced & assigned() else None):
                    await changed.wait()
                    continue
            fenced.clear()

    async def _take_assigned(self, shards: set[int], lose: Callable[[int], None]) -> None:
        async def take(shard: int) -> None:
            try:
                await self.take(shard)
            except Fenced:
                lose(shard)
            else:
                self.start(shard, lost=lose)

        await _all_done(take(shard) for shard in sorted(shards))

    # Records and bars ---------------------------------------------------------------------------

    async def hand_on(self, appended: Appended) -> asyncio.Future[Forgotten | None] | None:
        """Give a batch that was just appended to its shard, if this process works on it."""
        one = self.owned.get(appended.shard)
        return None if one is None else await one.processor.hand_on(appended)

    def have_room(self, rows: int) -> bool:
        """Return True if each shard of this process has room for its part of `rows` further rows; see the processor."""
        own = list(self.owned.values())
        return all(one.processor.has_room(rows // len(own)) for one in own)

    async def bars_in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """Return the bars that the engines hold, including forming bars: of one symbol or of all symbols."""
        if symbol_id is not None:
            one = self.owned.get(self._opener.routing.of_symbol(symbol_id))
            return np.empty(0, BAR) if one is None else await one.processor.bars_in_memory(interval, symbol_id)
        rows = [await one.processor.bars_in_memory(interval) for one in list(self.owned.values())]
        return np.concatenate(rows) if rows else np.empty(0, BAR)

    def is_drained(self) -> bool:
        """Return True if everything that was handed on is processed."""
        return all(one.processor.is_drained() for one in self.owned.values())

    def end_flushes(self) -> None:
        """Let the flush of every shard store once more and end."""
        for one in self.owned.values():
            one.processor.writer.end()


async def _all_done(works: Iterable[Awaitable[None]]) -> None:
    """Unlike `gather` alone, leave no call running when one of them fails."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _follow(records: Callable[[int], AsyncIterator[Appended]], processor: ShardProcessor) -> None:
    """Hand on the records that are appended to the log."""
    async for appended in records(processor.expected):
        await processor.hand_on(appended)
