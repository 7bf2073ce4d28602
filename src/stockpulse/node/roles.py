"""The roles of a process: each function lists the parts of one role and starts their tasks."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from prometheus_client import CollectorRegistry

from stockpulse.api.budget import budget_of
from stockpulse.api.context import Context
from stockpulse.api.metrics import BackfillCollector, FeedCollector, PipelineCollector, StreamCollector
from stockpulse.indicators.compiler import Compiler
from stockpulse.journal.kafka.group import Membership
from stockpulse.node.backfill import build_backfills, start_backfill
from stockpulse.node.feeds import start_feeds
from stockpulse.node.machine_memory import MEGABYTE, default_request_memory_mb
from stockpulse.node.maintenance import start_audit, start_compiler, start_maintenance
from stockpulse.node.node import Node
from stockpulse.node.parts import (
    NewestData,
    build_ingestor,
    follow_newest,
    newest_of_shards,
    open_publisher,
    open_shards,
    remember_deliveries,
)
from stockpulse.node.stopping import drained_at_the_end
from stockpulse.node.stream import WITHOUT_SIGNALS, Stream, build_stream, start_stream
from stockpulse.pipeline.calendar_loading import CalendarLoading
from stockpulse.pipeline.followed_shard import follow_names
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.job_runner import JobRunner
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.settings import Settings
from stockpulse.storage.analytics_reader import AnalyticsReader
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.dead_letters import DeadLetterStore
from stockpulse.storage.polling_jobs import PollingJobs
from stockpulse.storage.screener import Screener
from stockpulse.storage.second_bars import SecondBars
from stockpulse.storage.signals import SignalStore
from stockpulse.storage.tick_reader import TickReader

_ANSWER_SECONDS: Final = 5.0
"""The time that a request that reads waits for room for its answer."""


@asynccontextmanager
async def run_all(node: Node, registry: CollectorRegistry) -> AsyncIterator[Context]:
    """Take ticks, process every shard, answer requests."""
    clocks, stream = _clocks(node), build_stream(node)
    async with open_publisher(node) as publisher, open_shards(node, clocks, *publisher, stream.hub) as shards:
        compiler = start_compiler(node, shards)
        await shards.take_all(node.log.logs.shards)
        pipeline = Pipeline(build_ingestor(node, node.log.appended, shards), shards, clocks, node.counters)
        start_maintenance(node, shards)
        start_audit(node, pipeline)
        _load_calendars(node)
        newest = newest_of_shards(node, shards)
        context = _context(node, registry, pipeline, newest, compiler, stream)
        start_stream(node, stream, newest, context)
        async with drained_at_the_end(node, pipeline):
            for shard in shards.owned:
                shards.start(shard)
            _start_intake(node, pipeline)
            start_feeds(node, pipeline)
            start_backfill(node, context.required_backfills)
            node.tasks.start("jobs", context.required_runner.run)
            yield context


@asynccontextmanager
async def run_ingest(node: Node, registry: CollectorRegistry) -> AsyncIterator[Context]:
    """Take ticks into a log on Kafka."""
    clocks = _clocks(node)
    async with open_shards(node, clocks) as shards:
        await remember_deliveries(node)
        pipeline = Pipeline(build_ingestor(node, node.log.appended, shards), shards, clocks, node.counters)
        start_audit(node, pipeline)
        context = _context(node, registry, pipeline, newest_of_shards(node, shards), _compiler(node))
        async with drained_at_the_end(node, pipeline):
            _start_intake(node, pipeline)
            start_feeds(node, pipeline)
            start_backfill(node, context.required_backfills)
            node.tasks.start("jobs", context.required_runner.run)
            yield context


@asynccontextmanager
async def run_process(node: Node, registry: CollectorRegistry) -> AsyncIterator[Context]:
    """Process this process's share of the partitions."""
    clocks, kafka, settings = _clocks(node), node.log.required_kafka, node.settings
    async with open_publisher(node) as publisher, open_shards(node, clocks, *publisher) as shards:
        pipeline = Pipeline(None, shards, clocks, node.counters)
        compiler = start_compiler(node, shards)
        start_maintenance(node, shards)
        _load_calendars(node)
        membership = Membership(kafka.connection, settings.kafka_topic_raw, settings.kafka_group)
        context = _context(node, registry, pipeline, newest_of_shards(node, shards), compiler)
        async with drained_at_the_end(node, pipeline):
            node.tasks.start("names", lambda: follow_names(node.database.name_store))
            node.tasks.start("group", membership.run)
            node.tasks.start("shards", lambda: shards.share(lambda: membership.assigned, membership.changed))
            yield context


