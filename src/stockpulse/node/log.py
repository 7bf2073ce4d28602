"""The log of the process: inside the database, or on Kafka."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final

from stockpulse.aio.supervisor import Supervisor
from stockpulse.errors import CannotStart, OtherJournal, Unavailable
from stockpulse.journal.backends import EmbeddedLog, KafkaLog, KafkaParts, LogParts, RawTopic
from stockpulse.journal.codecs import Codec
from stockpulse.journal.followed_log import claim, followed_log
from stockpulse.journal.kafka.appender import open_appender
from stockpulse.journal.kafka.journal import EndOffsetPoller, KafkaJournal, is_on
from stockpulse.journal.kafka.offsets import bounds_of
from stockpulse.journal.kafka.reader import Interpreter
from stockpulse.journal.postgres import PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.journal.symbol_names import RecordEncoder
from stockpulse.node.kafka import codec_of, kafka_target
from stockpulse.postgres.database import Database
from stockpulse.settings import Settings

_REGISTRY_SECONDS: Final = 30.0


@asynccontextmanager
async def open_log(settings: Settings, database: Database, tasks: Supervisor) -> AsyncIterator[LogParts]:
    """Yield the log that the settings name. Raises OtherJournal if the database follows another one."""
    opened = kafka_log if settings.kafka_bootstrap_servers else embedded_log
    async with opened(settings, database, tasks) as log:
        yield log


@asynccontextmanager
async def embedded_log(_settings: Settings, database: Database, _tasks: Supervisor) -> AsyncIterator[LogParts]:
    """Yield the log inside the database."""
    followed = await followed_log(database.pool)
    if followed is not None and followed != "postgres":
        raise OtherJournal(followed, "postgres")
    journal = PostgresJournal(database.dsn, Segments(database.pool, RecentTicks()), disk=database.disk)
    try:
        await journal.take()
        yield LogParts(EmbeddedLog(journal), journal, Routing(database.names), None)
    finally:
        await journal.close()


@asynccontextmanager
async def kafka_log(settings: Settings, database: Database, tasks: Supervisor) -> AsyncIterator[LogParts]:
    """Yield the log on Kafka; only roles that take ticks append to it."""
    pool, topic = database.pool, settings.kafka_topic_raw
    codec = codec_of(settings)
    followed = await followed_log(pool)
    if followed is not None and not is_on(followed, topic):  # before useless topics are created
        raise OtherJournal(followed, f"kafka:{settings.kafka_bootstrap_servers}/{topic}")
    target = await kafka_target(settings)
    connection, partitions = target.connection, target.partitions
    await _prepare(codec)
    routing = Routing(database.names, partitions)
    encoder = RecordEncoder(
        database.name_store, settings.calendar, max_symbols=settings.max_symbols, max_kinds=settings.max_tick_kinds
    )
    interpreter = Interpreter(codec, encoder, timedelta(seconds=settings.future_seconds), partitions)
    starts, ends = await bounds_of(connection, topic, partitions)
    first_seqs = await claim(pool, target.identity, starts)
    retired = Segments(pool, RecentTicks(), slot=range(min(first_seqs.values())))
    await retired.load(min(first_seqs.values()))
    async with AsyncExitStack() as stack:
        journal = None
        if settings.role in {"all", "ingest"}:
            appender = await stack.enter_async_context(open_appender(connection, topic, ends))
            journal = KafkaJournal(appender, codec, database.names, routing, first_seqs, database.pool)
        poller = EndOffsetPoller(connection, topic, ends)
        await stack.enter_async_context(tasks.running("kafka", poller.run))
        raw = RawTopic(connection, topic, target.identity, first_seqs)
        logs = KafkaLog(pool, raw, interpreter, poller, routing, retired, journal)
        waiting_seconds = journal.waiting_seconds if journal is not None else lambda: 0.0
        kafka = KafkaParts(connection, target.cluster, codec, first_seqs)
        yield LogParts(logs, journal, routing, retired, poller, waiting_seconds, kafka)


async def _prepare(codec: Codec) -> None:
    """Prepare the codec; wait a while for a schema registry that does not answer yet."""
    deadline = asyncio.get_running_loop().time() + _REGISTRY_SECONDS
    while True:
        try:
            return await asyncio.to_thread(codec.prepare)
        except Unavailable as fault:
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(f"SCHEMA_REGISTRY_URL: {fault}") from None
        await asyncio.sleep(1)
