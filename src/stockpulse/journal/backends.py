"""The two logs, as the shards of them are opened: the one inside the database, and the one on Kafka."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
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
"""An open segment with more ticks is sealed at a restart, rather than read back into memory."""


@dataclass(frozen=True)
class ExternalLog:
    """What is to be stored of a log that is not in the database itself."""

    segments: Segments
    topic: str
    first_seq: int
    """What the topic's offsets are counted from."""


@dataclass(frozen=True)
class ShardOfLog:
    """A shard of a log, and what is written of it beside what follows from it."""

    log: ShardLog
    segments: Segments
    epoch: int | None
    """That of a log which has one of its own."""
    start: int
    """Where a shard begins that nobody has worked on."""
    external: ExternalLog | None
    load: Callable[[int], Awaitable[None]]
    """Bring back what has to be in memory; takes the checkpoint's offset."""
    remember: Callable[[], Awaitable[pl.DataFrame]]
    """What was delivered last, as `tick_rows.KEYS`; the segments have been loaded."""
    close: Callable[[], Awaitable[None]]
    follow: Callable[[int], AsyncIterator[Appended]] | None = None
    """The records from an offset on, for ever, where others append."""


class Logs(Protocol):
    """The shards of a log."""

    @property
    def shards(self) -> Iterable[int]:
        """Their numbers."""
        ...

    async def open(self, shard: int) -> ShardOfLog:
        """A shard of it."""
        ...


@dataclass(frozen=True)
class KafkaParts:
    """The Kafka that a log is on."""

    connection: KafkaConnection
    cluster: Cluster
    codec: Codec
    first_seqs: dict[int, int]
    """What the offsets of each partition are counted from."""


@dataclass(frozen=True)
class LogParts:
    """A log, and how it is appended to and read here."""

    logs: Logs
    journal: Journal | None
    """None where nothing is appended."""
    routing: Routing
    left: Segments | None
    """Segments of logs that were left."""
    watch: EndOffsetPoller | None = None
    waiting_seconds: Callable[[], float] = lambda: 0.0
    """How long what was submitted has been waiting to be durable, in seconds."""
    kafka: KafkaParts | None = None


class EmbeddedLog:
    """The log inside the database, which has been taken."""

    shards = (SHARD,)

    def __init__(self, journal: PostgresJournal) -> None:
        self._journal = journal

    async def open(self, _shard: int) -> ShardOfLog:
        """Its only shard."""
        journal = self._journal
        return ShardOfLog(
            journal, journal.segments, journal.epoch, journal.head, None, self._load, journal.recent_keys, _nothing
        )

    async def _load(self, _offset: int) -> None:
        await self._journal.load_open_segment(_MEMORY_ROWS)


class KafkaLog:
    """The log on Kafka, which the database follows."""

    def __init__(
        self,
        pool: Pool,
        connection: KafkaConnection,
        topic: str,
        identity: str,
        first_seqs: dict[int, int],
        interpreter: Interpreter,
        journal: KafkaJournal | None,
        watch: EndOffsetPoller,
        routing: Routing,
        left: Segments,
    ) -> None:
        """Without a journal nothing is appended here, and all is followed."""
        self._pool = pool
        self._connection = connection
        self._topic = topic
        self._identity = identity
        self._first_seqs = first_seqs
        self._interpreter = interpreter
        self._journal = journal
        self._watch = watch
        self._routing = routing
        self._left = left

    @property
    def shards(self) -> Iterable[int]:
        """The partitions."""
        return sorted(self._first_seqs)

    async def open(self, shard: int) -> ShardOfLog:
        """A partition of it."""
        first_seq = self._first_seqs[shard]
        reader = PartitionReader(self._connection, self._topic, shard, first_seq, self._interpreter)
        segments = Segments(self._pool, RecentTicks(), slot=slot_of(first_seq))

        async def load(offset: int) -> None:
            await self._require(reader, shard, offset)
            await self._load(segments, offset)

        shard_log = KafkaShardLog(self._identity, shard, first_seq, reader, self._journal, self._watch)
        return ShardOfLog(
            shard_log,
            segments,
            epoch=None,
            start=first_seq,
            external=ExternalLog(segments, self._topic, first_seq),
            load=load,
            remember=partial(self._remember, segments, shard),
            close=reader.close,
            follow=shard_log.follow if self._journal is None else None,
        )

    async def _require(self, reader: PartitionReader, shard: int, offset: int) -> None:
        """All that is not worked in must still be there."""
        oldest, end = await reader.bounds()
        first_seq = self._first_seqs[shard]
        if offset < oldest:
            raise RecordsLost(
                f"partition {shard} of {self._topic}: the records {offset - first_seq:,} to {oldest - first_seq - 1:,}"
                " were dropped there before they were worked in here;"
                " `stockpulse topics accept-loss` goes on without them"
            )
        if offset > end:
            raise RecordsLost(
                f"partition {shard} of {self._topic} ends at {end - first_seq:,}, and {offset - first_seq:,} records"
                " of it were worked in: it is not the topic that it was;"
                " `stockpulse topics accept-loss` goes on from its end"
            )

    async def _remember(self, segments: Segments, shard: int) -> pl.DataFrame:
        most, now = LEAST_KEYS // len(self._first_seqs), datetime.now(UTC)
        async with self._pool.acquire() as connection:
            keys = await tick_rows.newest_identified(connection, segments.newest(now), most)
            if len(keys) == most:
                return keys
            # Shortly after a move what came last is in the log that was left.
            before = await tick_rows.newest_identified(connection, self._left.newest(now, always=0), LEAST_KEYS)
        here = self._routing.of_symbols(before["symbol_id"].to_numpy()) == shard
        return pl.concat([before.filter(pl.Series(here)), keys])

    async def _load(self, segments: Segments, offset: int) -> None:
        await segments.load(offset)
        await segments.ensure(segments.open)
        most = _MEMORY_ROWS // len(self._first_seqs)
        async with self._pool.acquire() as connection:
            if offset - segments.open <= most:
                frame = await tick_rows.read_whole(connection, segments.open)
                if len(frame):
                    segments.recent.append(segments.open, frame)
        if offset - segments.open > most:
            await segments.seal(offset)


async def _nothing() -> None:
    """There is nothing to be closed."""
