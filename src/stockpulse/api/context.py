"""What the handlers work with; the composition root puts it together."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, cast

from fastapi import Depends, Path, Query, Request
from prometheus_client import CollectorRegistry

from stockpulse.aio.supervisor import Supervisor
from stockpulse.errors import NotFound, shown
from stockpulse.journal.backends import LogParts
from stockpulse.market.intervals import Interval, parse_interval
from stockpulse.market.symbology import Names, Symbol
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shards import Shards
from stockpulse.postgres.connect import Pool
from stockpulse.storage.analytics_reader import AnalyticsReader
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.dead_letters import DeadLetterStore
from stockpulse.storage.screener import Screener
from stockpulse.storage.signals import SignalStore
from stockpulse.storage.tick_reader import TickReader


@dataclass(frozen=True)
class Context:
    """The running parts, as the API sees them."""

    pool: Pool
    names: Names
    pipeline: Pipeline
    clocks: ProviderClocks
    ticks: TickReader
    bars: BarReader
    analytics: AnalyticsReader
    signals: SignalStore
    screener: Screener
    supervisor: Supervisor
    registry: CollectorRegistry
    now: Callable[[], datetime]
    default_calendar: str
    durable_timeout_seconds: float
    future_seconds: float
    dead_letters: DeadLetterStore
    shards: Shards
    log: LogParts
    needs_kafka: bool
    """What only reads does without, for a while."""


async def _context(request: Request) -> Context:
    return cast("Context", request.state.context)


#: `async def handler(context: Ctx)`.
Ctx = Annotated[Context, Depends(_context)]

_SYMBOL_TAKES: Final = "A symbol that StockPulse knows: see /symbols."


def symbol_named(context: Context, name: str) -> Symbol:
    """The symbol of this name; NotFound if no tick and no bar of it has come yet."""
    symbol = context.names.symbols.get(name.strip().upper())
    if symbol is None:
        raise NotFound(f"no such symbol: {shown(name)}")
    return symbol


async def _from_query(
    context: Ctx, symbol: Annotated[str, Query(description=_SYMBOL_TAKES, examples=["AAPL"], max_length=64)]
) -> Symbol:
    return symbol_named(context, symbol)


async def _from_path(
    context: Ctx, symbol: Annotated[str, Path(description=_SYMBOL_TAKES, examples=["AAPL"], max_length=64)]
) -> Symbol:
    # The rest of the path, since BTC/USD has a slash of its own; one more may stand at its end, as on any path.
    known = symbol.upper() in context.names.symbols
    return symbol_named(context, symbol if known else symbol.removesuffix("/"))


#: `async def handler(symbol: QuerySymbol)` takes ?symbol=; PathSymbol takes {symbol}.
QuerySymbol = Annotated[Symbol, Depends(_from_query)]
PathSymbol = Annotated[Symbol, Depends(_from_path)]


async def _interval(
    interval: Annotated[
        str,
        Query(
            description="1m … 240m, 1h … 4h, 1d, 1w, 1mo; also 5min, 5Min, 1day, …",
            examples=["5min"],
            max_length=32,
        ),
    ] = "1d",
) -> Interval:
    return parse_interval(interval)


#: `async def handler(interval: QueryInterval)` takes ?interval=, one day by default.
QueryInterval = Annotated[Interval, Depends(_interval)]

Minutes = Annotated[int, Query(ge=1, le=43_200, description="Length of the window, back from the symbol's present.")]
