"""Ticks: sent by POST, read newest first."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
import polars as pl
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from stockpulse.api.budget import AnswerRoom, ArrivalRoom, ParsingRoom
from stockpulse.api.context import Clocks, Intake, QuerySymbol, Ticks
from stockpulse.api.document import named_schema
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import FORMAT_RESPONSES, AnswerFormat, answer_frame, room_for_rows
from stockpulse.api.limits import MAX_ROWS
from stockpulse.api.received_rows import received_rows
from stockpulse.api.time_params import Zone
from stockpulse.api.windows import Minutes, Window
from stockpulse.errors import OutcomeUnknown, Unavailable
from stockpulse.ingest.feed import Feed
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.rows import TICK_FIELDS
from stockpulse.market.symbology import PROVIDER, Names, check_provider_name
from stockpulse.providers.trade_conditions import RULES, rule_named
from stockpulse.storage.tick_reader import SERVED_TICKS

intake = APIRouter(prefix="/ticks", tags=["ticks"])
router = APIRouter(prefix="/ticks", tags=["ticks"])

_LISTED: Final = 5


class Tick(BaseModel):
    """One trade."""

    symbol: str = Field(examples=["AAPL"])
    price: float = Field(examples=[189.72])
    volume: float = Field(examples=[8341], description="size of the trade")
    event_time: datetime = Field(examples=["2026-02-27T12:05:00Z"])
    provider: str = Field(examples=["simulated"])
    exchange: str | None = Field(examples=["Q"])
    conditions: str | None = Field(examples=["@,I"])
    tape: str | None = Field(examples=["C"])
    trade_id: str | None = Field(examples=["52983525029461"])
    received_at: datetime = Field(examples=["2026-02-27T12:05:00.012Z"])
    seq: int = Field(examples=[4194304], description="number of the record, unique in the database")


class LatestTicks(BaseModel):
    """The newest ticks of a symbol."""

    symbol: str = Field(examples=["AAPL"])
    count: int = Field(examples=[1])
    ticks: list[Tick]


class TickWindow(BaseModel):
    """A summary of the ticks of a window."""

    symbol: str = Field(examples=["AAPL"])
    window_minutes: int = Field(examples=[5])
    count: int = Field(examples=[150])
    avg_price: float | None = Field(examples=[189.84])
    min_price: float | None = Field(examples=[189.52])
    max_price: float | None = Field(examples=[190.11])
    sum_volume: float = Field(examples=[1243500])
    start_time: datetime = Field(examples=["2026-02-27T12:00:00Z"])
    end_time: datetime = Field(examples=["2026-02-27T12:05:00Z"])
    as_of: datetime = Field(examples=["2026-02-27T12:05:00Z"], description="the market time of the symbol")
    eligible: bool = Field(
        examples=[False], description="true if only ticks that count for the volume of bars are included"
    )
    feeds: dict[str, int] = Field(examples=[{"simulated": 150}], description="the number of ticks of each provider")


class Rejected(BaseModel):
    """A rejected row."""

    row: int = Field(examples=[3], description="index of the row in the request, counted from 0")
    reason: str = Field(examples=["price: must be a number > 0 and <= 1e+12"])


class Accepted(BaseModel):
    """The outcome of a request; accepted ticks are durable."""

    accepted: int = Field(examples=[997])
    duplicates: int = Field(
        examples=[2],
        description="ticks that StockPulse already has: same provider, symbol, exchange, trade_id and time",
    )
    rejected: list[Rejected] = Field(description="the rejected rows; at most 10,000 of them")
    rejected_further: int = Field(
        default=0, examples=[5000], description="number of further rejected rows; absent if there are none"
    )
    warnings: list[str] = Field(
        default=[],
        examples=[["calendar: 24/7 is for new symbols; AAPL keeps XNYS"]],
        description="effects that the accepted ticks do not have, although you may expect them; absent if there are"
        " none",
    )


_LISTED_REJECTS: Final = 10_000

_TICK_EXAMPLE: Final = {
    "symbol": "AAPL",
    "ts": "2026-02-27T12:05:00.123456Z",
    "price": 189.72,
    "size": 100,
    "exchange": "Q",
    "trade_id": "52983525029461",
    "conditions": ["@", "I"],
}
_TICK_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["symbol", "ts", "price", "size"],
    "properties": {
        "symbol": {"type": "string"},
        "ts": {
            "type": ["string", "number"],
            "description": "event time: RFC 3339, a date, or the number of seconds, ms, µs or ns since 1970",
        },
        "price": {"type": "number", "exclusiveMinimum": 0},
        "size": {"type": "number", "minimum": 0},
        "exchange": {"type": "string"},
        "trade_id": {"type": "string", "description": "with it you can safely send the same tick again"},
        "conditions": {"type": "array", "items": {"type": "string"}},
        "tape": {"type": "string", "description": "the consolidated tape: A, B, C, N or O"},
    },
    "example": _TICK_EXAMPLE,
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "items": _TICK_SCHEMA, "maxItems": MAX_ROWS}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "one such object on each line"}},
            "application/vnd.apache.arrow.stream": {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "columns with the names of these fields",
                }
            },
        },
    }
}


@intake.post(
    "", summary="Send ticks", response_model=Accepted, openapi_extra=_BODY, responses=error_responses(413, 422, 503)
)
async def post_ticks(
    parts: Intake,
    arrival: ArrivalRoom,
    parsing: ParsingRoom,
    request: Request,
    provider: Annotated[
        str,
        Query(
            description="The name of the sender, stored with each tick.",
            examples=["api"],
            json_schema_extra={"pattern": f"^{PROVIDER}$"},
        ),
    ] = "api",
    calendar: Annotated[
        str | None,
        Query(
            description="The trading calendar of new symbols: XNYS, 24/7, …, in any case of letters.",
            examples=["24/7"],
            json_schema_extra=named_schema("CalendarName"),
        ),
    ] = None,
    conditions: Annotated[
        str,
        Query(
            description=f"The rule for trade conditions: {', '.join(RULES)}.",
            json_schema_extra={"enum": list(RULES)},
        ),
    ] = "all",
    clock: Annotated[
        Clock,
        Query(
            description="`wall`: bars close by the wall clock. `event`: bars close by the time of the newest tick, for"
            " recordings."
        ),
    ] = Clock.WALL,
    end_of_stream: Annotated[
        bool, Query(description="True: the recording ends after these ticks, and all its bars close.")
    ] = False,
) -> Response:
    """Accept up to 100,000 ticks in one request: a JSON array, NDJSON, or an Arrow IPC stream.

    The answer comes when the accepted ticks are durable. 503 `UNAVAILABLE`: none of the ticks is stored. 503
    `OUTCOME_UNKNOWN`: they may or may not be stored. You can safely send ticks with a `trade_id` again: StockPulse
    recognises duplicates.
    """
    parts.pipeline.intake.require_disk()
    feed = Feed(
        check_provider_name(provider),
        await _calendar_named(calendar or parts.default_calendar),
        clock,
        rule=rule_named(conditions),
    )
    frame = await received_rows(request, arrival, parsing, TICK_FIELDS, may_be_empty=end_of_stream)
    deadline = asyncio.get_running_loop().time() + parts.durable_timeout_seconds
    try:
        async with asyncio.timeout_at(deadline):
            durable = await parts.pipeline.intake.enqueue(frame, feed)
    except TimeoutError:
        raise Unavailable("too many ticks wait to become durable: none of these ticks is stored") from None
    try:
        async with asyncio.timeout_at(deadline):
            receipt = await durable
            if end_of_stream:
                await parts.pipeline.intake.end(feed)
    except TimeoutError:
        raise OutcomeUnknown from None
    # Without the model, which would take a second for 100,000 rejected rows.
    rejected = [{"row": row, "reason": reason} for row, reason in receipt.rejected[:_LISTED_REJECTS]]
    became = {"accepted": receipt.accepted, "duplicates": receipt.duplicates, "rejected": rejected}
    if further := receipt.rejected_rows - len(rejected):
        became["rejected_further"] = further
    warnings = [*receipt.warnings, *(_other_calendars(parts.names, frame, calendar) if calendar else ())]
    if warnings:
        became["warnings"] = warnings
    return Response(orjson.dumps(became), media_type="application/json")


def _other_calendars(names: Names, frame: pl.DataFrame, calendar: str) -> list[str]:
    """Return a warning if symbols of these ticks were known before and keep another calendar."""
    wanted = trading_calendar(calendar).name
    known = (names.symbols.get(text.strip().upper()) for text in frame["symbol"].unique().drop_nulls())
    kept = {one.name: one.calendar for one in known if one is not None and one.calendar != wanted}
    listed = ", ".join(f"{name} keeps {kept[name]}" for name in sorted(kept)[:_LISTED])
    return [f"calendar: {calendar} is for new symbols; {listed}{' …' if len(kept) > _LISTED else ''}"] if kept else []


#: Calendars that are loaded: the first use of one takes half a second.
_made_calendars: Final[set[str]] = set()


async def _calendar_named(name: str) -> str:
    if name not in _made_calendars:
        await asyncio.to_thread(trading_calendar, name)
        _made_calendars.add(name)
    return name


@router.get(
    "/latest",
    summary="The newest ticks of a symbol",
    response_model=LatestTicks,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def latest_ticks(
    reader: Ticks,
    room: AnswerRoom,
    symbol: QuerySymbol,
    format: AnswerFormat,
    zone: Zone,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The maximum number of ticks.")] = 100,
) -> Response:
    """Return the newest ticks of a symbol, newest first by event time."""
    await room_for_rows(room, limit, len(SERVED_TICKS))
    ticks = await reader.latest(symbol.id, limit)
    return await answer_frame(ticks, "ticks", {"symbol": symbol.name}, format, zone, filename=f"{symbol.name}_ticks")


@router.get("/summary", summary="A summary of the newest ticks", responses=error_responses(404, 422, 503))
async def tick_summary(
    reader: Ticks,
    clocks: Clocks,
    symbol: QuerySymbol,
    minutes: Minutes = 5,
    eligible: Annotated[
        bool,
        Query(
            description="false: the ticks of all providers, whatever their conditions. true: only the ticks that count"
            " for the volume of bars: those of the leading provider, by the rule for its trade conditions."
        ),
    ] = False,
) -> TickWindow:
    """Summarise the ticks of the last `minutes` up to the market time of the symbol; both ends are included.

    The market time is now for a live feed, and the time of the newest tick for a recording.
    """
    window = Window(minutes, clocks.of_symbol(symbol.id))
    found = await reader.summary(symbol.id, window.start, window.end, eligible=eligible)
    return TickWindow(
        symbol=symbol.name,
        window_minutes=minutes,
        count=found.count,
        avg_price=found.avg_price,
        min_price=found.min_price,
        max_price=found.max_price,
        sum_volume=found.sum_volume,
        start_time=window.start,
        end_time=window.as_of,
        as_of=window.as_of,
        eligible=eligible,
        feeds=found.feeds,
    )
