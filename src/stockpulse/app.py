"""The composition root: builds, wires, starts and stops everything. `app` is for uvicorn."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

import structlog
from fastapi import FastAPI
from fastapi.middleware import Middleware
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

from stockpulse import __version__
from stockpulse.api import analytics, bars, data, docs, errors, health, signals, symbols, ticks
from stockpulse.api.context import Context
from stockpulse.api.metrics import PipelineCollector
from stockpulse.api.requests import RequestLog
from stockpulse.calendar import Calendar, trading_calendar
from stockpulse.compiler import Compiler
from stockpulse.counters import Counters
from stockpulse.database import migrate
from stockpulse.database.connect import TRANSIENT, Pool, create_pool, normal_dsn
from stockpulse.database.embedded import EmbeddedPostgres
from stockpulse.database.names import NameStore
from stockpulse.engine.analytics import Analytics
from stockpulse.engine.engine import Engine
from stockpulse.engine.shard import Shard
from stockpulse.engine.signals import Rule, Rules
from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.expressions import parse
from stockpulse.feeds import Backfill, follow
from stockpulse.housekeeping import audit, compile_indicators, retain, tend_segments
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.ingest.arbiter import FeedArbiter
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.intake import Intake
from stockpulse.ingest.redelivery import Redeliveries
from stockpulse.ingestion import Ingestion
from stockpulse.intervals import parse_interval
from stockpulse.journal.postgres import SHARD, PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.routing import Routing
from stockpulse.journal.segments import Segments
from stockpulse.names import Names
from stockpulse.pipeline import Pipeline
from stockpulse.presents import Presents
from stockpulse.processing import Processing
from stockpulse.providers.base import Provider
from stockpulse.providers.simulated import SimulatedProvider
from stockpulse.settings import Settings, load_settings
from stockpulse.store.analytics import AnalyticsReader
from stockpulse.store.bars import BarReader
from stockpulse.store.dead_letters import DeadLetters
from stockpulse.store.derived import DerivedWriter, drop_old_states, drop_other_states
from stockpulse.store.engine_reads import EngineReads
from stockpulse.store.partitions import Partitions
from stockpulse.store.run_log import RunLog
from stockpulse.store.screening import Screener
from stockpulse.store.signals import SignalStore
from stockpulse.store.sink import Sink
from stockpulse.store.ticks import TickReader
from stockpulse.supervisor import State, Supervisor
from stockpulse.telemetry import RequestMetrics, configure_logging

_AWAY: Final[tuple[type[BaseException], ...]] = (*TRANSIENT, DBAPIError)
_REQUEST_SECONDS: Final = 4
_DRAIN_SECONDS: Final = 6.0
_FLOW: Final = ("number", "append", "step", "flush", "postgres")
"""Where one of these has failed, waiting for the others is of no use."""

_MEMORY_ROWS: Final = 300_000
"""An open segment with more ticks is sealed at a restart, rather than read back into memory."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def database_of(settings: Settings, supervisor: Supervisor | None = None) -> AsyncIterator[str]:
    """The address of the database: the one that is set, or the embedded one, running as long as this lasts."""
    if settings.database_url is not None:
        yield normal_dsn(settings.database_url.get_secret_value())
        return
    server = EmbeddedPostgres(settings.data_dir)
    try:
        await server.start()
        if supervisor is not None:
            supervisor.start("postgres", server.watch)
        yield server.dsn
    finally:
        if supervisor is not None:
            await supervisor.stop(["postgres"])
        await server.stop()