@asynccontextmanager
async def run_api(node: Node, registry: CollectorRegistry) -> AsyncIterator[Context]:
    """Answer requests from the data that other processes store and publish."""
    clocks, stream = _clocks(node), build_stream(node, WITHOUT_SIGNALS)
    async with open_shards(node, clocks) as shards:
        pipeline = Pipeline(None, shards, clocks, node.counters)
        compiler = start_compiler(node, shards)
        _load_calendars(node)
        newest = follow_newest(node, clocks, stream.hub)
        context = _context(node, registry, pipeline, newest, compiler, stream)
        start_stream(node, stream, newest, context)
        yield context


Role = Callable[[Node, CollectorRegistry], AbstractAsyncContextManager[Context]]

ROLES: Final[dict[str, Role]] = {"all": run_all, "ingest": run_ingest, "process": run_process, "api": run_api}


def _clocks(node: Node) -> ProviderClocks:
    return ProviderClocks(node.database.names, node.log.routing, node.timing.now)


def _start_intake(node: Node, pipeline: Pipeline) -> None:
    ingestor = pipeline.intake
    node.tasks.start("append", ingestor.append, lag=lambda: ingestor.lag()[1])
    node.tasks.start("assign_ids", ingestor.assign_ids, lag=lambda: ingestor.lag()[0])


def _request_memory(settings: Settings) -> int:
    megabytes = settings.request_memory_mb
    return (default_request_memory_mb() if megabytes is None else megabytes) * MEGABYTE


def _load_calendars(node: Node) -> None:
    """Load the calendars of all symbols in the background, so that later requests do not wait for them."""
    node.tasks.start("calendars", CalendarLoading(node.database.names).load_all)


def _job_runner(node: Node, ingestor: Ingestor) -> JobRunner:
    database = node.database
    return JobRunner(PollingJobs(database.pool), node.sources, node.prices, ingestor, database.dsn, node.timing.now)


def _compiler(node: Node) -> Compiler:
    return Compiler(node.settings.cache_dir / "loops")


def _context(
    node: Node,
    registry: CollectorRegistry,
    pipeline: Pipeline,
    newest: NewestData,
    compiler: Compiler,
    stream: Stream | None = None,
) -> Context:
    """Return the context of the routes; without a `stream`, their hub stays silent."""
    settings, readers, names = node.settings, node.database.readers, node.database.names
    hub = (stream or build_stream(node)).hub
    registry.register(PipelineCollector(pipeline, node.tasks))
    registry.register(StreamCollector(hub))
    registry.register(FeedCollector(node.feeds))
    bars = BarReader(readers, names, newest.bars, extended_day=settings.extended_day)
    ticks = TickReader(readers, names, newest.ticks)
    backfills = None if pipeline.ingestor is None else build_backfills(node, pipeline, bars)
    if backfills is not None:
        registry.register(BackfillCollector(backfills))
    return Context(
        pool=node.database.pool,
        budget=budget_of(_request_memory(settings), _ANSWER_SECONDS, settings.durable_timeout_seconds),
        disk=node.database.disk,
        pulse=node.database.pulse,
        names=names,
        pipeline=pipeline,
        clocks=pipeline.clocks,
        ticks=ticks,
        bars=bars,
        second_bars=SecondBars(bars, ticks, names, node.spec.lateness_micros),
        analytics=AnalyticsReader(readers, bars, compiler),
        signals=SignalStore(readers),
        screener=Screener(bars, names, compiler),
        supervisor=node.tasks,
        compiler=compiler,
        registry=registry,
        now=node.timing.now,
        default_calendar=settings.calendar,
        durable_timeout_seconds=settings.durable_timeout_seconds,
        future_seconds=settings.future_seconds,
        dead_letters=DeadLetterStore(readers),
        shards=pipeline.shards,
        feeds=node.feeds,
        sources=node.sources,
        prices=node.prices,
        runner=None if pipeline.ingestor is None else _job_runner(node, pipeline.ingestor),
        log=node.log,
        needs_kafka=settings.role != "api",
        hub=hub,
        backfills=backfills,
    )
