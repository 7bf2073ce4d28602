"""The composition root: builds, wires, starts and stops everything. `app` is for uvicorn."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypedDict

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

from stockpulse import __version__
from stockpulse.aio.supervisor import State, Supervisor
from stockpulse.api import analytics, bars, data, dead_letters, docs, error_responses, health, signals, symbols, ticks
from stockpulse.api.context import Context
from stockpulse.api.metrics import PipelineCollector
from stockpulse.api.request_log import RequestLog
from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.indicators.compiler import Compiler
from stockpulse.journal.backends import LogParts
from stockpulse.journal.kafka.connection import KAFKA_TRANSIENT
from stockpulse.journal.segments import Segments
from stockpulse.market.calendar import Calendar, trading_calendar
from stockpulse.node.maintenance import audit, compile_indicators, retain, tend_segments
from stockpulse.node.parts import (
    Foundation,
    embedded_log,
    flow_of,
    follow_of,
    foundation_of,
    ingestion_of,
    kafka_log,
    readers_of,
    remember_deliveries,
    share_partitions,
)
from stockpulse.pipeline.live_feed import Backfill, follow
from stockpulse.pipeline.shards import Shards
from stockpulse.postgres import migrate
from stockpulse.postgres.connect import TRANSIENT, Pool, create_pool, normal_dsn
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.providers.base import Capabilities, Provider, ProviderConfig
from stockpulse.providers.registry import NO_PROVIDER, installed_providers
from stockpulse.settings import Settings, load_settings
from stockpulse.storage.analytics_reader import AnalyticsReader
from stockpulse.storage.analytics_writer import drop_old_states
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.dead_letters import DeadLetterStore
from stockpulse.storage.run_log import RunLog
from stockpulse.storage.screener import Screener
from stockpulse.storage.tick_reader import TickReader
from stockpulse.telemetry.logs import RequestMetrics, configure_logging

_AWAY: Final[tuple[type[BaseException], ...]] = (*TRANSIENT, DBAPIError)
_REQUEST_SECONDS: Final = 4
_DRAIN_SECONDS: Final = 6.0
_FLOW: Final = ("assign_ids", "append", "step", "flush", "postgres")
"""Where one of these has failed, waiting for the others is of no use."""

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
        if supervisor is None:
            yield server.dsn
        else:
            async with supervisor.running("postgres", server.watch):
                yield server.dsn
    finally:
        await server.stop()


async def _build(base: Foundation, registry: CollectorRegistry) -> Context:
    """The parts of this role, wired, with the state of the last run."""
    settings, role = base.settings, base.settings.role
    log_parts = await (kafka_log(base) if settings.kafka_bootstrap_servers else embedded_log(base))
    pipeline, shards = await flow_of(base, log_parts)
    registry.register(PipelineCollector(pipeline, base.supervisor))
    compiler = Compiler(settings.cache_dir / "loops")
    if role == "all":
        await shards.take_all(log_parts.logs.shards)
    if role in {"all", "process"}:
        _keep_house(base, log_parts, shards)
    if role != "ingest":
        base.supervisor.start("compiler", lambda: compile_indicators(compiler, base.spec, shards.use))
    if log_parts.journal is not None:
        if role == "ingest":
            await remember_deliveries(base, log_parts)
        pipeline.ingestor = ingestion_of(base, log_parts.journal, pipeline)
        base.supervisor.start("audit", lambda: audit(pipeline, RunLog(base.pool), _now))
    if role == "process" and log_parts.kafka is not None:
        share_partitions(base, log_parts.kafka, shards)
    readers = follow_of(base, log_parts, pipeline) if role == "api" else readers_of(log_parts, pipeline, shards)
    bar_reader = BarReader(base.pool, base.names, readers.bars, extended_day=settings.extended_day)
    return Context(
        pool=base.pool,
        names=base.names,
        pipeline=pipeline,
        clocks=pipeline.clocks,
        ticks=TickReader(base.pool, base.names, readers.ticks),
        bars=bar_reader,
        analytics=AnalyticsReader(base.pool, bar_reader, compiler),
        signals=base.signals,
        screener=Screener(bar_reader, base.names, compiler),
        supervisor=base.supervisor,
        registry=registry,
        now=_now,
        default_calendar=settings.calendar,
        durable_timeout_seconds=settings.durable_timeout_seconds,
        future_seconds=settings.future_seconds,
        dead_letters=DeadLetterStore(base.pool),
        shards=shards,
        log=log_parts,
        needs_kafka=role != "api",
    )


def _keep_house(base: Foundation, log_parts: LogParts, shards: Shards) -> None:
    """Start what has to be done once, or now and then."""
    runs, supervisor = RunLog(base.pool), base.supervisor

    def segments() -> list[tuple[Segments, int]]:
        """Those of the shards that are worked on here, each with its checkpoint; those of retired logs, all."""
        retired = [(log_parts.retired, log_parts.retired.open)] if log_parts.retired is not None else []
        return retired + [(one.source.segments, one.sink.offset) for one in shards.owned.values()]

    async def drop_states(now: datetime) -> int:
        return sum([await drop_old_states(base.pool, track, now) for track in base.spec.tracks.values()])

    supervisor.start("segments", lambda: tend_segments(segments))
    supervisor.start("retention", lambda: retain(segments, base.partitions, drop_states, runs, _now))


@asynccontextmanager
async def running(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[Context]:
    """Everything but HTTP, from the recovered state to the last flush."""
    _check_role(settings)
    supervisor = Supervisor((*TRANSIENT, *KAFKA_TRANSIENT))
    async with AsyncExitStack() as stack:
        # Loading a calendar takes a second, in which the database starts as well.
        calendar = asyncio.create_task(asyncio.to_thread(trading_calendar, settings.calendar))
        dsn = await stack.enter_async_context(database_of(settings, supervisor))
        await _check(settings, dsn, calendar)
        context = await _build(await _founded(settings, dsn, supervisor, stack), registry)
        stack.push_async_callback(_stop, context)
        _start(settings, context)
        yield context


async def _founded(settings: Settings, dsn: str, supervisor: Supervisor, stack: AsyncExitStack) -> Foundation:
    pool = await create_pool(dsn, settings.database_pool)
    stack.push_async_callback(_close, pool)
    return await foundation_of(settings, dsn, pool, supervisor, stack, _now)


@asynccontextmanager
async def foundation(settings: Settings) -> AsyncIterator[Foundation]:
    """What the parts stand on, without any of them: for what is done while no server runs."""
    supervisor = Supervisor((*TRANSIENT, *KAFKA_TRANSIENT))
    async with AsyncExitStack() as stack:
        calendar = asyncio.create_task(asyncio.to_thread(trading_calendar, settings.calendar))
        dsn = await stack.enter_async_context(database_of(settings, supervisor))
        await _check(settings, dsn, calendar)
        base = await _founded(settings, dsn, supervisor, stack)
        yield base
        await supervisor.stop([name for name in reversed(list(supervisor.health)) if name != "postgres"])


def _check_role(settings: Settings) -> None:
    """Several processes need a log and a database that they have in common."""
    if settings.role == "all":
        return
    for value, name in (
        (settings.kafka_bootstrap_servers, "KAFKA_BOOTSTRAP_SERVERS"),
        (settings.database_url, "DATABASE_URL"),
    ):
        if value is None:
            raise CannotStart(f"STOCKPULSE_ROLE: got {settings.role!r}, which needs {name}")


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


def _start(settings: Settings, context: Context) -> None:
    """Start the flow, from its end to its beginning."""
    pipeline, supervisor = context.pipeline, context.supervisor
    for shard in context.shards.owned:
        context.shards.start(shard)
    if pipeline.ingestor is None:
        return
    ingestor = pipeline.ingestor
    supervisor.start("append", ingestor.append, lag=lambda: ingestor.lag()[1])
    supervisor.start("assign_ids", ingestor.assign_ids, lag=lambda: ingestor.lag()[0])
    if settings.provider != NO_PROVIDER and settings.symbols:
        entry = installed_providers().named(settings.provider)
        provider = entry.create(ProviderConfig(settings.symbols, settings.simulated_rate, settings.simulated_seed))
        feed = partial(_feed, provider, entry.capabilities, settings, context)
        supervisor.start(f"feed:{provider.name}", feed, stage="feed", transient=entry.transient)


async def _feed(provider: Provider, has: Capabilities, settings: Settings, context: Context) -> None:
    """Fill what is missing of the provider's history, then follow its stream."""
    runs = RunLog(context.pool)
    if has.history:
        await _fill_history(provider, settings, context, runs)
    if has.ticks:
        await follow(provider, context.pipeline, runs, _now)


