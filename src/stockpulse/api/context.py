"""The running parts that requests may use, and a narrow dependency for each: a handler declares what it needs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypeVar, cast

from fastapi import Depends, Path, Query, Request
from prometheus_client import CollectorRegistry
from pydantic import AfterValidator, WithJsonSchema

from stockpulse.aio.steady_clock import SteadyClock
from stockpulse.aio.supervisor import Supervisor
from stockpulse.api.budget import Budget
from stockpulse.api.connections.open_connections import OpenConnections
from stockpulse.errors import NotFound, shown
from stockpulse.hub.hub import Hub
from stockpulse.indicators.compiler import Compiler
from stockpulse.journal.backends import LogParts
from stockpulse.market.intervals import INTERVAL_OR_SECONDS_PATTERN, INTERVAL_PATTERN, Interval, parse_interval
from stockpulse.market.symbology import Names, Symbol, read_symbol
from stockpulse.pipeline.backfill.backfills import Backfills
from stockpulse.pipeline.backfill.facts import Facts
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.job_runner import JobRunner
from stockpulse.pipeline.latest_prices import LatestPrices
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shards import Shards
from stockpulse.pipeline.sources import Sources
from stockpulse.postgres.connect import Pool
from stockpulse.postgres.disk import Disk
from stockpulse.postgres.pulse import Pulse
from stockpulse.storage.analytics_reader import AnalyticsReader
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.dead_letters import DeadLetterStore
from stockpulse.storage.polling_jobs import PollingJobs
from stockpulse.storage.screener import Screener
from stockpulse.storage.second_bars import SecondBars
from stockpulse.storage.signals import SignalStore
from stockpulse.storage.tick_reader import TickReader

_T = TypeVar("_T")


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("takes text without null bytes")
    return text


Text = Annotated[str, AfterValidator(_storable), WithJsonSchema({"type": "string", "pattern": r"^[^\u0000]*$"})]
"""Text that reaches the database: its texts cannot hold a null byte."""


@dataclass(frozen=True)
class Context:
    """The running parts: the lifespan provides them, and the dependencies below pass them to handlers."""

    pool: Pool
    budget: Budget
    disk: Disk
    pulse: Pulse
    names: Names
    pipeline: Pipeline
    clocks: ProviderClocks
    ticks: TickReader
    bars: BarReader
    second_bars: SecondBars
    analytics: AnalyticsReader
    signals: SignalStore
    screener: Screener
    supervisor: Supervisor
    compiler: Compiler
    registry: CollectorRegistry
    now: Callable[[], datetime]
    default_calendar: str
    durable_timeout_seconds: float
    future_seconds: float
    dead_letters: DeadLetterStore
    shards: Shards
    feeds: Mapping[str, FeedState]
    """The states of the live feeds of this process, by provider."""
    log: LogParts
    needs_kafka: bool
    """False for a process that only reads: it serves for a while without Kafka."""
    sources: Sources
    prices: LatestPrices
    hub: Hub
    backfills: Backfills | None = None
    """None in a process that takes no ticks."""

    runner: JobRunner | None = None
    """None in a process that takes no ticks."""

    @property
    def required_runner(self) -> JobRunner:
        """The runner of polling jobs of a process that takes ticks."""
        if self.runner is None:
            raise RuntimeError("this process takes no ticks")
        return self.runner

    @property
    def required_backfills(self) -> Backfills:
        """The backfills of a process that takes ticks."""
        if self.backfills is None:
            raise RuntimeError("this process takes no ticks")
        return self.backfills


@dataclass(frozen=True)
class ProvidersInUse:
    """The providers, and the states of their feeds in this process."""

    sources: Sources
    feeds: Mapping[str, FeedState]


@dataclass(frozen=True)
class PriceParts:
    """The parts that answer for a latest price."""

    sources: Sources
    prices: LatestPrices
    ticks: TickReader
    names: Names
    ingestor: Ingestor | None
    """None in a process that takes no ticks: prices of providers are not stored there."""
    now: Callable[[], datetime]


@dataclass(frozen=True)
class PollingParts:
    """The parts that keep polling jobs."""

    jobs: PollingJobs
    runner: JobRunner
    prices: PriceParts


@dataclass(frozen=True)
class IntakeParts:
    """The intake of the log, and its limits."""

    pipeline: Pipeline
    names: Names
    default_calendar: str
    durable_timeout_seconds: float
    future_seconds: float
    now: Callable[[], datetime]


@dataclass(frozen=True)
class BackfillParts:
    """The parts that load bars of the past."""

    backfills: Backfills
    sources: Sources
    supervisor: Supervisor


@dataclass(frozen=True)
class CoverageParts:
    """The parts that compare stored bars with the trading calendar."""

    facts: Facts
    clocks: ProviderClocks


@dataclass(frozen=True)
class Vitals:
    """The parts whose state `/health` and `/ready` report."""

    disk: Disk
    pulse: Pulse
    clock: SteadyClock | None
    """None for a clock that was handed in and knows of no steps."""
    pipeline: Pipeline
    supervisor: Supervisor
    compiler: Compiler
    feeds: Mapping[str, FeedState]
    backfills: Backfills | None
    log: LogParts
    needs_kafka: bool


def _part(of: Callable[[Context], _T]) -> Callable[[Request], Awaitable[_T]]:
    """Return the dependency that gives out one of the running parts."""

    async def part(request: Request) -> _T:
        return of(cast("Context", request.state.context))

    return part


def _intake(context: Context) -> IntakeParts:
    return IntakeParts(
        context.pipeline,
        context.names,
        context.default_calendar,
        context.durable_timeout_seconds,
        context.future_seconds,
        context.now,
    )


def _backfill_parts(context: Context) -> BackfillParts:
    return BackfillParts(context.required_backfills, context.sources, context.supervisor)


def _prices(context: Context) -> PriceParts:
    return PriceParts(
        context.sources, context.prices, context.ticks, context.names, context.pipeline.ingestor, context.now
    )


def _polling(context: Context) -> PollingParts:
    return PollingParts(PollingJobs(context.pool), context.required_runner, _prices(context))


def _coverage_parts(context: Context) -> CoverageParts:
    sources = context.sources
    facts = Facts(context.pool, context.bars, sources.feeds_of)
    return CoverageParts(facts, context.clocks)


def _vitals(context: Context) -> Vitals:
    return Vitals(
        context.disk,
        context.pulse,
        context.now if isinstance(context.now, SteadyClock) else None,
        context.pipeline,
        context.supervisor,
        context.compiler,
        context.feeds,
        context.backfills,
        context.log,
        context.needs_kafka,
    )


async def _connections(request: Request) -> OpenConnections:
    return cast("OpenConnections", request.state.connections)


#: `async def handler(ticks: Ticks, clocks: Clocks)`.
Analytics = Annotated[AnalyticsReader, Depends(_part(lambda context: context.analytics))]
Backfilling = Annotated[BackfillParts, Depends(_part(_backfill_parts))]
Covering = Annotated[CoverageParts, Depends(_part(_coverage_parts))]
Bars = Annotated[BarReader, Depends(_part(lambda context: context.bars))]
Connections = Annotated[OpenConnections, Depends(_connections)]
Clocks = Annotated[ProviderClocks, Depends(_part(lambda context: context.clocks))]
DeadLetters = Annotated[DeadLetterStore, Depends(_part(lambda context: context.dead_letters))]
Now = Annotated[Callable[[], datetime], Depends(_part(lambda context: context.now))]
Intake = Annotated[IntakeParts, Depends(_part(_intake))]
Jobs = Annotated[PollingParts, Depends(_part(_polling))]
Metrics = Annotated[CollectorRegistry, Depends(_part(lambda context: context.registry))]
Prices = Annotated[PriceParts, Depends(_part(_prices))]
Providers = Annotated[ProvidersInUse, Depends(_part(lambda context: ProvidersInUse(context.sources, context.feeds)))]
Process = Annotated[Vitals, Depends(_part(_vitals))]
Screening = Annotated[Screener, Depends(_part(lambda context: context.screener))]
Seconds = Annotated[SecondBars, Depends(_part(lambda context: context.second_bars))]
Signals = Annotated[SignalStore, Depends(_part(lambda context: context.signals))]
Symbols = Annotated[Names, Depends(_part(lambda context: context.names))]
Ticks = Annotated[TickReader, Depends(_part(lambda context: context.ticks))]

_SYMBOL_TAKES: Final = "A symbol that StockPulse knows: see /symbols."


def symbol_named(names: Names, name: str) -> Symbol:
    """Return the symbol of this name; NotFound if no tick and no bar of it has arrived yet."""
    symbol = names.symbols.get(read_symbol(name.strip()) or "")
    if symbol is None:
        raise NotFound(f"no such symbol: {shown(name)}")
    return symbol


async def _from_query(
    names: Symbols, symbol: Annotated[str, Query(description=_SYMBOL_TAKES, examples=["AAPL"], max_length=64)]
) -> Symbol:
    return symbol_named(names, symbol)


async def _from_path(
    names: Symbols, symbol: Annotated[str, Path(description=_SYMBOL_TAKES, examples=["AAPL"], max_length=64)]
) -> Symbol:
    # The parameter is the rest of the path: BTC/USD contains a slash, and the path may end with another one.
    known = read_symbol(symbol) in names.symbols
    return symbol_named(names, symbol if known else symbol.removesuffix("/"))


#: `async def handler(symbol: QuerySymbol)` takes ?symbol=; PathSymbol takes {symbol}.
QuerySymbol = Annotated[Symbol, Depends(_from_query)]
PathSymbol = Annotated[Symbol, Depends(_from_path)]


async def _interval(
    interval: Annotated[
        str,
        Query(
            description="Interval of the bars: 1m … 240m, 1h … 4h, 6h, 8h, 12h, 1d, 1w, 1mo; also 5min, 5Min, 1day, …"
            " Case matters: 1m is a minute, 1M a month.",
            examples=["5min"],
            max_length=32,
            json_schema_extra={"pattern": INTERVAL_PATTERN},
        ),
    ] = "1d",
) -> Interval:
    return parse_interval(interval)


async def _interval_of_bars(
    interval: Annotated[
        str,
        Query(
            description="1m … 240m, 1h … 4h, 6h, 8h, 12h, 1d, 1w, 1mo; also 5min, 5Min, 1day, …; 1s, 5s, 10s, 15s and"
            " 30s are built from the ticks that are kept",
            examples=["5min"],
            max_length=32,
            json_schema_extra={"pattern": INTERVAL_OR_SECONDS_PATTERN},
        ),
    ] = "1d",
) -> Interval:
    return parse_interval(interval, seconds=True)


#: `async def handler(interval: QueryInterval)` takes ?interval=, one day by default; BarInterval takes seconds too.
QueryInterval = Annotated[Interval, Depends(_interval)]
BarInterval = Annotated[Interval, Depends(_interval_of_bars)]
