"""The parts of a process, each created from the settings and a `Node`. `roles` combines them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import polars as pl

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.signals import Rule, Rules
from stockpulse.errors import CannotStart
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.ingest.corrected_trades import MOST
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.feed_arbiter import FeedArbiter
from stockpulse.ingest.intake import Intake
from stockpulse.ingest.new_names import NewNames
from stockpulse.ingest.redelivery import LEAST_KEYS
from stockpulse.journal import corrections
from stockpulse.journal.backends import KafkaParts
from stockpulse.journal.kafka.appender import Appender, open_appender
from stockpulse.journal.kafka.offsets import bounds_of
from stockpulse.journal.kafka.tail import tail
from stockpulse.journal.records import Corrections, Forget, Journal, Ticks
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.intervals import Interval, parse_interval
from stockpulse.node.kafka import topics_of
from stockpulse.node.node import Node
from stockpulse.pipeline.events import Listener, Listeners
from stockpulse.pipeline.followed_bars import FollowedBars
from stockpulse.pipeline.followed_events import FollowedEvents
from stockpulse.pipeline.followed_shard import FollowedShard, follow_ticks
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.kafka_publisher import DerivedTopic, KafkaPublisher
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shard_opener import ShardOpener
from stockpulse.pipeline.shards import Shards
from stockpulse.providers.registry import installed_providers
from stockpulse.rules import parse
from stockpulse.settings import Settings
from stockpulse.storage.analytics_writer import drop_other_states
from stockpulse.storage.corrected_ticks import CorrectedTicks
from stockpulse.storage.dead_letters import DeadLetters
from stockpulse.storage.signals import SignalStore
from stockpulse.storage.tick_reader import TickSource


def build_engine_spec(settings: Settings) -> EngineSpec:
    """Return the specification of the engines of all shards."""
    return EngineSpec(
        lateness_micros=int(settings.lateness_seconds * 1_000_000),
        extended_day=settings.extended_day,
        stored=tuple(Instance(one) for one in CATALOGUE.values() if set(one.outputs) <= set(STORED_INDICATORS)),
        rules=Rules([Rule(name, parse(rule.buy), parse(rule.sell)) for name, rule in settings.signal_rules.items()]),
        signal_interval=parse_interval(settings.signal_interval),
    )


# Shards -----------------------------------------------------------------------------------------


@asynccontextmanager
async def open_shards(node: Node, clocks: ProviderClocks, *listeners: Listener) -> AsyncIterator[Shards]:
    """Yield the shards of this process, none taken yet. At the end, tasks that were started inside stop first."""
    database, log, spec = node.database, node.log, node.spec
    await drop_other_states(database.pool, spec.tracks.values())
    opener = ShardOpener(
        database=database,
        logs=log.logs,
        routing=log.routing,
        partitions=node.partitions,
        spec=spec,
        rule_ids=await SignalStore(database.pool).assign_ids(spec.rules.rules),
        delivered=remember_ticks(node),
        forgotten=forget_deliveries(node),
        corrected=remember_corrections(node),
        listener=Listeners((*listeners, *node.listeners)),
        counters=node.counters,
        now=node.timing.now,
        flush_seconds=node.timing.flush_seconds,
        rejected_kinds=node.rejected_kinds,
    )
    shards = Shards(opener, clocks, node.tasks)
    try:
        async with node.tasks.scope():
            yield shards
    finally:
        await shards.close()


def remember_ticks(node: Node) -> Callable[[pl.DataFrame], Awaitable[None]]:
    """Return a function that tells intake of ticks that did not come through it: `tick_rows.KEYS` or more columns."""
    symbol_names = SymbolNames(node.database.names)

    async def remember(ticks: pl.DataFrame) -> None:
        await node.redeliveries.remember(symbol_names.keys(ticks.filter(pl.col("trade_id").is_not_null())))

    return remember


def forget_deliveries(node: Node) -> Callable[[Forget], Awaitable[None]]:
    """Return a function that makes the intake forget the keys of forgotten ticks, so that they are new again."""

    async def forget(one: Forget) -> None:
        await node.redeliveries.forget(one.symbol, one.provider, one.start, one.end)
        node.corrected.forget(one.symbol, one.provider, one.start, one.end)

    return forget


def remember_corrections(node: Node) -> Callable[[pl.DataFrame], None]:
    """Return a function that tells intake of LOGGED_CORRECTIONS that did not come through it."""
    symbol_names = SymbolNames(node.database.names)

    def remember(frame: pl.DataFrame) -> None:
        named = symbol_names.corrections(frame).with_columns(traded_at="ts", ts="sent_at")
        for (provider,), part in named.group_by("provider", maintain_order=True):
            node.corrected.sift(part, str(provider))
            node.corrected.remember(part, str(provider))

    return remember


@asynccontextmanager
async def open_publisher(node: Node) -> AsyncIterator[tuple[Listener, ...]]:
    """Yield the publisher of the derived topics, running; nothing if the log is inside the database."""
    kafka = node.log.kafka
    if kafka is None:
        yield ()
        return
    async with AsyncExitStack() as stack:
        appenders = await _appenders(node, kafka, stack)
        names = topics_of(node.settings)

        def topic_of(encode: Callable[[pl.DataFrame], list[bytes]], kind: str) -> DerivedTopic:
            return DerivedTopic(appenders[kind], kafka.cluster.topics[getattr(names, kind)].partitions, encode)

        publisher = KafkaPublisher(node.database.names, kafka.codec, node.spec, topic_of)
        await stack.enter_async_context(node.tasks.running("publish", publisher.run))
        yield (publisher,)


async def _appenders(node: Node, kafka: KafkaParts, stack: AsyncExitStack) -> dict[str, Appender]:
    names, appenders = topics_of(node.settings), {}
    for kind, topic in (("ohlcv", names.ohlcv), ("analytics", names.analytics), ("signals", names.signals)):
        _, ends = await bounds_of(kafka.connection, topic, kafka.cluster.topics[topic].partitions)
        appenders[kind] = await stack.enter_async_context(open_appender(kafka.connection, topic, ends))
    return appenders


# Intake -----------------------------------------------------------------------------------------


def build_ingestor(node: Node, journal: Journal, shards: Shards) -> Ingestor:
    """Return the way into the log."""
    settings = node.settings
    encoder = Encoder(node.database.name_store, FeedArbiter(standby=installed_providers().standby))
    return Ingestor(
        intake=Intake(
            encoder,
            node.redeliveries,
            timedelta(seconds=settings.future_seconds),
            settings.max_tick_kinds,
            NewNames(
                node.database.names,
                max_symbols=settings.max_symbols,
                symbols_per_minute=settings.new_symbols_per_minute,
                max_providers=settings.max_providers,
            ),
            node.corrected,
        ),
        journal=journal,
        dead_letters=DeadLetters(node.database.pool, node.partitions, node.rejected_kinds),
        partitions=node.partitions,
        hand_on=shards.hand_on,
        has_room=shards.have_room,
        counters=node.counters,
        now=node.timing.now,
        disk=node.database.disk,
        find_trades=CorrectedTicks(node.database.pool, node.database.names).find,
    )


async def remember_deliveries(node: Node) -> None:
    """Fill the redelivery window with the newest ticks, from the table and from the end of the log."""
    remember, log, pool = remember_ticks(node), node.log, node.database.pool
    remember_corrected = remember_corrections(node)
    async with pool.acquire() as connection:
        remember_corrected(await corrections.newest(connection, MOST))
    for shard in log.logs.shards:
        source = await log.logs.open(shard)
        try:
            offset: int = await pool.fetchval("SELECT journal_offset FROM checkpoints WHERE shard = $1", shard)
            await source.segments.load(offset)
            await remember(await source.remember())
            end = await source.log.end()
            async for appended in source.log.replay(max(offset, end - LEAST_KEYS), end):
                if isinstance(appended.batch, Ticks):
                    await remember(appended.batch.frame)
                if isinstance(appended.batch, Corrections):
                    remember_corrected(appended.batch.frame)
                    await remember(appended.batch.right_trades)
        finally:
            await source.close()


# Reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewestData:
    """The functions through which readers find the newest ticks and bars."""

    ticks: Callable[[int], TickSource]
    bars: Callable[[Interval, int | None], Awaitable[Rows]]


def newest_of_shards(node: Node, shards: Shards) -> NewestData:
    """Find the newest data in the shards of this process."""
    log = node.log

    def ticks(symbol_id: int) -> TickSource:
        source = shards.owned[log.routing.of_symbol(symbol_id)].source
        first = source.external.first_seq if source.external is not None else 0
        return TickSource(source.segments, first, log.retired)

    return NewestData(ticks, shards.bars_in_memory)


def follow_newest(node: Node, clocks: ProviderClocks, listener: Listener) -> NewestData:
    """Find the newest data of other processes in the database and the topics; follow it from now on.

    The listener gets bars and ticks, with less delay than a flush; no signals.
    """
    kafka, log, database = node.log.kafka, node.log, node.database
    if kafka is None:
        raise CannotStart("STOCKPULSE_ROLE: api needs KAFKA_BOOTSTRAP_SERVERS")
    topic = node.settings.kafka_topic_ohlcv
    newest_bars = partial(tail, kafka.connection, topic, kafka.cluster.topics[topic].partitions)
    bars = FollowedBars(newest_bars, kafka.codec, database.names, FollowedEvents(database.names, listener))
    shards = {
        shard: FollowedShard(database.pool, database.names, first_seq, FollowedEvents(database.names, listener))
        for shard, first_seq in sorted(kafka.first_seqs.items())
    }
    clocks.sources.update(shards)
    node.tasks.start("follow:bars", bars.run)
    node.tasks.start("follow:ticks", lambda: follow_ticks(shards.values(), database.name_store))

    def ticks(symbol_id: int) -> TickSource:
        shard = shards[log.routing.of_symbol(symbol_id)]
        return TickSource(shard.segments, shard.first_seq, log.retired)

    return NewestData(ticks, bars.in_memory)