async def _fill_history(provider: Provider, settings: Settings, context: Context, runs: RunLog) -> None:
    started = _now()
    backfill = Backfill(provider, context.pipeline, context.bars, context.names)
    count = await backfill.run(settings.symbols, started)
    if count:
        await runs.record(f"backfill:{provider.name}", count, started, _now())
        log.info("history filled", provider=provider.name, bars=count, seconds=(_now() - started).total_seconds())


async def _stop(context: Context) -> None:
    """Stop in the order of the flow: no more intake, drain, last flush, the rest."""
    supervisor = context.supervisor
    await supervisor.stop(list(supervisor.of_stage("feed")))
    flows = not any(task.state is State.FAILED for task in supervisor.of_stage(*_FLOW).values())
    drained = flows and await context.pipeline.drain(_DRAIN_SECONDS)
    flushes = supervisor.of_stage("flush")
    flushed = flows and all(await asyncio.gather(*[supervisor.wait(name, _DRAIN_SECONDS) for name in flushes]))
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


def _now() -> datetime:
    return datetime.now(UTC)


# HTTP -------------------------------------------------------------------------------------------


_READING: Final = (symbols, ticks, bars, data, analytics, signals, dead_letters)
_ROUTERS: Final[dict[str, tuple[APIRouter, ...]]] = {
    "all": (health.router, ticks.intake, dead_letters.retries, *(part.router for part in _READING)),
    "ingest": (health.router, ticks.intake, dead_letters.router, dead_letters.retries),
    "process": (health.router,),
    "api": (health.router, *(part.router for part in _READING)),
}
"""What is answered in each role."""


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
    error_responses.install(app)
    docs.install(app)
    for part in _ROUTERS[settings.role]:
        app.include_router(part, prefix="/api/v1")
        # The paths that people know from elsewhere work as well.
        for prefix in ("/api", ""):
            app.include_router(part, prefix=prefix, include_in_schema=False)
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
