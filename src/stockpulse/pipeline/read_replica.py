"""What a process that only answers requests knows of the shards: read from the database and the derived topics."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.journal import tick_rows
from stockpulse.journal.codecs import Codec
from stockpulse.journal.followed_log import slot_of
from stockpulse.journal.kafka.connection import KafkaConnection
from stockpulse.journal.kafka.tail import tail
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.segments import Segments
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import PRIMARY
from stockpulse.market.symbology import Names, ProviderName
from stockpulse.postgres.connect import TRANSIENT, Pool
from stockpulse.postgres.symbology_store import NameStore

_SECONDS: Final = 0.5
_BLOCKS_AT_ONCE: Final = 256
_MOST_BARS: Final = 3
"""So many of the newest bars of each symbol and interval are kept: the others are stored by then."""


@dataclass
class FollowedShard:
    """The ticks of a shard that another process stores; what `ShardClocks` says as well."""

    pool: Pool
    names: Names
    first_seq: int
    segments: Segments = field(init=False)
    _read_to: int = 0
    _block: int = 0
    _provider_of: dict[int, int] = field(default_factory=dict)
    _newest: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.segments = Segments(self.pool, RecentTicks(), slot=slot_of(self.first_seq))
        self._read_to = self.first_seq

    async def read(self) -> None:
        """Take in what was stored since the last time."""
        before = self.segments.open
        await self.segments.load(self.first_seq)
        if self.segments.open != before:
            self._read_to, self._block = max(self._read_to, self.segments.open), 0
            for segment in self.segments.recent.segments() - {self.segments.open}:
                self.segments.recent.drop_segment(segment)
        if not self.segments.has(self.segments.open):
            return
        async with self.pool.acquire() as connection:
            # Rows are added at the end, or in one of the blocks that were added together with it.
            blocks = await tick_rows.blocks(connection, self.segments.open)
            frame = await tick_rows.read_whole(connection, self.segments.open, self._read_to, self._block)
            self._block = max(blocks - _BLOCKS_AT_ONCE, 0)
        if len(frame):
            self._read_to = int(frame["seq"][-1]) + 1
            await offload.run(len(frame), lambda: self._take(frame))

    def _take(self, frame: pl.DataFrame) -> None:
        self.segments.recent.append(self.segments.open, frame)
        kinds = frame["kind_id"].to_numpy()
        primary = np.flatnonzero(self.names.flags_of(kinds) & PRIMARY)
        providers = self.names.providers_of(kinds)[primary]
        symbols = frame["symbol_id"].to_numpy()[primary]
        ts = frame["ts"].to_physical().to_numpy()[primary]
        self._provider_of |= zip(symbols.tolist(), providers.tolist(), strict=True)
        for provider in np.unique(providers).tolist():
            newest = int(ts[providers == provider].max())
            self._newest[provider] = max(self._newest.get(provider, 0), newest)

    def is_over(self, _provider: ProviderName) -> bool:
        """Nobody says so here."""
        return False

    def provider_of(self, symbol_id: int) -> int:
        """The number of the provider whose clock a symbol follows; 0 if nothing has come for it lately."""
        return self._provider_of.get(symbol_id, 0)

    def newest(self, provider_id: int) -> int:
        """The greatest event time of this provider's ticks, UTC microseconds; 0 if there is none."""
        return self._newest.get(provider_id, 0)


async def follow_names(store: NameStore) -> None:
    """Keep names, and the clocks of providers, up to date with what other processes say, for ever."""
    while True:
        with suppress(*TRANSIENT):
            await store.load()
        await asyncio.sleep(_SECONDS)


async def follow_ticks(shards: Iterable[FollowedShard], store: NameStore) -> None:
    """Keep names and ticks up to date, for ever."""
    while True:
        with suppress(*TRANSIENT):
            await store.load()
            for shard in shards:
                await shard.read()
        await asyncio.sleep(_SECONDS)


class FollowedBars:
    """The newest bars, as the topic of bars has them: those that form are nowhere else."""

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int, codec: Codec, names: Names) -> None:
        self._connection = connection
        self._topic = topic
        self._partitions = partitions
        self._codec = codec
        self._names = names
        self._bars: dict[tuple[str, str], dict[int, np.void]] = {}

    async def run(self) -> None:
        """Follow the topic from its end, for ever."""
        async for values in tail(self._connection, self._topic, self._partitions):
            self._take(await asyncio.to_thread(self._codec.decode_ohlcv, values))

    def _take(self, bars: pl.DataFrame) -> None:
        for key, part in bars.group_by("interval", maintain_order=True):
            rows = self._rows(part)
            for symbol, row in zip(part["symbol"], rows, strict=True):
                kept = self._bars.setdefault((str(key[0]), symbol), {})
                known = kept.get(int(row["ts"]))
                if known is None or known["revision"] <= row["revision"]:
                    kept[int(row["ts"])] = row
                while len(kept) > _MOST_BARS:
                    del kept[min(kept)]

    def _rows(self, bars: pl.DataFrame) -> Rows:
        """Bars of the topic as the engine's rows."""
        rows = np.zeros(len(bars), BAR)
        for name in ("open", "high", "low", "close", "revision", "final"):
            rows[name] = bars[name].to_numpy()
        rows["ts"] = bars["timestamp"].to_physical().to_numpy()
        rows["trade_count"] = bars["trade_count"].fill_null(-1).to_numpy()
        volume = bars["volume"].fill_null(float("nan")).to_numpy()
        for name, value in (("volume", volume), ("notional", volume * bars["vwap"].fill_null(0.0).to_numpy())):
            known = ~np.isnan(value)
            units = np.floor(np.where(known, value, -1))
            rows[f"{name}_units"] = units
            rows[f"{name}_nanos"] = np.where(known, np.round((value - units) * 1e9), 0)
        providers = {name: one.id for name, one in self._names.providers.items()}
        rows["provider_id"] = [providers.get(source, 0) for source in bars["source"]]
        return rows

    async def in_memory(self, interval: Interval, symbol_id: int | None = None) -> Rows:
        """The newest bars, those that form included: of one symbol or of all."""
        names = self._names
        symbols = names.symbols.values() if symbol_id is None else [names.symbol_by_id[symbol_id]]
        found = []
        for symbol in symbols:
            for row in self._bars.get((interval.name, symbol.name), {}).values():
                row["symbol_id"] = symbol.id
                found.append(row)
        return np.array(found, BAR) if found else np.empty(0, BAR)
