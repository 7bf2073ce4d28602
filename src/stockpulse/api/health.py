"""The state of the process and the progress of its parts."""

from datetime import datetime
from typing import Final

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from stockpulse import __version__
from stockpulse.aio.steady_clock import SteadyClock
from stockpulse.aio.supervisor import State, TaskHealth
from stockpulse.api.backfill import Backfill, report_of
from stockpulse.api.connections.open_connections import OpenConnections
from stockpulse.api.context import Connections, Metrics, Process, Vitals
from stockpulse.api.error_responses import error_responses
from stockpulse.api.feed_report import FeedReport, feed_reports
from stockpulse.errors import DiskFull, Unavailable
from stockpulse.pipeline.shard_processor import ShardProcessor

router = APIRouter(tags=["health"])

_SLOW_SECONDS: Final = 5.0
_SILENT_SECONDS: Final = 3.0
_CLOCK_SECONDS: Final = 1.0


class TaskReport(BaseModel):
    """A background task."""

    state: str = Field(examples=["running"], description="running, restarting, done, failed or stopped")
    lag: int | None = Field(description="rows that wait for the task; null if the task has no queue")
    restarts: int = Field(examples=[0])
    last_error: str | None = None


class AnalyticsReport(BaseModel):
    """The progress of the indicators."""

    compiled: bool = Field(examples=[True], description="false for about a minute after the very first start")
    behind: int = Field(
        examples=[0],
        description="symbols whose indicators are still being calculated, counted once for each interval",
    )


class ShardReport(BaseModel):
    """The progress of a shard; on Kafka, a shard is a partition."""

    offset: int = Field(examples=[4194304], description="the `seq` of the next record to process")
    unprocessed: int = Field(examples=[0], description="records that wait to be processed")
    unflushed: int = Field(examples=[12], description="processed records, bars and indicators that wait to be stored")
    storing_seconds: float = Field(
        examples=[0.012],
        description="duration of the current flush so far, in seconds; above 5, `status` is degraded",
    )
    behind_seconds: float = Field(
        examples=[0.4],
        description="seconds since the oldest unstored record was appended; above 5, `status` is degraded",
    )


class DiskReport(BaseModel):
    """The disk of the database."""

    path: str | None = Field(examples=["/srv/stockpulse"], description="null if the database is not the embedded one")
    free_bytes: int | None = Field(examples=[72_000_000_000], description="null for a database on another machine")
    missing_bytes: int | None = Field(
        examples=[0], description="bytes that must become free; 0 if there is room; null if the number is unknown"
    )
    fault: str | None = Field(
        None,
        examples=["the disk of the database is full: could not extend file"],
        description="the reason why the server accepts no ticks; null if there is room",
    )


class ClockReport(BaseModel):
    """The clock of the process, which returns to the machine's at double or half speed after a step."""

    behind_seconds: float = Field(
        examples=[0.0], description="seconds behind the machine's clock; negative if ahead; above 1: degraded"
    )
    last_step_seconds: float | None = Field(
        examples=[-3600.0], description="seconds by which the machine's clock was set; negative if back; or null"
    )
    last_step_at: datetime | None = Field(examples=["2026-11-24T15:00:00Z"])


class ConnectionReport(BaseModel):
    """The connections of the server."""

    open: int = Field(examples=[12])
    limit: int = Field(
        examples=[4096], description="the most open connections, as far as the limit on open files allows"
    )
    limit_per_peer: int = Field(examples=[1024])
    closed: dict[str, int] = Field(
        examples=[{"header_size": 0, "per_peer": 3}],
        description="connections that were refused or closed at a limit since the start, by reason",
    )
    fault: str | None = Field(
        None,
        examples=["the server is not uvicorn"],
        description="the reason why the limits do not hold; null if they hold",
    )


class CorrectionReport(BaseModel):
    """Corrections and cancels of trades since the start."""

    accepted: int = Field(examples=[12], description="corrections and cancels that this process has accepted")
    without_trade: int = Field(
        examples=[0], description="those whose trade is not stored: it never arrived, or it is no longer kept"
    )
    bars_not_corrected: int = Field(
        examples=[0], description="bars that stay unchanged, because the database no longer has all their ticks"
    )


class Health(BaseModel):
    """The state of the process."""

    status: str = Field(examples=["ok"], description="ok, or degraded while a part does not work")
    db: str = Field(examples=["ok"], description="ok, or down")
    kafka: str | None = Field(examples=["ok"], description="ok, or down; null if the log is in the database")
    disk: DiskReport
    clock: ClockReport | None
    cache: str = Field(
        examples=["ok"],
        description="ok, or the reason why compiled indicators are not kept for the next start; all works without it",
    )
    connections: ConnectionReport
    tasks: dict[str, TaskReport]
    feeds: dict[str, FeedReport] = Field(description="the live feeds of this process, by provider")
    backfills: list[Backfill] = Field(description="backfills that have not ended")
    analytics: AnalyticsReport
    held_back: int = Field(
        examples=[0],
        description="number of rows of large batches that wait before the log; live ticks go first while much is"
        " to be stored",
    )
    corrections: CorrectionReport
    shards: dict[int, ShardReport] = Field(description="the shards of this process, by number")


