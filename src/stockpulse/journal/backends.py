"""The two logs, opened shard by shard: in the database or on Kafka."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import polars as pl

from stockpulse.errors import RecordsLost
from stockpulse.ingest.redelivery import LEAST_KEYS
from stockpulse.journal import tick_rows
from stockpulse.journal.codecs import Codec
from stockpulse.journal.followed_log import slot_of
from stockpulse.journal.kafka.connection import KafkaConnection
from stockpulse.journal.kafka.journal import EndOffsetPoller, KafkaJournal, KafkaShardLog
from stockpulse.journal.kafka.reader import Interpreter, PartitionReader
from stockpulse.journal.kafka.topics import Cluster
from stockpulse.journal.postgres import SHARD, PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Appended, Journal, ShardLog
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.postgres.connect import Pool

_MEMORY_ROWS: Final = 300_000
"""A restart seals an open segment with more ticks than this, instead of reading it back into memory."""


@dataclass(frozen=True)
class ExternalLog:
    """The part of the database that stores the records of a shard whose log is outside the database."""

    segments: Segments
    topic: str
    first_seq: int
    """The seq of partition offset 0."""


@dataclass(frozen=True)
class ShardOfLog:
    """The log of one shard and the segments of the tick table that hold its ticks."""

    log: ShardLog
    segments: Segments
    epoch: int | None
    """The epoch of the log itself, if the log has one."""
    start: int
    """The offset of a shard without a checkpoint."""
    external: ExternalLog | None
    load: Callable[[int], Awaitable[None]]
    """Load the newest ticks into memory; takes the offset of the checkpoint."""
    remember: Callable[[], Awaitable[pl.DataFrame]]
    """Return the newest deliveries as `tick_rows.KEYS`; to be called after `load`."""
    close: Callable[[], Awaitable[None]]
    follow: Callable[[int], AsyncIterator[Appended]] | None = None
    """Yield the records from an offset on, without end; None if this process appends all records itself."""


class Logs(Protocol):
    """A log with all its shards."""

    @property
    def shards(self) -> Iterable[int]:
        """The numbers of the shards."""
        ...

    async def open(self, shard: int) -> ShardOfLog:
        """Open a shard."""
        ...


@dataclass(frozen=True)
class KafkaParts:
    """The Kafka that holds the log."""

    connection: KafkaConnection
    cluster: Cluster
    codec: Codec
    first_seqs: dict[int, int]
    """The seq of partition offset 0, by partition."""


@dataclass(frozen=True)
class LogParts:
    """A log with the parts of this process that append to it and read it."""

    logs: Logs
    journal: Journal | None
    """None if this process does not append."""
    routing: Routing
    retired: Segments | None
    """Segments with the ticks of retired logs."""
    poller: EndOffsetPoller | None = None
    waiting_seconds: Callable[[], float] = lambda: 0.0
    """Returns the waiting time of the oldest batch without an acknowledgement, in seconds."""
    kafka: KafkaParts | None = None

    @property
    def appended(self) -> Journal:
        """The journal of a process that takes ticks."""
        if self.journal is None:
            raise RuntimeError("this process does not append to the log")
        return self.journal

    @property
    def required_kafka(self) -> KafkaParts:
        """The Kafka of a process whose role needs one."""
        if self.kafka is None:
            raise RuntimeError("this role needs a log on Kafka")
        return self.kafka


class EmbeddedLog:
    """The log inside the database; `journal` has taken it."""

    shards = (SHARD,)

    def __init__(self, journal: PostgresJournal) -> None:
        self._journal = journal

    async def open(self, _shard: int) -> ShardOfLog:
        """Open the only shard."""
        journal = self._journal
        return ShardOfLog(
            journal, journal.segments, journal.epoch, journal.head, None, self._load, journal.recent_keys, _nothing
        )

    async def _load(self, _offset: int) -> None:
        await self._journal.load_open_segment(_MEMORY_ROWS)


@dataclass(frozen=True)
class RawTopic:
    """The raw topic, as the database follows it."""

    connection: KafkaConnection
    name: str
    identity: str
    first_seqs: Mapping[int, int]
    """The seq of partition offset 0, by partition."""


class KafkaLog:
    """The log on Kafka."""

    def __init__(
        self,
        pool: Pool,
        topic: RawTopic,
        interpreter: Interpreter,
        poller: EndOffsetPoller,
        routing: Routing,
        retired: Segments,
        journal: KafkaJournal | None = None,
    ) -> None:
        """Without a `journal` this process appends nothing: it follows records of other processes."""
        self._pool = pool
        self._topic = topic
        self._interpreter = interpreter
        self._poller = poller
        self._routing = routing
        self._retired = retired
        self._journal = journal

    @property
    def shards(self) -> Iterable[int]:
        """The numbers of the partitions."""
        return sorted(self._topic.first_seqs)

    async def open(self, shard: int) -> ShardOfLog:
        """Open a partition."""
        topic = self._topic
        first_seq = topic.first_seqs[shard]
        reader = PartitionReader(topic.connection, topic.name, shard, first_seq, self._interpreter)
        segments = Segments(self._pool, RecentTicks(), slot=slot_of(first_seq))

        async def load(offset: int) -> None:
            await self._require(reader, shard, offset)
            await self._load(segments, offset)

        shard_log = KafkaShardLog(topic.identity, shard, reader, self._poller, self._journal)
        return ShardOfLog(
            shard_log,
            segments,
            epoch=None,
            start=first_seq,
            external=ExternalLog(segments, topic.name, first_seq),
            load=load,
            remember=partial(self._remember, segments, shard),
            close=reader.close,
            follow=shard_log.follow if self._journal is None else None,
        )

    async def _require(self, reader: PartitionReader, shard: int, offset: int) -> None:
        """Raise RecordsLost if the partition no longer holds all records after the checkpoint."""
        oldest, end = await reader.bounds()
        first_seq, name = reader.first_seq, self._topic.name
        if offset < oldest:
            raise RecordsLost(
                f"partition {shard} of {name}: the records {offset - first_seq:,} to {oldest - first_seq - 1:,}"
                " were dropped by Kafka before StockPulse processed them;"
                " `stockpulse topics accept-loss` continues without them"
            )
        if offset > end:
            raise RecordsLost(
                f"partition {shard} of {name} ends at {end - first_seq:,}, but {offset - first_seq:,} of its records"
                " were processed here: the topic was deleted and created again;"
                " `stockpulse topics accept-loss` continues from its end"
            )

    async def _remember(self, segments: Segments, shard: int) -> pl.DataFrame:
        most, now = LEAST_KEYS // len(self._topic.first_seqs), datetime.now(UTC)
        async with self._pool.acquire() as connection:
            keys = await tick_rows.newest_identified(connection, segments.newest(now), most)
            if len(keys) == most:
                return keys
            # Shortly after a move, the newest deliveries are in the retired log.
            before = await tick_rows.newest_identified(connection, self._retired.newest(now, always=0), LEAST_KEYS)
        here = self._routing.of_symbols(before["symbol_id"].to_numpy()) == shard
        return pl.concat([before.filter(pl.Series(here)), keys])

    async def _load(self, segments: Segments, offset: int) -> None:
        await segments.load(offset)
        await segments.ensure(segments.open)
        most = _MEMORY_ROWS // len(self._topic.first_seqs)
        async with self._pool.acquire() as connection:
            if offset - segments.open <= most:
                frame = await tick_rows.read_whole(connection, segments.open)
                if len(frame):
                    segments.recent.append(segments.open, frame)
        if offset - segments.open > most:
            await segments.seal(offset)


async def _nothing() -> None:
    """Do nothing: the journal itself owns the connection."""
