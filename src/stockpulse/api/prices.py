"""Latest prices, from the newest ticks or from a provider, and jobs that poll them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import polars as pl
from fastapi import APIRouter, Path, Query, status
from pydantic import BaseModel, ConfigDict, Field

from stockpulse.api.context import Jobs, PollingParts, PriceParts, Prices, Text
from stockpulse.api.error_responses import error_responses
from stockpulse.errors import InvalidInput, NotFound, Unavailable, shown
from stockpulse.market.symbology import SYMBOL_TAKES, read_symbol
from stockpulse.pipeline.job_runner import pause_of
from stockpulse.pipeline.sources import Source
from stockpulse.providers.faults import ProviderFault, UnknownSymbol
from stockpulse.storage.polling_jobs import MOST_RUNNING, PollingJob

router = APIRouter(prefix="/prices", tags=["prices"])
jobs_router = APIRouter(prefix="/prices/poll", tags=["prices"])

_FRESH_SECONDS: Final = 15.0
_LOOKED_THROUGH: Final = 100
"""The newest ticks of a symbol, among which that of a provider is looked for."""
_MOST_SYMBOLS: Final = 100

Provider = Annotated[
    Text | None,
    Query(
        max_length=64,
        description="The provider to ask. Default: that of the symbol's feed, then those of STOCKPULSE_FALLBACKS.",
        examples=["test"],
    ),
]


class LatestPrice(BaseModel):
    """The latest price of a symbol."""

    symbol: str = Field(examples=["AAPL"])
    price: float = Field(examples=[150.25])
    timestamp: datetime = Field(examples=["2024-03-20T10:30:00Z"], description="the event time of the price")
    provider: str = Field(examples=["test"])
    cached: bool = Field(
        examples=[False], description="true: the newest stored tick; false: the answer of the provider to a request"
    )


class JobConfig(BaseModel):
    """The task of a job."""

    model_config = ConfigDict(extra="forbid")

    symbols: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        min_length=1, max_length=_MOST_SYMBOLS, examples=[["AAPL", "MSFT"]]
    )
    interval: float = Field(
        60, ge=1, le=86_400, examples=[60], description="seconds between two requests; more if the provider needs it"
    )
    provider: Annotated[str, Field(max_length=64, pattern=r"^[^\u0000]*$")] | None = Field(
        None, examples=["test"], description="default: that of the first symbol's feed, or the first fallback"
    )


class NewJob(BaseModel):
    """A job that was accepted."""

    job_id: str = Field(examples=["poll_123"])
    status: str = Field(examples=["accepted"])
    config: JobConfig


class JobPrice(BaseModel):
    """The last answer for a symbol."""

    symbol: str = Field(examples=["AAPL"])
    price: float | None = Field(examples=[150.25], description="the last known price")
    timestamp: datetime | None = Field(examples=["2024-03-20T10:30:00Z"], description="the event time of the price")
    asked_at: datetime | None = Field(examples=["2024-03-20T10:30:01Z"], description="time of the last request")
    fault: str | None = Field(examples=[None], description="the kind of the fault of the last request, or null")
    message: str | None = Field(examples=[None], description="what is wrong, for people")


class Job(BaseModel):
    """A job and the last answers that it got."""

    job_id: str = Field(examples=["poll_123"])
    status: str = Field(examples=["running"], description="running or stopped")
    config: JobConfig
    every_seconds: float | None = Field(
        examples=[60.0], description="the pause in use: not less than the provider allows; null if it is not installed"
    )
    created_at: datetime
    stopped_at: datetime | None
    prices: list[JobPrice]


class JobList(BaseModel):
    """Jobs, the newest first."""

    total: int = Field(examples=[1], description="the number of jobs in this answer")
    jobs: list[Job]


@router.get("/latest", summary="The latest price of a symbol", responses=error_responses(404, 422, 503))
async def latest_price(
    parts: Prices,
    symbol: Annotated[str, Query(max_length=64, description="A symbol of the provider.", examples=["AAPL"])],
    provider: Provider = None,
    max_age: Annotated[
        float, Query(ge=0, le=86_400, description="A stored tick of at most this many seconds needs no request.")
    ] = _FRESH_SECONDS,
) -> LatestPrice:
    """Return the newest stored tick while it is fresh; otherwise ask the provider, or one after the other.

    The answer of a provider is stored as a tick, like any other.
    """
    name = read_symbol(symbol.strip())
    if name is None:
        raise NotFound(f"no such symbol: {shown(symbol)}")
    sources = sources_for(parts, name, provider)
    stored = await _stored(parts, name, sources[0] if provider else None)
    if stored is not None and (not sources or _age(parts, stored, sources) <= timedelta(seconds=max_age)):
        return LatestPrice(
            symbol=name,
            price=stored["price"],
            timestamp=stored["event_time"],
            provider=provider or stored["provider"],
            cached=True,
        )
    return await _asked(parts, name, sources, provider)


def sources_for(parts: PriceParts, symbol: str, provider: str | None) -> Sequence[Source]:
    """Return the providers to ask for the price of a symbol. Raises NotFound and InvalidInput."""
    if provider is None:
        return [source for source in parts.sources.order_for(symbol) if source.has.latest]
    source = parts.sources.named(provider.strip().lower())
    if not source.has.latest:
        raise InvalidInput("provider", f"{source.name} has no latest prices")
    return [source]


async def _stored(parts: PriceParts, name: str, source: Source | None) -> dict[str, Any] | None:
    """Return the newest stored tick of a symbol, of one provider or of any; None without one."""
    symbol = parts.names.symbols.get(name)
    if symbol is None:
        return None
    ticks = await parts.ticks.latest(symbol.id, 1 if source is None else _LOOKED_THROUGH)
    if source is not None:
        ticks = ticks.filter(pl.col("provider") == source.name)
    return ticks.row(0, named=True) if len(ticks) else None


def _age(parts: PriceParts, stored: dict[str, Any], sources: Sequence[Source]) -> timedelta:
    """Return the age of a tick beyond the delay of its provider."""
    delays = [one.provider.delay_seconds for one in sources if one.name == stored["provider"]]
    age: timedelta = parts.now() - stored["event_time"] - timedelta(seconds=max(delays, default=0.0))
    return age


async def _asked(parts: PriceParts, name: str, sources: Sequence[Source], provider: str | None) -> LatestPrice:
    """Return the answer of the first provider that has a price."""
    faults: list[ProviderFault] = []
    for source in sources:
        found = await parts.prices.ask(source, [name])
        if len(found.ticks) and parts.ingestor is not None:
            await parts.ingestor.enqueue_any(found.ticks, source.feed)
        answer = found.answers[name]
        if answer.fault is None and answer.price is not None and answer.ts is not None:
            return LatestPrice(
                symbol=name, price=answer.price, timestamp=answer.ts, provider=provider or source.name, cached=False
            )
        if answer.fault is not None:
            faults.append(answer.fault)
    said = "; ".join(map(str, faults)) or "no provider of latest prices is configured: see STOCKPULSE_FALLBACKS"
    if all(isinstance(fault, UnknownSymbol) for fault in faults):
        raise NotFound(f"no price of {shown(name)}: {said}")
    raise Unavailable(f"no price of {shown(name)} now: {said}")


# Jobs -------------------------------------------------------------------------------------------


@jobs_router.post(
    "",
    summary="Poll prices",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_responses(400, 404, 422, 503),
)
async def create_polling_job(parts: Jobs, config: JobConfig) -> NewJob:
    """Ask a provider for prices again and again. The job is stored, and goes on after a restart until it is stopped.

    The prices are stored as ticks. A symbol that the provider refuses does not stop the others.
    """
    symbols = list(dict.fromkeys(map(_symbol, config.symbols)))
    sources = sources_for(parts.prices, symbols[0], config.provider)
    if not sources:
        raise InvalidInput("provider", "is required: no provider of latest prices is configured for the first symbol")
    name = config.provider.strip().lower() if config.provider else sources[0].name
    job = await parts.jobs.create(name, symbols, config.interval, parts.prices.now())
    if job is None:
        raise InvalidInput("symbols", f"{MOST_RUNNING} jobs are running, which is the most; stop one of them first")
    parts.runner.wake()
    return NewJob(job_id=f"poll_{job.id}", status="accepted", config=_config(job))


@jobs_router.get("", summary="List the polling jobs", responses=error_responses(422, 503))
async def polling_jobs(
    parts: Jobs, limit: Annotated[int, Query(ge=1, le=1_000, description="The maximum number of jobs.")] = 100
) -> JobList:
    """Return the running jobs and those that were stopped in the last 30 days, the newest first."""
    found = await parts.jobs.newest(limit)
    return JobList(total=len(found), jobs=[_shown(parts, job) for job in found])


JobId = Annotated[str, Path(description="The `job_id` of a job.", examples=["poll_123"], max_length=64)]


@jobs_router.get("/{job_id}", summary="The state of a polling job", responses=error_responses(404, 503))
async def polling_job(parts: Jobs, job_id: JobId) -> Job:
    """Return a job with the last price of each symbol, its time, and what is wrong."""
    found = await parts.jobs.find(_number(job_id))
    if found is None:
        raise NotFound(f"no such job: {shown(job_id)}")
    return _shown(parts, found)


@jobs_router.delete("/{job_id}", summary="Stop a polling job", responses=error_responses(404, 503))
async def stop_polling_job(parts: Jobs, job_id: JobId) -> Job:
    """Stop a job. Its last prices stay readable for 30 days."""
    found = await parts.jobs.stop(_number(job_id), parts.prices.now())
    if found is None:
        raise NotFound(f"no such job: {shown(job_id)}")
    parts.runner.wake()
    return _shown(parts, found)


def _symbol(text: str) -> str:
    name = read_symbol(text.strip())
    if name is None:
        raise InvalidInput("symbols", f"got {shown(text)}; a symbol {SYMBOL_TAKES}")
    return name


def _number(job_id: str) -> int:
    digits = job_id.removeprefix("poll_")
    if not job_id.startswith("poll_") or not digits.isascii() or not digits.isdigit() or len(digits) > _LONGEST_NUMBER:
        raise NotFound(f"no such job: {shown(job_id)}")
    return int(digits)


def _config(job: PollingJob) -> JobConfig:
    return JobConfig(symbols=list(job.symbols), interval=job.interval_seconds, provider=job.provider)


def _shown(parts: PollingParts, job: PollingJob) -> Job:
    unknown = dict.fromkeys(("price", "timestamp", "asked_at", "fault", "message"))
    return Job(
        job_id=f"poll_{job.id}",
        status=job.status,
        config=_config(job),
        every_seconds=_pause(parts, job),
        created_at=job.created_at,
        stopped_at=job.stopped_at,
        prices=[JobPrice(symbol=one, **{**unknown, **job.prices.get(one, {})}) for one in job.symbols],
    )


def _pause(parts: PollingParts, job: PollingJob) -> float | None:
    try:
        return pause_of(job.interval_seconds, parts.prices.sources.named(job.provider))
    except (NotFound, InvalidInput):
        return None


_LONGEST_NUMBER: Final = 18
