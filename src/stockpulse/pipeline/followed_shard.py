"""The ticks of a shard that another process stores, read from the database for a process that only answers requests."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.journal import tick_rows
from stockpulse.journal.corrections import cancelled_by
from stockpulse.journal.followed_log import slot_of
from stockpulse.journal.forgets import forgotten_rows, read_forgets
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Forget
from stockpulse.journal.segments import Segments
from stockpulse.market.arrays import array_of
from stockpulse.market.schemas import PRIMARY
from stockpulse.market.symbology import Names, ProviderName
from stockpulse.pipeline.followed_events import FollowedEvents
from stockpulse.postgres.connect import TRANSIENT, Pool
from stockpulse.postgres.symbology_store import NameStore

_SECONDS: Final = 0.5
_BLOCKS_AT_ONCE: Final = 256
"""A flush may fill up to this many disk blocks in any order."""


class FollowedShard:
    """The newest ticks of a shard, and the clocks of the providers in it."""

    def __init__(self, pool: Pool, names: Names, first_seq: int, events: FollowedEvents | None = None) -> None:
        """`events` passes new ticks on."""
        self._pool = pool
        self._names = names
        self._events = events
        self._read_to = first_seq
        self._block = 0
        self._forgets_to = self._cancelled_to = first_seq
        self._provider_of: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self.first_seq = first_seq
        self.segments = Segments(pool, RecentTicks(), slot=slot_of(first_seq))

    async def read(self) -> None:
        """Read the ticks that were stored since the last call."""
        before = self.segments.open
        await self.segments.load(self.first_seq)
        if self.segments.open != before:
            self._read_to, self._block = max(self._read_to, self.segments.open), 0
            for segment in self.segments.recent.segments() - {self.segments.open}:
                self.segments.recent.drop_segment(segment)
        if not self.segments.has(self.segments.open):
            return
        async with self._pool.acquire() as connection:
            # New rows are at the end of the table, or in blocks that were added together with the end.
            blocks = await tick_rows.blocks(connection, self.segments.open)
            frame = await tick_rows.read_whole(connection, self.segments.open, self._read_to, self._block)
            self._block = max(blocks - _BLOCKS_AT_ONCE, 0)
            end = slot_of(self.first_seq).stop
            forgets = await read_forgets(connection, self._forgets_to, end)
            cancelled = await cancelled_by(connection, self._cancelled_to, end)
        if len(frame):
            self._read_to = int(frame["seq"][-1]) + 1
            await offload.run(len(frame), lambda: self._take(frame))
            if self._events is not None:
                self._events.tell_ticks(frame)
        for seq, forget in forgets:
            self.segments.recent.drop_rows(partial(self._is_forgotten, seq, forget))
            self._forgets_to = seq + 1
        if len(cancelled):
            self.segments.recent.drop_rows(lambda ticks: ticks["seq"].is_in(cancelled["seq"].implode()))
            self._cancelled_to = int(cancelled["by_seq"][-1]) + 1

    def _is_forgotten(self, seq: int, forget: Forget, ticks: pl.DataFrame) -> pl.Series:
        return forgotten_rows(ticks, forget, self._names) & (ticks["seq"] < seq)

    def _take(self, frame: pl.DataFrame) -> None:
        self.segments.recent.append(self.segments.open, frame)
        kinds = frame["kind_id"].to_numpy()
        primary = np.flatnonzero(self._names.flags_of(kinds) & PRIMARY)
        providers = self._names.providers_of(kinds)[primary]
        symbols = frame["symbol_id"].to_numpy()[primary]
        ts = array_of(frame["ts"])[primary]
        self._provider_of |= zip(symbols.tolist(), providers.tolist(), strict=True)
        for provider in np.unique(providers).tolist():
            newest = int(ts[providers == provider].max())
            self._newest[provider] = max(self._newest.get(provider, 0), newest)

    def is_over(self, _provider: ProviderName) -> bool:
        """Return False: the tick table does not tell that a recording has ended."""
        return False

    def provider_of(self, symbol_id: int) -> int:
        """Return the id of the provider whose clock the symbol follows; 0 if no tick has been read for it."""
        return self._provider_of.get(symbol_id, 0)

    def newest(self, provider_id: int) -> int:
        """Return the greatest event time of the provider's ticks, in UTC microseconds; 0 if there are none."""
        return self._newest.get(provider_id, 0)


async def follow_names(store: NameStore) -> None:
    """Read new names and the clocks of providers from the database, until cancelled."""
    while True:
        with suppress(*TRANSIENT):
            await store.load()
        await asyncio.sleep(_SECONDS)


async def follow_ticks(shards: Iterable[FollowedShard], store: NameStore) -> None:
    """Read new names and new ticks from the database, until cancelled."""
    while True:
        with suppress(*TRANSIENT):
            await store.load()
            for shard in shards:
                await shard.read()
        await asyncio.sleep(_SECONDS)
