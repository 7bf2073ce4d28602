"""The parts, made from the settings and wired."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import polars as pl

from stockpulse.aio.supervisor import Supervisor
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.signals import Rule, Rules
from stockpulse.errors import CannotStart, OtherJournal, Unavailable
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.feed_arbiter import FeedArbiter
from stockpulse.ingest.intake import Intake
from stockpulse.ingest.redelivery import LEAST_KEYS, Redeliveries
from stockpulse.journal.backends import EmbeddedLog, KafkaLog, KafkaParts, LogParts, RawTopic
from stockpulse.journal.codecs import Codec
from stockpulse.journal.codecs.choice import choose
from stockpulse.journal.followed_log import claim, followed_log
from stockpulse.journal.kafka.appender import open_appender
from stockpulse.journal.kafka.connection import KafkaConnection
from stockpulse.journal.kafka.group import Membership
from stockpulse.journal.kafka.journal import EndOffsetPoller, KafkaJournal, identity_of, is_on
from stockpulse.journal.kafka.offsets import bounds_of
from stockpulse.journal.kafka.reader import Interpreter
from stockpulse.journal.kafka.tail import tail
from stockpulse.journal.kafka.topics import Cluster, NewTopics, TopicNames, cluster_with
from stockpulse.journal.postgres import PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Journal, Ticks
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.journal.symbol_names import RecordEncoder, SymbolNames
from stockpulse.market.intervals import Interval, parse_interval
from stockpulse.market.symbology import Names
from stockpulse.pipeline.followed_bars import FollowedBars
from stockpulse.pipeline.followed_shard import FollowedShard, follow_names, follow_ticks
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.kafka_publisher import KafkaPublisher, Topic
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shards import Shards, Tools
from stockpulse.postgres.connect import Pool
from stockpulse.postgres.symbology_store import NameStore
from stockpulse.providers.registry import installed_providers
from stockpulse.rules import parse
from stockpulse.settings import Settings
from stockpulse.storage.analytics_writer import drop_other_states
from stockpulse.storage.dead_letters import DeadLetters
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.signals import SignalStore
from stockpulse.storage.tick_reader import TickSource
from stockpulse.telemetry.counters import Counters

_REGISTRY_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Foundation:
    """What all parts stand on."""

    settings: Settings
    spec: EngineSpec
    dsn: str
    pool: Pool
    supervisor: Supervisor
    stack: AsyncExitStack
    names: Names
    name_store: NameStore
    partitions: Partitions
    counters: Counters
    redeliveries: Redeliveries
    signals: SignalStore
    now: Callable[[], datetime]


def build_engine_spec(settings: Settings) -> EngineSpec:
    """What the engines of all shards calculate."""
    return EngineSpec(
        lateness_micros=int(settings.lateness_seconds * 1_000_000),
        extended_day=settings.extended_day,
        stored=tuple(Instance(one) for one in CATALOGUE.values() if set(one.outputs) <= set(STORED_INDICATORS)),
        rules=Rules([Rule(name, parse(rule.buy), parse(rule.sell)) for name, rule in settings.signal_rules.items()]),
        signal_interval=parse_interval(settings.signal_interval),
    )


async def foundation_of(
    settings: Settings,
    dsn: str,
    pool: Pool,
    supervisor: Supervisor,
    stack: AsyncExitStack,
    now: Callable[[], datetime],
) -> Foundation:
    """What all parts stand on, with the names that the database knows."""
    names = Names()
    name_store = NameStore(pool, names)
    await name_store.load()
    return Foundation(
        settings=settings,
        spec=build_engine_spec(settings),
        dsn=dsn,
        pool=pool,
        supervisor=supervisor,
        stack=stack,
        names=names,
        name_store=name_store,
        partitions=Partitions(pool),
        counters=Counters(),
        redeliveries=Redeliveries(),
        signals=SignalStore(pool),
        now=now,
    )


# The log ----------------------------------------------------------------------------------------


async def embedded_log(base: Foundation) -> LogParts:
    """The log inside the database, taken."""
    followed = await followed_log(base.pool)
    if followed is not None and followed != "postgres":
        raise OtherJournal(followed, "postgres")
    journal = PostgresJournal(base.dsn, Segments(base.pool, RecentTicks()))
    base.stack.push_async_callback(journal.close)
    await journal.take()
    return LogParts(EmbeddedLog(journal), journal, Routing(base.names), None)


def connection_of(settings: Settings) -> KafkaConnection:
    """How the brokers are reached."""
    return KafkaConnection(
        settings.kafka_bootstrap_servers or "",
        settings.kafka_security_protocol,
        settings.kafka_sasl_mechanism,
        settings.kafka_username,
        settings.kafka_password.get_secret_value() if settings.kafka_password else None,
        str(settings.kafka_ca_file) if settings.kafka_ca_file else None,
    )


def topics_of(settings: Settings) -> TopicNames:
    """What the topics are called."""
    return TopicNames(
        settings.kafka_topic_raw,
        settings.kafka_topic_ohlcv,
        settings.kafka_topic_analytics,
        settings.kafka_topic_signals,
    )


def codec_of(settings: Settings) -> Codec:
    """How records are written."""
    secret = settings.schema_registry_secret
    return choose(
        settings.kafka_codec,
        settings.schema_registry_url,
        settings.schema_registry_key,
        secret.get_secret_value() if secret else None,
    )


@dataclass(frozen=True)
class KafkaTarget:
    """The Kafka that the settings name, and the raw topic on it."""

    connection: KafkaConnection
    cluster: Cluster
    topic: str

    @property
    def partitions(self) -> int:
        """Of the raw topic."""
        return self.cluster.topics[self.topic].partitions

    @property
    def identity(self) -> str:
        """Which log that is."""
        return identity_of(self.cluster.id, self.topic, self.partitions)


async def kafka_target(settings: Settings, *, create: bool = True) -> KafkaTarget:
    """The Kafka that the settings name, with its topics. Raises CannotStart where one is missing and not created."""
    connection = connection_of(settings)
    new = None
    if create:
        new = NewTopics(settings.kafka_partitions, settings.kafka_replication, settings.kafka_retention_hours)
    return KafkaTarget(connection, await cluster_with(connection, topics_of(settings), new), settings.kafka_topic_raw)


async def kafka_log(base: Foundation) -> LogParts:
    """The log on Kafka; to be appended to, unless this process has another role."""
    settings, topic = base.settings, base.settings.kafka_topic_raw
    codec = codec_of(settings)
    followed = await followed_log(base.pool)
    if followed is not None and not is_on(followed, topic):  # before topics are made that nobody wants
        raise OtherJournal(followed, f"kafka:{settings.kafka_bootstrap_servers}/{topic}")
    target = await kafka_target(settings)
    connection, cluster, partitions = target.connection, target.cluster, target.partitions
    await _prepared(codec)
    routing = Routing(base.names, partitions)
    interpreter = Interpreter(
        codec,
        RecordEncoder(base.name_store, settings.calendar),
        timedelta(seconds=settings.future_seconds),
        partitions,
    )
    starts, ends = await bounds_of(connection, topic, partitions)
    first_seqs = await claim(base.pool, target.identity, starts)
    journal = None
    if settings.role in {"all", "ingest"}:
        appender = await base.stack.enter_async_context(open_appender(connection, topic, ends))
        journal = KafkaJournal(appender, codec, base.names, routing, first_seqs)
    poller = EndOffsetPoller(connection, topic, ends)
    base.supervisor.start("kafka", poller.run)
    retired = Segments(base.pool, RecentTicks(), slot=range(min(first_seqs.values())))
    await retired.load(min(first_seqs.values()))
    raw = RawTopic(connection, topic, target.identity, first_seqs)
    logs = KafkaLog(base.pool, raw, interpreter, poller, routing, retired, journal)
    parts = KafkaParts(connection, cluster, codec, first_seqs)
    waiting_seconds = journal.waiting_seconds if journal is not None else lambda: 0.0
    return LogParts(logs, journal, routing, retired, poller, waiting_seconds, parts)


async def _prepared(codec: Codec) -> None:
    """Have the codec ready; a schema registry that does not answer yet is waited for, for a while."""
    deadline = asyncio.get_running_loop().time() + _REGISTRY_SECONDS
    while True:
        try:
            return await asyncio.to_thread(codec.prepare)
        except Unavailable as fault:
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(f"SCHEMA_REGISTRY_URL: {fault}") from None
        await asyncio.sleep(1)


async def publishing_of(base: Foundation, kafka: KafkaParts) -> KafkaPublisher:
    """What publishes on the derived topics, started."""
    names = topics_of(base.settings)
    appenders = {}
    for kind, topic in (("ohlcv", names.ohlcv), ("analytics", names.analytics), ("signals", names.signals)):
        _, ends = await bounds_of(kafka.connection, topic, kafka.cluster.topics[topic].partitions)
        appenders[kind] = await base.stack.enter_async_context(open_appender(kafka.connection, topic, ends))

    def topic_of(encode: Callable[[pl.DataFrame], list[bytes]], kind: str) -> Topic:
        partitions = kafka.cluster.topics[getattr(names, kind)].partitions
        return Topic(appenders[kind], partitions, encode)

    publisher = KafkaPublisher(base.names, kafka.codec, base.spec, topic_of)
    base.supervisor.start("publish", publisher.run)
    return publisher


# The flow ---------------------------------------------------------------------------------------


async def flow_of(base: Foundation, log: LogParts) -> tuple[Pipeline, Shards]:
    """The pipeline, and the shards that may be worked on in it; none is yet."""
    publishes = base.settings.role in {"all", "process"} and log.kafka is not None
    publisher = await publishing_of(base, log.kafka) if publishes and log.kafka is not None else None
    pipeline = Pipeline(log.routing, ProviderClocks(base.names, log.routing, base.now), base.counters)
    await drop_other_states(base.pool, base.spec.tracks.values())
    tools = Tools(
        dsn=base.dsn,
        pool=base.pool,
        names=base.names,
        load_names=base.name_store.load,
        routing=log.routing,
        partitions=base.partitions,
        rule_ids=await base.signals.assign_ids(base.spec.rules.rules),
        spec=base.spec,
        counters=base.counters,
        now=base.now,
        publisher=publisher,
        redeliveries=base.redeliveries,
    )
    shards = Shards(tools, log.logs, pipeline, base.supervisor)
    base.stack.push_async_callback(shards.close)
    return pipeline, shards


def ingestion_of(base: Foundation, journal: Journal, pipeline: Pipeline) -> Ingestor:
    """The way into the log."""
    encoder = Encoder(base.name_store, FeedArbiter(standby=installed_providers().standby))
    return Ingestor(
        intake=Intake(encoder, base.redeliveries, timedelta(seconds=base.settings.future_seconds)),
        journal=journal,
        dead_letters=DeadLetters(base.pool, base.partitions),
        hand_on=pipeline.hand_on,
        counters=base.counters,
        now=base.now,
    )


# Reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readers:
    """Where the newest ticks and bars are found."""

    ticks: Callable[[int], TickSource]
    bars: Callable[[Interval, int | None], Awaitable[Rows]]


def readers_of(log: LogParts, pipeline: Pipeline, shards: Shards) -> Readers:
    """In the shards that are worked on here."""

    def ticks(symbol_id: int) -> TickSource:
        source = shards.owned[log.routing.of_symbol(symbol_id)].source
        first = source.external.first_seq if source.external is not None else 0
        return TickSource(source.segments, first, log.retired)

    return Readers(ticks, pipeline.bars_in_memory)


def follow_of(base: Foundation, log: LogParts, pipeline: Pipeline) -> Readers:
    """In what other processes store and publish, followed from now on."""
    kafka = log.kafka
    if kafka is None:
        raise CannotStart("STOCKPULSE_ROLE: api needs KAFKA_BOOTSTRAP_SERVERS")
    topic = base.settings.kafka_topic_ohlcv
    partitions = kafka.cluster.topics[topic].partitions
    bars = FollowedBars(partial(tail, kafka.connection, topic, partitions), kafka.codec, base.names)
    shards = {
        shard: FollowedShard(base.pool, base.names, first_seq) for shard, first_seq in sorted(kafka.first_seqs.items())
    }
    pipeline.clocks.shards |= shards
    base.supervisor.start("follow:bars", bars.run)
    base.supervisor.start("follow:ticks", lambda: follow_ticks(shards.values(), base.name_store))

    def ticks(symbol_id: int) -> TickSource:
        shard = shards[log.routing.of_symbol(symbol_id)]
        return TickSource(shard.segments, shard.first_seq, log.retired)

    return Readers(ticks, bars.in_memory)


# Sharing ----------------------------------------------------------------------------------------


def share_partitions(base: Foundation, kafka: KafkaParts, shards: Shards) -> None:
    """Work on this process's share of the partitions from now on."""
    settings, supervisor = base.settings, base.supervisor
    membership = Membership(kafka.connection, settings.kafka_topic_raw, settings.kafka_group)
    supervisor.start("names", lambda: follow_names(base.name_store))
    supervisor.start("group", membership.run)
    supervisor.start("shards", lambda: shards.share(lambda: membership.assigned, membership.changed))


async def remember_deliveries(base: Foundation, log: LogParts) -> None:
    """Know the newest ticks again, stored ones and those that are merely in the log, so that none comes in twice."""
    symbol_names = SymbolNames(base.names)
    for shard in log.logs.shards:
        source = await log.logs.open(shard)
        try:
            offset: int = await base.pool.fetchval("SELECT journal_offset FROM checkpoints WHERE shard = $1", shard)
            await source.segments.load(offset)
            await base.redeliveries.remember(symbol_names.keys(await source.remember()))
            end = await source.log.end()
            async for appended in source.log.replay(max(offset, end - LEAST_KEYS), end):
                if isinstance(appended.batch, Ticks):
                    await base.redeliveries.remember(symbol_names.keys(appended.batch.frame))
        finally:
            await source.close()