class Readiness(BaseModel):
    """The readiness of the process."""

    status: str = Field(examples=["ready"])


class Version(BaseModel):
    """The name and version of the server."""

    name: str = Field(examples=["stockpulse"])
    version: str = Field(examples=["0.1.0"])


@router.get("/health", summary="The state of every part")
async def health(process: Process, connections: Connections) -> Health:
    """Return the state of every part, with status 200 as long as the process runs. Load balancers should use /ready."""
    db = "ok" if process.pulse.answers() else "down"
    lag = process.pipeline.lag()
    tasks = {name: _task(task) for name, task in process.supervisor.health.items()}
    kafka, room, clock = _kafka(process), process.disk.room(), _clock(process.clock)
    shards = {number: _shard(processor) for number, processor in sorted(process.pipeline.shards.processors.items())}
    well = (
        db == "ok"
        and kafka != "down"
        and room.fault is None
        and (clock is None or abs(clock.behind_seconds) <= _CLOCK_SECONDS)
        and all(task.state in {State.RUNNING, State.DONE} for task in process.supervisor.health.values())
        and all(feed.works for feed in process.feeds.values())
        and all(max(one.storing_seconds, one.behind_seconds) <= _SLOW_SECONDS for one in shards.values())
    )
    analytics = AnalyticsReport(
        compiled="compiler" in tasks and tasks["compiler"].state == State.DONE.value,
        behind=lag.behind,
    )
    status = "ok" if well else "degraded"
    intake = process.pipeline.ingestor
    return Health(
        status=status,
        db=db,
        kafka=kafka,
        disk=DiskReport(path=room.path, free_bytes=room.free, missing_bytes=room.missing, fault=room.fault),
        clock=clock,
        cache=process.compiler.fault or "ok",
        connections=_connections(connections),
        tasks=tasks,
        feeds=feed_reports(process.feeds),
        backfills=[] if process.backfills is None else [report_of(run) for run in process.backfills.running()],
        analytics=analytics,
        held_back=0 if intake is None else intake.held_back,
        corrections=CorrectionReport(
            accepted=process.pipeline.counters.corrections,
            without_trade=process.pipeline.counters.corrections_without_trade,
            bars_not_corrected=process.pipeline.counters.bars_not_corrected,
        ),
        shards=shards,
    )


def _connections(connections: OpenConnections) -> ConnectionReport:
    return ConnectionReport(
        open=len(connections),
        limit=connections.limits.total,
        limit_per_peer=connections.limits.per_peer,
        closed=dict(connections.closed),
        fault=connections.fault,
    )


def _task(task: TaskHealth) -> TaskReport:
    lag = None if task.lag is None else task.lag()
    return TaskReport(state=task.state.value, lag=lag, restarts=task.restarts, last_error=task.last_error)


def _shard(processor: ShardProcessor) -> ShardReport:
    unprocessed, unflushed, _ = processor.lag()
    return ShardReport(
        offset=processor.offset,
        unprocessed=unprocessed,
        unflushed=unflushed,
        storing_seconds=round(processor.writer.storing_seconds(), 3),
        behind_seconds=round(processor.behind_seconds(), 3),
    )


def _clock(clock: SteadyClock | None) -> ClockReport | None:
    if clock is None:
        return None
    behind, step = clock.behind_seconds(), clock.last_step
    return ClockReport(
        behind_seconds=round(behind, 3),
        last_step_seconds=None if step is None else round(step.seconds, 3),
        last_step_at=None if step is None else step.at,
    )


def _kafka(process: Vitals) -> str | None:
    """Return "ok" if the brokers answer and take appends, else "down"; None without Kafka."""
    poller = process.log.poller
    if poller is None:
        return None
    return "ok" if max(poller.silent_seconds(), process.log.waiting_seconds()) < _SILENT_SECONDS else "down"


@router.get("/ready", summary="Readiness for requests", responses=error_responses(503))
async def ready(process: Process) -> Readiness:
    """Return 200 if the server can do the work of its role, else 503 with the reason."""
    if (full := process.disk.fault()) is not None:
        raise DiskFull(full)
    if not process.pulse.answers():
        raise Unavailable("the database does not answer")
    if _kafka(process) == "down" and process.needs_kafka:
        waiting = process.pipeline.ingestor.unanswered if process.pipeline.ingestor is not None else 0
        raise Unavailable(f"Kafka does not answer; {waiting:,} batches wait in memory")
    stopped = [name for name, task in process.supervisor.health.items() if task.state is State.FAILED]
    if stopped:
        raise Unavailable(f"a background task has failed: {', '.join(stopped)}")
    return Readiness(status="ready")


@router.get("/version", summary="Name and version")
async def version() -> Version:
    """Return the name and version of the server."""
    return Version(name="stockpulse", version=__version__)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(registry: Metrics) -> Response:
    """Return the metrics in the text format of Prometheus."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
