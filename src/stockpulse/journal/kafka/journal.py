"""The log on the raw topic: the appender of this process, and the reader of each partition."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stockpulse.aio import offload
from stockpulse.aio.retry import retry
from stockpulse.journal.codecs import Codec
from stockpulse.journal.kafka.appender import Appender
from stockpulse.journal.kafka.connection import KafkaConnection, open_consumer
from stockpulse.journal.kafka.reader import PartitionReader
from stockpulse.journal.records import Appended, Batch, Corrections, End, Forget, RowBatch, Ticks, Write, with_seqs
from stockpulse.journal.routing import Routing
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.symbology import Names
from stockpulse.postgres.connect import Pool, is_transient

_POLL_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


def identity_of(cluster: str, topic: str, partitions: int) -> str:
    """Return the identity of the log for checkpoints."""
    return f"kafka:{cluster}/{topic}/{partitions}"


def is_on(identity: str, topic: str) -> bool:
    """Return True if this is the identity of a log on a topic of this name."""
    return identity.startswith("kafka:") and identity.split("/")[-2] == topic


class KafkaJournal:
    """The raw topic, for its writer."""

    def __init__(
        self,
        appender: Appender,
        codec: Codec,
        names: Names,
        routing: Routing,
        first_seqs: Mapping[int, int],
        pool: Pool,
    ) -> None:
        """`first_seqs` holds the seq of partition offset 0 for each partition; `pool` is for writes after an append."""
        self._appender = appender
        self._codec = codec
        self._symbol_names = SymbolNames(names)
        self._routing = routing
        self._first_seqs = first_seqs
        self._pool = pool

    def waiting_seconds(self) -> float:
        """Return the waiting time of the oldest batch without an acknowledgement, in seconds."""
        return self._appender.waiting_seconds()

    def own_end(self, shard: int) -> int | None:
        """Return the offset after the newest batch of this process, or None while a batch is being appended."""
        if not self._appender.is_idle(shard):
            return None
        return self._first_seqs[shard] + self._appender.ends[shard]

    async def append(self, batch: Batch, also: Sequence[Write] = ()) -> list[Appended]:
        """Append a batch to its partitions. When this returns, all in-sync replicas have acknowledged it."""
        if isinstance(batch, End | Forget):
            return await self._append_control(batch)
        appended = await self._append_rows(batch)
        if also:
            await retry(lambda: self._write(also), "writing beside an append", is_transient)
        return appended

    async def _write(self, also: Sequence[Write]) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            for one in also:
                await one(connection)

    async def _append_rows(self, batch: RowBatch) -> list[Appended]:
        kind = type(batch)
        parts = {shard: kind(batch.frame[rows]) for shard, rows in self._routing.rows(batch.frame).items()}
        if len(batch) <= offload.INLINE_ROWS:
            appends = self._appends_of_few(parts)
        else:
            appends = [self._append_large(shard, part) for shard, part in parts.items()]
        return [one for several in await asyncio.gather(*appends) for one in several]

    def _appends_of_few(self, parts: Mapping[int, RowBatch]) -> list[Coroutine[Any, Any, list[Appended]]]:
        """Encode a small batch for all partitions in one go: each call of the codec has a price, however few rows."""
        kind = type(next(iter(parts.values())))
        keys, values = self._encoded(kind(pl.concat([part.frame for part in parts.values()])))
        appends, first = [], 0
        for shard, part in parts.items():
            last = first + len(part)
            appends.append(self._append(shard, part, keys[first:last], values[first:last]))
            first = last
        return appends

    async def _append_large(self, shard: int, batch: RowBatch) -> list[Appended]:
        """Encode in a thread, and send to each partition as soon as its part is encoded."""
        keys, values = await asyncio.to_thread(self._encoded, batch)
        return await self._append(shard, batch, keys, values)

    async def _append(
        self, shard: int, batch: RowBatch, keys: Sequence[bytes], values: Sequence[bytes]
    ) -> list[Appended]:
        appended, done = [], 0
        for run in await self._appender.append(shard, keys, values):
            base = self._first_seqs[shard] + run.base
            part = with_seqs(type(batch)(batch.frame.slice(done, run.count)), base)
            appended.append(Appended(shard, part, base, base + run.count))
            done += run.count
        return appended

    def _encoded(self, batch: RowBatch) -> tuple[list[bytes], list[bytes]]:
        """Return the keys and the values of the records."""
        if isinstance(batch, Ticks):
            recorded = self._symbol_names.ticks(batch.frame)
            values = self._codec.encode_ticks(recorded)
        elif isinstance(batch, Corrections):
            recorded = self._symbol_names.corrections(batch.frame)
            values = self._codec.encode_corrections(recorded)
        else:
            recorded = self._symbol_names.bars(batch.frame)
            values = self._codec.encode_bars(recorded)
        return recorded["symbol"].cast(pl.Binary).to_list(), values

    async def _append_control(self, record: End | Forget) -> list[Appended]:
        """Append a record without rows to the partition of its symbol; without a symbol, to all partitions."""
        if isinstance(record, End):
            key, value = record.provider, self._codec.encode_end(record.provider, datetime.now(UTC))
        else:
            key, value = record.symbol or record.provider or "", self._codec.encode_forget(record, datetime.now(UTC))

        async def append(shard: int) -> Appended:
            [run] = await self._appender.append(shard, [key.encode()], [value])
            base = self._first_seqs[shard] + run.base
            return Appended(shard, record, base, base + run.count)

        return list(await asyncio.gather(*[append(shard) for shard in self._routing.of_record(record)]))


class EndOffsetPoller:
    """Polls the end of each partition. As long as polls succeed, the brokers are known to answer."""

    def __init__(self, connection: KafkaConnection, topic: str, ends: Mapping[int, int]) -> None:
        """`ends` holds the current partition offsets of the next records."""
        self._connection = connection
        self._places = [TopicPartition(topic, number) for number in ends]
        self._answered = time.monotonic()
        self.ends = dict(ends)

    def silent_seconds(self) -> float:
        """Return the time since a broker answered last."""
        return time.monotonic() - self._answered

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                async with open_consumer(self._connection) as consumer:
                    await self._poll_with(consumer)
            except (KafkaError, OSError, TimeoutError) as fault:
                log.warning("the brokers do not answer", seconds=round(self.silent_seconds(), 1), error=repr(fault))
                await asyncio.sleep(_POLL_SECONDS)

    async def _poll_with(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            ends = await consumer.end_offsets(self._places)
            self.ends = {place.partition: end for place, end in ends.items()}
            self._answered = time.monotonic()
            await asyncio.sleep(_POLL_SECONDS)


@dataclass(frozen=True)
class KafkaShardLog:
    """One partition of the raw topic, for its reader."""

    identity: str
    shard: int
    reader: PartitionReader
    poller: EndOffsetPoller
    journal: KafkaJournal | None
    """The writer of the partition in this process, if there is one."""

    @property
    def head(self) -> int:
        """The offset that the next record gets, as of the last poll."""
        return self.reader.first_seq + self.poller.ends.get(self.shard, 0)

    async def end(self) -> int:
        """Ask the brokers for the offset that the next record gets."""
        return (await self.reader.bounds())[1]

    async def foreign_end(self, processed: int) -> int:
        """Return the end of the partition once all own records are processed; 0 where nothing is appended here."""
        own = self.journal.own_end(self.shard) if self.journal is not None else None
        return self.head if own is not None and own <= processed < self.head else 0

    async def replay(self, offset: int, until: int) -> AsyncIterator[Appended]:
        """Yield the records of the partition with offset <= seq < until."""
        async for appended in self.reader.read(offset, until):
            yield appended

    def follow(self, offset: int) -> AsyncIterator[Appended]:
        """Yield the records from this offset on, without end."""
        return self.reader.read(offset)