@asynccontextmanager
async def running(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[Context]:
    """Everything but HTTP, from the recovered state to the last flush."""
    supervisor = Supervisor(TRANSIENT)
    async with AsyncExitStack() as stack:
        # Loading a calendar takes a second, in which the database starts as well.
        calendar = asyncio.create_task(asyncio.to_thread(trading_calendar, settings.calendar))
        dsn = await stack.enter_async_context(database_of(settings, supervisor))
        await _check(settings, dsn, calendar)
        pool = await create_pool(dsn, settings.database_pool)
        stack.push_async_callback(_close, pool)
        context = await _build(settings, dsn, pool, supervisor, registry, stack)
        stack.push_async_callback(_stop, context)
        _start(settings, context)
        yield context


async def _check(settings: Settings, dsn: str, calendar: Awaitable[Calendar]) -> None:
    """See to the schema and the calendar, or say what to change."""
    try:
        await (migrate.upgrade(dsn) if settings.database_url is None else migrate.require_current(dsn))
    except _AWAY as fault:
        raise CannotStart(f"the database does not answer: {type(fault).__name__}: {fault}") from None
    try:
        await calendar
    except InvalidInput as wrong:
        raise CannotStart(f"STOCKPULSE_CALENDAR: {wrong}") from None


async def _build(
    settings: Settings,
    dsn: str,
    pool: Pool,
    supervisor: Supervisor,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> Context:
    """The parts, wired, with the state of the last run."""
    names = Names()
    name_store = NameStore(pool, names)
    await name_store.load()
    segments = Segments(pool, RecentTicks())
    journal = PostgresJournal(dsn, segments)
    stack.push_async_callback(journal.close)
    await journal.take()
    await journal.load_open_segment(_MEMORY_ROWS)
    partitions = Partitions(pool)
    engine = _engine(settings)
    signal_store = SignalStore(pool)
    rules = await signal_store.numbers(engine.analytics.rules.rules)
    sink = Sink(dsn, partitions, DerivedWriter(engine.analytics, rules), SHARD, journal.identity)
    stack.push_async_callback(sink.close)
    checkpoint = await sink.take(journal.epoch, journal.head)
    redeliveries = Redeliveries()
    redeliveries.remember(await journal.recent_keys())
    encoder = Encoder(name_store, FeedArbiter(standby=["simulated"]))
    intake = Intake(encoder, redeliveries, timedelta(seconds=settings.future_seconds))
    if engine.restore(checkpoint.offset, checkpoint.parts):
        sink.begin_anew()
    engine.begin(names.symbol_by_id)
    await drop_other_states(pool, engine.analytics.tracks.values())
    routing, counters = Routing(names), Counters()
    pipeline = Pipeline(routing, Presents(names, routing, _now), counters)
    processing = Processing(
        shard_log=journal,
        engine=engine,
        sink=sink,
        reads=EngineReads(pool),
        names=names,
        counters=counters,
        now=_now,
        extended_day=settings.extended_day,
    )
    pipeline.add(SHARD, processing)
    pipeline.ingestion = Ingestion(
        intake=intake,
        journal=journal,
        dead_letters=DeadLetters(pool, partitions),
        hand_on=pipeline.hand_on,
        counters=counters,
        now=_now,
    )
    registry.register(PipelineCollector(pipeline, segments, supervisor))
    await processing.recover()
    runs = RunLog(pool)

    async def drop_states(now: datetime) -> int:
        return sum([await drop_old_states(pool, track, now) for track in engine.analytics.tracks.values()])

    compiler = Compiler(settings.cache_dir / "loops")
    supervisor.start("compiler", lambda: compile_indicators(compiler, engine.analytics))
    supervisor.start("segments", lambda: tend_segments(segments))
    supervisor.start("retention", lambda: retain(segments, partitions, drop_states, runs, lambda: sink.offset, _now))
    supervisor.start("audit", lambda: audit(pipeline, runs, _now))
    bar_reader = BarReader(pool, names, pipeline.bars_in_memory, extended_day=settings.extended_day)
    return Context(
        pool=pool,
        names=names,
        pipeline=pipeline,
        presents=pipeline.presents,
        ticks=TickReader(pool, segments, names),
        bars=bar_reader,
        analytics=AnalyticsReader(pool, bar_reader, compiler),
        signals=signal_store,
        screener=Screener(bar_reader, names, compiler),
        supervisor=supervisor,
        registry=registry,
        now=_now,
        default_calendar=settings.calendar,
        durable_timeout_seconds=settings.durable_timeout_seconds,
    )


def _engine(settings: Settings) -> Engine:
    """The engine, with nothing in it yet."""
    shard = Shard(lateness_micros=int(settings.lateness_seconds * 1_000_000), extended_day=settings.extended_day)
    stored = [Instance(one) for one in CATALOGUE.values() if set(one.outputs) <= set(STORED_INDICATORS)]
    rules = Rules([Rule(name, parse(rule.buy), parse(rule.sell)) for name, rule in settings.signal_rules.items()])
    return Engine(shard, Analytics(stored, rules, parse_interval(settings.signal_interval), shard.dates))


def _start(settings: Settings, context: Context) -> None:
    """Start the flow, from its end to its beginning."""
    pipeline, supervisor = context.pipeline, context.supervisor
    for processing in pipeline.shards.values():
        supervisor.start("flush", processing.flush)
        supervisor.start("step", processing.step)
    if pipeline.ingestion is not None:
        supervisor.start("append", pipeline.ingestion.append)
        supervisor.start("number", pipeline.ingestion.number)
    provider = _provider(settings)
    if provider is not None:
        supervisor.start(f"feed:{provider.name}", lambda: _feed(provider, settings, context))


async def _feed(provider: Provider, settings: Settings, context: Context) -> None:
    """Fill what is missing of the history, then follow the stream."""
    runs, started = RunLog(context.pool), _now()
    backfill = Backfill(provider, context.pipeline, context.bars, context.names)
    count = await backfill.run(settings.symbols, started)
    if count:
        await runs.record(f"backfill:{provider.name}", count, started, _now())
        log.info("history filled", provider=provider.name, bars=count, seconds=(_now() - started).total_seconds())
    await follow(provider, context.pipeline)


async def _stop(context: Context) -> None:
    """Stop in the order of the flow: no more intake, drain, last flush, the rest."""
    supervisor = context.supervisor
    feeds = [name for name in supervisor.health if name.startswith("feed:")]
    await supervisor.stop(feeds)
    flows = not any(supervisor.health[name].state is State.FAILED for name in _FLOW if name in supervisor.health)
    drained = flows and await context.pipeline.drain(_DRAIN_SECONDS)
    flushed = flows and await supervisor.wait("flush", _DRAIN_SECONDS)
    if not (drained and flushed):
        log.warning("stopping with work left, the next start does it", lag=asdict(context.pipeline.lag()))
    await supervisor.stop([name for name in reversed(list(supervisor.health)) if name != "postgres"])
    log.info("stopped", lag=asdict(context.pipeline.lag()))


async def _close(pool: Pool) -> None:
    try:
        async with asyncio.timeout(3):
            await pool.close()
    except TimeoutError:
        pool.terminate()


def _provider(settings: Settings) -> Provider | None:
    if settings.provider == "none" or not settings.symbols:
        return None
    return SimulatedProvider(settings.symbols, settings.simulated_rate * len(settings.symbols), settings.simulated_seed)


def _now() -> datetime:
    return datetime.now(UTC)


# HTTP -------------------------------------------------------------------------------------------


class AppState(TypedDict):
    """What the lifespan hands to the requests."""

    context: Context


def create_app(settings: Settings) -> FastAPI:
    """The application. Nothing is started before its lifespan."""
    registry = CollectorRegistry()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[AppState]:
        # uvicorn has configured logging by now; from here on the lines are ours.
        configure_logging(settings.log_format, debug=settings.debug)
        _stop_without_slow_clients()
        try:
            async with running(settings, registry) as context:
                yield {"context": context}
                failed = context.supervisor.failed
        except CannotStart as refusal:
            _say_plainly(refusal)
            raise
        if not failed:
            _end_with_status_zero()

    app = FastAPI(
        title=settings.app_name,
        version=__version__,
        summary="Live and historical prices, bars, indicators and signals.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        middleware=[Middleware(RequestLog, metrics=RequestMetrics(registry))],
    )
    errors.install(app)
    docs.install(app)
    for part in (health, symbols, ticks, bars, data, analytics, signals):
        app.include_router(part.router, prefix="/api/v1")
        # The paths that people know from elsewhere work as well.
        for prefix in ("/api", ""):
            app.include_router(part.router, prefix=prefix, include_in_schema=False)
    return app


def _say_plainly(refusal: CannotStart) -> None:
    """One line that says what to change, instead of uvicorn's traceback."""
    log.critical("cannot start", reason=str(refusal))
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Traceback" not in record.getMessage())


def _stop_without_slow_clients() -> None:
    """A stop waits for requests under way, but for ever only where somebody has set that.

    Otherwise a client that does not send the rest of its body would hold the process.
    """
    config: Any = getattr(_server(), "config", None)
    if getattr(config, "timeout_graceful_shutdown", 0) is None:
        config.timeout_graceful_shutdown = _REQUEST_SECONDS


def _end_with_status_zero() -> None:
    """A stop that went well ends the process with status 0.

    uvicorn raises the signal that stopped it once more at the very end, which would make it 143. It has no
    setting for that.
    """
    captured = getattr(_server(), "_captured_signals", None)
    if isinstance(captured, list) and signal.SIGINT not in captured:
        captured.clear()


def _server() -> Any:
    """The server of uvicorn, as the owner of the handler; None when something else runs the app."""
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def _app_for_uvicorn() -> FastAPI:
    try:
        return create_app(load_settings())
    except CannotStart as refusal:
        sys.exit(f"stockpulse: {refusal}")


def __getattr__(name: str) -> FastAPI:
    """`app` is made when uvicorn asks for it, so that importing this module reads no environment."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = app = _app_for_uvicorn()
    return app
