"""Whether it runs, and how far it has come."""

import asyncio
from typing import Final

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from stockpulse import __version__
from stockpulse.aio.supervisor import State, TaskHealth
from stockpulse.api.context import Context, Ctx
from stockpulse.api.error_responses import error_responses
from stockpulse.errors import Unavailable
from stockpulse.pipeline.shard_processor import ShardProcessor
from stockpulse.postgres.connect import TRANSIENT

router = APIRouter(tags=["health"])

_PING_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 3.0


class TaskReport(BaseModel):
    """A background task."""

    state: str = Field(examples=["running"], description="running, restarting, done, failed or stopped")
    lag: int | None = Field(description="rows that wait for it; null where nothing can wait")
    restarts: int = Field(examples=[0])
    last_error: str | None = None


class AnalyticsReport(BaseModel):
    """How far the indicators are."""

    compiled: bool = Field(examples=[True], description="false for a while after the very first start")
    behind: int = Field(examples=[0], description="symbols that have to catch up, each counted for every interval")


class ShardReport(BaseModel):
    """How far a shard is: of Kafka, a partition."""

    offset: int = Field(examples=[4194304], description="up to where the log is worked in, as `seq`")
    unprocessed: int = Field(examples=[0], description="records that wait to be worked in")
    unflushed: int = Field(examples=[12], description="records that are worked in and wait to be stored")


class Health(BaseModel):
    """The state of the process."""

    status: str = Field(examples=["ok"], description="ok, or degraded when a part does not work just now")
    db: str = Field(examples=["ok"], description="ok, or down")
    kafka: str | None = Field(examples=["ok"], description="ok, or down; null where the log is in the database")
    tasks: dict[str, TaskReport]
    analytics: AnalyticsReport
    shards: dict[int, ShardReport] = Field(description="the shards that are worked on here, by number")


class Readiness(BaseModel):
    """The process takes requests."""

    status: str = Field(examples=["ready"])


class Version(BaseModel):
    """What runs here."""

    name: str = Field(examples=["stockpulse"])
    version: str = Field(examples=["0.1.0"])


@router.get("/health", summary="The state of every part")
async def health(context: Ctx) -> Health:
    """Always 200 as long as the process answers; see `status` and `tasks`. /ready is the one for load balancers."""
    db = await _database(context)
    lag = context.pipeline.lag()
    tasks = {name: _task(task) for name, task in context.supervisor.health.items()}
    kafka = _kafka(context)
    well = (
        db == "ok"
        and kafka != "down"
        and all(task.state in {State.RUNNING, State.DONE} for task in context.supervisor.health.values())
    )
    analytics = AnalyticsReport(
        compiled="compiler" in tasks and tasks["compiler"].state == State.DONE.value, behind=lag.behind
    )
    shards = {number: _shard(processor) for number, processor in sorted(context.pipeline.shards.processors.items())}
    status = "ok" if well else "degraded"
    return Health(status=status, db=db, kafka=kafka, tasks=tasks, analytics=analytics, shards=shards)


def _task(task: TaskHealth) -> TaskReport:
    lag = None if task.lag is None else task.lag()
    return TaskReport(state=task.state.value, lag=lag, restarts=task.restarts, last_error=task.last_error)


def _shard(processor: ShardProcessor) -> ShardReport:
    unprocessed, unflushed, _ = processor.lag()
    return ShardReport(offset=processor.offset, unprocessed=unprocessed, unflushed=unflushed)


def _kafka(context: Context) -> str | None:
    """Whether the brokers answer, and take what is appended."""
    poller = context.log.poller
    if poller is None:
        return None
    return "ok" if max(poller.silent_seconds(), context.log.waiting_seconds()) < _SILENT_SECONDS else "down"


@router.get("/ready", summary="Whether requests can be served", responses=error_responses(503))
async def ready(context: Ctx) -> Readiness:
    """200 when the database answers and ticks are taken, else 503."""
    if await _database(context) != "ok":
        raise Unavailable("the database does not answer")
    if _kafka(context) == "down" and context.needs_kafka:
        waiting = context.pipeline.ingestor.unanswered if context.pipeline.ingestor is not None else 0
        raise Unavailable(f"Kafka does not answer; {waiting:,} submissions wait in memory")
    stopped = [name for name, task in context.supervisor.health.items() if task.state is State.FAILED]
    if stopped:
        raise Unavailable(f"a background task has failed: {', '.join(stopped)}")
    return Readiness(status="ready")


@router.get("/version", summary="What runs here")
async def version() -> Version:
    """Name and version."""
    return Version(name="stockpulse", version=__version__)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(context: Ctx) -> Response:
    """In the text format of Prometheus."""
    return Response(generate_latest(context.registry), media_type=CONTENT_TYPE_LATEST)


async def _database(context: Context) -> str:
    ping = asyncio.create_task(context.pool.fetchval("SELECT 1"))
    ping.add_done_callback(lambda done: done.cancelled() or done.exception())
    _, late = await asyncio.wait([ping], timeout=_PING_SECONDS)
    if late:
        ping.cancel()  # not waited for: with a server that is frozen, even that takes a minute
        return "down"
    try:
        ping.result()
    except TRANSIENT:
        return "down"
    return "ok"
