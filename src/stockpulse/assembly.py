"""The parts, made from the settings and wired."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aiokafka.errors import KafkaError

from stockpulse.counters import Counters
from stockpulse.database.connect import Pool
from stockpulse.database.names import NameStore
from stockpulse.engine.analytics import Analytics
from stockpulse.engine.engine import Engine
from stockpulse.engine.shard import Shard
from stockpulse.engine.signals import Rule, Rules
from stockpulse.errors import CannotStart, OtherJournal
from stockpulse.expressions import parse
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.ingest.arbiter import FeedArbiter
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.intake import Intake
from stockpulse.ingest.redelivery import Redeliveries
from stockpulse.ingestion import Ingestion
from stockpulse.intervals import parse_interval
from stockpulse.journal.codecs import Codec
from stockpulse.journal.codecs.choice import choose
from stockpulse.journal.kafka.connection import KafkaConnection
from stockpulse.journal.kafka.journal import KafkaJournal, Watch, identity_of
from stockpulse.journal.kafka.reader import Interpreter, PartitionReader
from stockpulse.journal.kafka.topics import Cluster, NewTopics, TopicNames, cluster_with
from stockpulse.journal.postgres import PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.recorded import RecordEncoder
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.logs import EmbeddedLog, KafkaLog, LogParts
from stockpulse.names import Names
from stockpulse.ownership import Ownership, Tools
from stockpulse.pipeline import Pipeline
from stockpulse.presents import Presents
from stockpulse.settings import Settings
from stockpulse.store.claims import claim, other_than
from stockpulse.store.dead_letters import DeadLetters
from stockpulse.store.derived import drop_other_states
from stockpulse.store.partitions import Partitions
from stockpulse.store.signals import SignalStore
from stockpulse.store.ticks import TickSource
from stockpulse.supervisor import Supervisor

_BROKER_SECONDS: Final = 60.0
_BROKER_PAUSE: Final = 1.0


@dataclass(frozen=True)
class Foundation:
    """What all parts stand on."""

    settings: Settings
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


def engine_of(settings: Settings) -> Engine:
    """The engine of a shard, with nothing in it yet."""
    shard = Shard(lateness_micros=int(settings.lateness_seconds * 1_000_000), extended_day=settings.extended_day)
    stored = [Instance(one) for one in CATALOGUE.values() if set(one.outputs) <= set(STORED_INDICATORS)]
    rules = Rules([Rule(name, parse(rule.buy), parse(rule.sell)) for name, rule in settings.signal_rules.items()])
    return Engine(shard, Analytics(stored, rules, parse_interval(settings.signal_interval), shard.dates))


# The log ----------------------------------------------------------------------------------------


async def embedded_log(base: Foundation) -> LogParts:
    """The log inside the database, taken."""
    others = await other_than(base.pool, "postgres")
    if others:
        raise OtherJournal(others, "postgres")
    journal = PostgresJournal(base.dsn, Segments(base.pool, RecentTicks()))
    base.stack.push_async_callback(journal.close)
    await journal.take()
    return LogParts(EmbeddedLog(journal, base.redeliveries), journal, Routing(base.names), None)


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


async def cluster_of(settings: Settings, connection: KafkaConnection) -> Cluster:
    """The cluster with its topics; brokers that are not there yet are waited for, for a while."""
    new = NewTopics(settings.kafka_partitions, settings.kafka_replication, settings.kafka_retention_hours)
    deadline = asyncio.get_running_loop().time() + _BROKER_SECONDS
    while True:
        try:
            return await cluster_with(connection, topics_of(settings), new)
        except (KafkaError, OSError) as fault:
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(
                    f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {settings.kafka_bootstrap_servers}: {fault!r}"
                ) from None
        await asyncio.sleep(_BROKER_PAUSE)


async def kafka_log(base: Foundation) -> LogParts:
    """The log on Kafka."""
    settings, topic = base.settings, base.settings.kafka_topic_raw
    connection, codec = connection_of(settings), codec_of(settings)
    cluster = await cluster_of(settings, connection)
    await asyncio.to_thread(codec.prepare)
    partitions = cluster.topics[topic].partitions
    routing = Routing(base.names, partitions)
    interpreter = Interpreter(
        codec,
        RecordEncoder(base.name_store, settings.calendar),
        base.redeliveries,
        timedelta(seconds=settings.future_seconds),
        partitions,
    )
    identity = identity_of(cluster.id, topic, partitions)
    starts, ends = await _bounds(connection, topic, interpreter)
    first_seqs = await claim(base.pool, identity, starts)
    journal = KafkaJournal(connection, topic, codec, base.names, routing)
    journal.first_seqs = first_seqs
    base.stack.push_async_callback(journal.close)
    await journal.start(ends)
    watch = Watch(connection, topic, partitions)
    watch.ends = dict(ends)
    base.supervisor.start("kafka", watch.run)
    left = Segments(base.pool, RecentTicks(), slot=range(min(first_seqs.values())))
    await left.load(min(first_seqs.values()))
    logs = KafkaLog(base.pool, connection, topic, identity, first_seqs, interpreter, journal, watch)
    return LogParts(logs, journal, routing, left, watch, journal.waiting_seconds)


async def _bounds(
    connection: KafkaConnection, topic: str, interpreter: Interpreter
) -> tuple[dict[int, int], dict[int, int]]:
    """Where each partition begins and ends, as the topic counts."""
    starts, ends = {}, {}
    for partition in range(interpreter.partitions):
        reader = PartitionReader(connection, topic, partition, 0, interpreter)
        try:
            starts[partition], ends[partition] = await reader.bounds()
        finally:
            await reader.close()
    return starts, ends


# The flow ---------------------------------------------------------------------------------------


async def flow_of(base: Foundation, log: LogParts) -> tuple[Pipeline, Ownership]:
    """The pipeline, and the shards that may be worked on in it; none is yet."""
    pipeline = Pipeline(log.routing, Presents(base.names, log.routing, base.now), base.counters)
    analytics = engine_of(base.settings).analytics
    await drop_other_states(base.pool, analytics.tracks.values())
    tools = Tools(
        dsn=base.dsn,
        pool=base.pool,
        names=base.names,
        routing=log.routing,
        partitions=base.partitions,
        rule_ids=await base.signals.numbers(analytics.rules.rules),
        new_engine=lambda: engine_of(base.settings),
        counters=base.counters,
        now=base.now,
        extended_day=base.settings.extended_day,
    )
    ownership = Ownership(tools, log.logs, pipeline, base.supervisor)
    base.stack.push_async_callback(ownership.close)
    return pipeline, ownership


def ingestion_of(base: Foundation, log: LogParts, pipeline: Pipeline) -> Ingestion:
    """The way into the log."""
    encoder = Encoder(base.name_store, FeedArbiter(standby=["simulated"]))
    return Ingestion(
        intake=Intake(encoder, base.redeliveries, timedelta(seconds=base.settings.future_seconds)),
        journal=log.journal,
        dead_letters=DeadLetters(base.pool, base.partitions),
        hand_on=pipeline.hand_on,
        counters=base.counters,
        now=base.now,
    )


def source_of(log: LogParts, ownership: Ownership) -> Callable[[int], TickSource]:
    """Where the ticks of a symbol are found."""

    def find(symbol_id: int) -> TickSource:
        source = ownership.owned[log.routing.of_symbol(symbol_id)].source
        first = source.elsewhere.first_seq if source.elsewhere is not None else 0
        return TickSource(source.segments, first, log.left)

    return find
