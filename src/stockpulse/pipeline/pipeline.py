"""The spine: one short coroutine per arrow.

submit ───► number ───► append ───► step ───► flush
(checked)   (encoded)   (durable)   (bars)    (stored)
└──────────── ingestion ─────────┘  └─ processing ─┘
of all shards          of each shard
"""

import asyncio
import time
from collections.abc import Iterable

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.journal.records import Appended
from stockpulse.journal.routing import Routing
from stockpulse.market.intervals import Interval
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shard_processor import ShardProcessor
from stockpulse.telemetry.counters import Counters, Lag


class Pipeline:
    """The flow, from a submitted batch to stored bars, through whatever shards are worked on here."""

    def __init__(self, routing: Routing, clocks: ProviderClocks, counters: Counters) -> None:
        self._routing = routing
        self.clocks = clocks
        self.counters = counters
        self.ingestor: Ingestor | None = None
        self.shards: dict[int, ShardProcessor] = {}

    def add(self, shard: int, processor: ShardProcessor) -> None:
        """Have a shard worked on here."""
        self.shards[shard] = processor
        self.clocks.shards[shard] = processor.clocks

    def remove(self, shard: int) -> None:
        """Somebody else works on it."""
        del self.shards[shard], self.clocks.shards[shard]

    async def submit(self, frame: pl.DataFrame, feed: Feed, *, of_bars: bool = False) -> Receipt:
        """Take in a batch of `frames.TICKS` (or BARS); returns once what is good in it is durable."""
        return await self._require_ingestor().submit(frame, feed, of_bars=of_bars)

    async def enqueue(self, frame: pl.DataFrame, feed: Feed) -> asyncio.Future[Receipt]:
        """Take in a batch as soon as there is room for it; what is returned is done once it is durable."""
        return await self._require_ingestor().enqueue(frame, feed)

    def has_room(self, rows: int) -> bool:
        """Whether so many rows would be taken in without waiting."""
        return self._require_ingestor().has_room(rows)

    async def end(self, feed: Feed) -> None:
        """Say that a recording is over, so that its last bars close; returns once those made here are stored."""
        await self._require_ingestor().end(feed)

    def _require_ingestor(self) -> Ingestor:
        if self.ingestor is None:
            raise RuntimeError("nothing is taken in here")
        return self.ingestor

    async def hand_on(self, appended: Appended) -> asyncio.Future[None] | None:
        """Take what was appended to the shard that works on it, if it is one of those here."""
        shard = self.shards.get(appended.shard)
        return None if shard is None else await shard.hand_on(appended)

    async def drain(self, seconds: float) -> bool:
        """Wait until all that was submitted is durable and worked in, then have flushes end; whether in time."""
        deadline = time.monotonic() + seconds
        while not self._drained() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for shard in self.shards.values():
            shard.writer.end()
        return self._drained()

    def _drained(self) -> bool:
        unanswered = self.ingestor.unanswered if self.ingestor is not None else 0
        return not unanswered and all(shard.is_drained() for shard in self.shards.values())

    # Reading ------------------------------------------------------------------------------------

    def lag(self) -> Lag:
        """How much is under way."""
        submitted, with_ids = self.ingestor.lag() if self.ingestor is not None else (0, 0)
        unprocessed, unflushed, behind = _sums(shard.lag() for shard in self.shards.values())
        return Lag(submitted, with_ids, unprocessed, unflushed, behind)

    async def bars_in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The bars that the engines hold, forming ones included: of one symbol or of all."""
        if symbol_id is not None:
            shard = self.shards.get(self._routing.of_symbol(symbol_id))
            return np.empty(0, BAR) if shard is None else await shard.bars_in_memory(interval, symbol_id)
        rows = [await shard.bars_in_memory(interval) for shard in list(self.shards.values())]
        return np.concatenate(rows) if rows else np.empty(0, BAR)


def _sums(lags: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    lags = list(lags)
    return sum(lag[0] for lag in lags), sum(lag[1] for lag in lags), sum(lag[2] for lag in lags)
