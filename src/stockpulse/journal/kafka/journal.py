"""The log on the raw topic: appended to here, and read, a shard for each partition."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stockpulse.aio import offload
from stockpulse.journal.codecs import Codec
from stockpulse.journal.kafka.appender import Appender, Run
from stockpulse.journal.kafka.connection import KafkaConnection, ask_gently
from stockpulse.journal.kafka.reader import PartitionReader
from stockpulse.journal.records import Appended, Bars, Batch, End, Ticks
from stockpulse.journal.routing import Routing
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_TICKS
from stockpulse.market.symbology import Names

_WATCH_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


def identity_of(cluster: str, topic: str, partitions: int) -> str:
    """Which log this is, for checkpoints."""
    return f"kafka:{cluster}/{topic}/{partitions}"


def is_on(identity: str, topic: str) -> bool:
    """Whether that is a log on a topic of this name."""
    return identity.startswith("kafka:") and identity.split("/")[-2] == topic


class KafkaJournal:
    """Appends to the raw topic."""

    def __init__(self, connection: KafkaConnection, topic: str, codec: Codec, names: Names, routing: Routing) -> None:
        self._appender = Appender(connection, topic)
        self._codec = codec
        self._symbol_names = SymbolNames(names)
        self._routing = routing
        self.first_seqs: dict[int, int] = {}
        """What the offsets of each partition are counted from."""

    async def start(self, ends: dict[int, int]) -> None:
        """Begin; `ends` are where the partitions end now, as the topic counts."""
        await self._appender.start(ends)

    def waiting_seconds(self) -> float:
        """How long the oldest batch has been waiting to be durable."""
        return self._appender.waiting_seconds()

    def own_end(self, shard: int) -> int | None:
        """Where the newest batch of ours ends, as `seq`; None while one is on its way."""
        if not self._appender.is_idle(shard):
            return None
        return self.first_seqs.get(shard, 0) + self._appender.ends.get(shard, 0)

    async def append(self, batch: Batch) -> list[Appended]:
        """Append a batch to its partitions; it is acknowledged by all replicas when this returns."""
        if isinstance(batch, End):
            return await self._append_end(batch)
        of_bars = isinstance(batch, Bars)
        frames = {shard: batch.frame[rows] for shard, rows in self._routing.rows(batch.frame).items()}
        if len(batch) <= offload.INLINE_ROWS:
            appends = self._appends_of_few(frames, of_bars)
        else:
            appends = [self._append_written(shard, frame, of_bars) for shard, frame in frames.items()]
        return [one for several in await asyncio.gather(*appends) for one in several]

    def _appends_of_few(
        self, frames: dict[int, pl.DataFrame], of_bars: bool
    ) -> list[Coroutine[Any, Any, list[Appended]]]:
        """All partitions are written at once: that has its price, however few rows there are."""
        keys, values = self._encoded(pl.concat(frames.values()), of_bars)
        appends, first = [], 0
        for shard, frame in frames.items():
            last = first + len(frame)
            appends.append(self._append(shard, frame, keys[first:last], values[first:last], of_bars))
            first = last
        return appends

    async def _append_written(self, shard: int, frame: pl.DataFrame, of_bars: bool) -> list[Appended]:
        """Each partition is sent as soon as it is written."""
        keys, values = await asyncio.to_thread(self._encoded, frame, of_bars)
        return await self._append(shard, frame, keys, values, of_bars)

    async def _append(
        self, shard: int, frame: pl.DataFrame, keys: Sequence[bytes], values: Sequence[bytes], of_bars: bool
    ) -> list[Appended]:
        runs = await self._appender.append(shard, keys, values)
        appended, done = [], 0
        for run in runs:
            base = self.first_seqs.get(shard, 0) + run.base
            part = _stamped(frame.slice(done, run.count), base, of_bars)
            appended.append(Appended(shard, Bars(part) if of_bars else Ticks(part), base, base + run.count))
            done += run.count
        return appended

    def _encoded(self, frame: pl.DataFrame, of_bars: bool) -> tuple[list[bytes], list[bytes]]:
        recorded = self._symbol_names.bars(frame) if of_bars else self._symbol_names.ticks(frame)
        encode = self._codec.encode_bars if of_bars else self._codec.encode_ticks
        return recorded["symbol"].cast(pl.Binary).to_list(), encode(recorded)

    async def _append_end(self, end: End) -> list[Appended]:
        value = self._codec.encode_end(end.provider, datetime.now(UTC))

        async def append(shard: int) -> Appended:
            [run] = await self._appender.append(shard, [end.provider.encode()], [value])
            return _at(shard, end, run, self.first_seqs.get(shard, 0))

        return list(await asyncio.gather(*[append(shard) for shard in range(self._routing.partitions)]))

    async def close(self) -> None:
        """Let the brokers go."""
        await self._appender.close()


def _at(shard: int, batch: End, run: Run, first_seq: int) -> Appended:
    return Appended(shard, batch, first_seq + run.base, first_seq + run.base + run.count)


def _stamped(frame: pl.DataFrame, base: int, of_bars: bool) -> pl.DataFrame:
    seq = pl.int_range(base, base + len(frame), dtype=pl.Int64, eager=True).alias("seq")
    return frame.with_columns(seq).select(list(LOGGED_BARS if of_bars else LOGGED_TICKS))


class EndOffsetPoller:
    """Asks again and again where the partitions end; whether the brokers answer at all is seen by that."""

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int) -> None:
        self._connection = connection
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._answered = time.monotonic()
        self.ends: dict[int, int] = {}

    def silent_seconds(self) -> float:
        """How long no broker has answered."""
        return time.monotonic() - self._answered

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            consumer = AIOKafkaConsumer(**self._connection.options, enable_auto_commit=False)
            try:
                await consumer.start()
                ask_gently(consumer._client)  # noqa: SLF001 - a consumer does not show its client
                await self._ask_with(consumer)
            except (KafkaError, OSError, TimeoutError) as fault:
                log.warning("the brokers do not answer", seconds=round(self.silent_seconds(), 1), error=repr(fault))
                await asyncio.sleep(_WATCH_SECONDS)
            finally:
                with suppress(KafkaError):
                    await consumer.stop()

    async def _ask_with(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            ends = await consumer.end_offsets(self._places)
            self.ends = {place.partition: end for place, end in ends.items()}
            self._answered = time.monotonic()
            await asyncio.sleep(_WATCH_SECONDS)


class KafkaShardLog:
    """One partition, as its reader sees it."""

    def __init__(
        self,
        identity: str,
        shard: int,
        first_seq: int,
        reader: PartitionReader,
        journal: KafkaJournal | None,
        watch: EndOffsetPoller,
    ) -> None:
        """`journal` is what appends to the partition here, if anything does."""
        self._shard = shard
        self._first_seq = first_seq
        self._reader = reader
        self._journal = journal
        self._watch = watch
        self.identity = identity

    @property
    def head(self) -> int:
        """The offset that the next record gets, as far as is known."""
        return self._first_seq + self._watch.ends.get(self._shard, 0)

    async def end(self) -> int:
        """The same, asked for."""
        return (await self._reader.bounds())[1]

    async def foreign_end(self, processed: int) -> int:
        """Where the partition ends, once what was appended here is worked in; 0 where all is followed anyway."""
        own = self._journal.own_end(self._shard) if self._journal is not None else None
        return self.head if own is not None and own <= processed < self.head else 0

    async def replay(self, offset: int, until: int) -> AsyncIterator[Appended]:
        """The records of the partition with offset <= `seq` < until."""
        async for appended in self._reader.read(offset, until):
            yield appended

    def follow(self, offset: int) -> AsyncIterator[Appended]:
        """The records from this offset on, for ever."""
        return self._reader.read(offset)

    async def close(self) -> None:
        """Let the brokers go."""
        await self._reader.close()
