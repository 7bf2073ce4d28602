"""Backfills on request, and the progress of all backfills."""

from collections import defaultdict
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, ConfigDict, Field

from stockpulse.api.context import Backfilling, BackfillParts
from stockpulse.api.error_responses import error_responses
from stockpulse.api.time_params import check_order, micros, parse_time, read_date
from stockpulse.errors import InvalidInput, shown
from stockpulse.market.intervals import BASE_INTERVALS, INTERVAL_PATTERN, Interval, parse_interval
from stockpulse.market.symbology import read_symbol
from stockpulse.pipeline.backfill.backfills import Group, Requested
from stockpulse.pipeline.backfill.run import Run
from stockpulse.pipeline.backfill.targets import Target

router = APIRouter(prefix="/backfill", tags=["backfill"])

_MOST_SYMBOLS: Final = 1000
_TAKES: Final = "RFC 3339, epoch seconds, or a date, which is the exchange's date"


class Wanted(BaseModel):
    """The bars to have."""

    model_config = ConfigDict(extra="forbid")

    symbols: list[Annotated[str, Field(max_length=64)]] = Field(
        min_length=1, max_length=_MOST_SYMBOLS, examples=[["AAPL", "MSFT"]]
    )
    interval: str = Field(
        "1d",
        max_length=32,
        examples=["5m"],
        description="1m, 5m or 1d",
        json_schema_extra={"pattern": INTERVAL_PATTERN},
    )
    start: str = Field(max_length=64, examples=["2024-01-01"], description=f"bars from this time on: {_TAKES}")
    end: str | None = Field(
        None, max_length=64, examples=["2024-07-01"], description=f"bars before this time: {_TAKES}; null: up to now"
    )
    provider: str | None = Field(
        None,
        max_length=64,
        examples=["alpaca"],
        description="the provider to ask; null: those of the feeds and the fallbacks, in their order",
    )
    again: bool = Field(
        False,
        description="true to ask again for ranges that were asked for, if their bars are not stored: those that the"
        " provider refused or had no bars for, and those whose bars were taken back",
    )


class Backfill(BaseModel):
    """A backfill and its progress."""

    id: int = Field(examples=[17])
    status: str = Field(
        examples=["running"],
        description="running, waiting (the provider does not answer or takes no more requests for now), completed or"
        " failed",
    )
    provider: str | None = Field(examples=["alpaca"], description="the first provider that is asked")
    symbols: int = Field(examples=[2], description="number of symbols")
    intervals: list[str] = Field(examples=[["5m"]])
    start: datetime | None = Field(
        examples=["2024-01-01T00:00:00Z"], description="start of the range; null for a backfill of the feeds"
    )
    end: datetime | None = Field(examples=[None], description="end of the range; null: up to the present")
    expected_bars: int = Field(
        examples=[98_280], description="bars that the trading calendar expects in the ranges that are missing"
    )
    done_bars: int = Field(examples=[39_312], description="those of them whose ranges are answered or refused")
    bars: int = Field(examples=[38_977], description="bars that came and are in the log")
    requests: int = Field(examples=[4], description="number of ranges that were asked for")
    refused: int = Field(examples=[0], description="number of ranges that the provider refused")
    refusals: list[str] = Field(
        examples=[["XYZ: invalid symbol"]],
        description="the first refusals, each with its symbol and the words of the provider",
    )
    last_fault: str | None = Field(examples=[None], description="the newest fault of the provider")
    waits_until: datetime | None = Field(examples=[None], description="end of the wait, if the status is waiting")
    started_at: datetime = Field(examples=["2026-02-27T12:05:00Z"])
    completed_at: datetime | None = Field(examples=[None])


class Backfills(BaseModel):
    """The newest backfills since the start of the server, the newest first."""

    backfills: list[Backfill]


@router.post(
    "",
    summary="Load bars of the past",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_responses(404, 422, 503),
)
async def start_backfill(parts: Backfilling, wanted: Wanted) -> Backfill:
    """Ask the providers for bars that are missing, in the background; live ticks do not wait for it.

    StockPulse asks only for bars that the trading calendar expects, that are not stored, and that it has not asked for
    before. The answer has the `id` under which the progress is shown.
    """
    return report_of(await begin(parts, wanted))


@router.get("", summary="List backfills")
async def backfills(parts: Backfilling) -> Backfills:
    """Return the newest backfills since the start of the server: those on request, and those of the feeds."""
    return Backfills(backfills=[report_of(run) for run in reversed(parts.backfills.runs)])


@router.get("/{number}", summary="The progress of a backfill", responses=error_responses(404, 422))
async def backfill(
    parts: Backfilling,
    number: Annotated[int, Path(ge=1, lt=2**63, description="The `id` of the backfill.")],
) -> Backfill:
    """Return a backfill since the start of the server, and its progress. The table `etl_runs` has earlier ones."""
    return report_of(parts.backfills.find(number))


async def begin(parts: BackfillParts, wanted: Wanted) -> Run:
    """Begin a backfill. Raises InvalidInput for a request that no provider can answer."""
    interval = _interval(wanted.interval)
    first, last = parse_time(wanted.start, "start"), None if wanted.end is None else parse_time(wanted.end, "end")
    check_order(first, last)
    start = read_date(wanted.start) or micros(first)
    end = None if wanted.end is None or last is None else read_date(wanted.end) or micros(last)
    target = Target(interval, start=start, end=end)
    symbols = tuple(dict.fromkeys(_symbol(text) for text in wanted.symbols))
    return await parts.backfills.request(
        Requested(target, _groups(parts, symbols, interval, wanted.provider), wanted.again), parts.supervisor
    )


def report_of(run: Run) -> Backfill:
    """Return the progress of a run."""
    return Backfill(
        id=run.id,
        status=run.status.value,
        provider=run.provider,
        symbols=len(run.symbols),
        intervals=list(run.intervals),
        start=run.start,
        end=run.end,
        expected_bars=run.expected,
        done_bars=run.done,
        bars=run.bars,
        requests=run.requests,
        refused=run.refused,
        refusals=run.refusals,
        last_fault=run.last_fault,
        waits_until=run.waits_until,
        started_at=run.started_at,
        completed_at=run.completed_at,
    )


def _interval(text: str) -> Interval:
    interval = parse_interval(text)
    if interval not in BASE_INTERVALS:
        raise InvalidInput("interval", f"got {shown(text)}; takes 1m, 5m or 1d, from which the others are built")
    return interval


def _symbol(text: str) -> str:
    symbol = read_symbol(text.strip())
    if symbol is None:
        raise InvalidInput("symbols", f"got {shown(text)}, which is not a symbol")
    return symbol


def _groups(
    parts: BackfillParts, symbols: tuple[str, ...], interval: Interval, provider: str | None
) -> tuple[Group, ...]:
    """Return the symbols with the providers to ask for each."""
    if provider is not None:
        source = parts.sources.named(provider.strip().lower())
        if interval.name not in source.has.history:
            has = ", ".join(source.has.history) or "none"
            raise InvalidInput("provider", f"{source.name} has no {interval} bars of the past; it has: {has}")
        return (Group(symbols, (source,)),)
    groups = defaultdict(list)
    for symbol in symbols:
        order = parts.sources.order_for(symbol) or parts.sources.feeds
        sources = tuple(one for one in order if interval.name in one.has.history)
        if not sources:
            raise InvalidInput("provider", f"no feed and no fallback has {interval} bars of {symbol}; name a provider")
        groups[sources].append(symbol)
    return tuple(Group(tuple(names), sources) for sources, names in groups.items())
