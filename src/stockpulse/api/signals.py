"""Signals, and the screener, which evaluates a condition over all symbols."""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from stockpulse.api import context
from stockpulse.api.budget import AnswerRoom, Reservation
from stockpulse.api.context import PathSymbol, Text
from stockpulse.api.encoders import Format, Rows
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import ASK_FOR_LESS, FORMAT_RESPONSES, AnswerFormat, answer, only, room_for_rows
from stockpulse.api.time_params import Zone
from stockpulse.errors import InvalidInput
from stockpulse.market.intervals import BASE_INTERVALS, STORED_INTERVAL_PATTERN, Interval, parse_interval
from stockpulse.market.symbology import Symbol
from stockpulse.rules import MAX_CHARACTERS, parse
from stockpulse.storage.signals import SERVED_SIGNALS, SignalStore

router = APIRouter(tags=["signals"])


class Signal(BaseModel):
    """The result of a rule for a closed bar."""

    symbol: str = Field(examples=["AAPL"])
    timestamp: str = Field(examples=["2026-02-27T12:05:00Z"], description="start of the bar")
    signal: str = Field(examples=["BUY"], description="BUY, SELL or HOLD")
    price: float = Field(examples=[189.98], description="close of the bar")
    rule: str = Field(examples=["sma_rsi"])
    interval: str = Field(examples=["1m"])
    revision: int = Field(examples=[4194329], description="grows when this bar or an earlier one changes")


class Signals(BaseModel):
    """The newest signals, newest first; `total` counts all matching signals, not only these."""

    total: int = Field(examples=[150])
    signals: list[Signal]


class Match(BaseModel):
    """A symbol that satisfies the condition, with one more field for each value in the condition."""

    symbol: str = Field(examples=["AAPL"])
    ts: str = Field(examples=["2026-02-27T05:00:00Z"], description="start of the symbol's newest bar")
    final: bool = Field(examples=[False], description="false while the bar is forming")
    close: float = Field(examples=[189.98])


class Screen(BaseModel):
    """The symbols whose newest bar satisfies a condition."""

    where: str = Field(examples=["sma(20) > sma(50) and rsi(14) < 30"])
    interval: str = Field(examples=["1d"])
    count: int = Field(examples=[1])
    matches: list[Match]


Kind = Annotated[Literal["BUY", "SELL", "HOLD"] | None, Query(description="Only signals with this value.")]
RuleName = Annotated[Text | None, Query(description="Only signals of this rule.", max_length=64)]
Limit = Annotated[int, Query(ge=1, le=10_000, description="The maximum number of signals.")]


@router.get("/signals/", include_in_schema=False)  # else it would mean: the signals of an empty symbol
@router.get(
    "/signals",
    summary="The newest signals",
    response_model=Signals,
    responses=FORMAT_RESPONSES | error_responses(413, 422, 503),
)
async def signals(
    stored: context.Signals,
    room: AnswerRoom,
    format: AnswerFormat,
    zone: Zone,
    limit: Limit = 100,
    signal: Kind = None,
    rule: RuleName = None,
) -> Response:
    """Return signals of all symbols, newest first: one for each rule and closed bar.

    The signal is HOLD if neither condition of the rule holds, if both do, or if history is too short.
    """
    return await _signals(stored, room, None, limit, signal, rule, format, zone)


@router.get(
    "/signals/{symbol:path}",
    summary="The newest signals of a symbol",
    response_model=Signals,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def signals_of_symbol(
    stored: context.Signals,
    room: AnswerRoom,
    symbol: PathSymbol,
    format: AnswerFormat,
    zone: Zone,
    limit: Limit = 100,
    signal: Kind = None,
    rule: RuleName = None,
) -> Response:
    """Return the signals of one symbol, newest first."""
    return await _signals(stored, room, symbol, limit, signal, rule, format, zone)


async def _signals(
    stored: SignalStore,
    room: Reservation,
    symbol: Symbol | None,
    limit: int,
    signal: str | None,
    rule: str | None,
    format: Format,
    zone: ZoneInfo,
) -> Response:
    await room_for_rows(room, limit, len(SERVED_SIGNALS))
    total, found = await stored.latest(limit, symbol=symbol, signal=signal, rule=rule)
    filename = f"{symbol.name if symbol else 'all'}_signals"
    rows = Rows(
        chunks=only(found), schema=found.schema, key="signals", header_fields={"total": total}, filename=filename
    )
    return await answer(rows, format, zone)


async def _stored_interval(
    interval: Annotated[
        str,
        Query(
            description="Interval of the bars: 1m, 5m or 1d; also 5min, 1day, …",
            examples=["5min"],
            max_length=32,
            json_schema_extra={"pattern": STORED_INTERVAL_PATTERN},
        ),
    ] = "1d",
) -> Interval:
    found = parse_interval(interval)
    if found not in BASE_INTERVALS:
        raise InvalidInput("interval", f"got {found.name}; takes {', '.join(one.name for one in BASE_INTERVALS)}")
    return found


StoredInterval = Annotated[Interval, Depends(_stored_interval)]


@router.get(
    "/screen",
    summary="The symbols that satisfy a condition",
    response_model=Screen,
    responses=FORMAT_RESPONSES | error_responses(413, 422, 503),
)
async def screen(
    screener: context.Screening,
    room: AnswerRoom,
    format: AnswerFormat,
    zone: Zone,
    interval: StoredInterval,
    where: Annotated[
        str,
        Query(
            description="A condition on the fields of the bar (open, high, low, close, volume) and on indicators:"
            " `sma(20) > sma(50) and rsi < 30`. Earlier bars: `x[1]` is the value of x one bar ago,"
            " `highest(x, n)` and `lowest(x, n)` are its extremes in the last n bars, `change_pct(n)` is the change of"
            " the close over n bars in percent, `crosses_above(a, b)` and `crosses_below(a, b)` hold on the bar where"
            " a crosses b. Without enough history these are unknown. Two numbers are equal if they differ by no more"
            " than 1e-12 of their size or, for indicators, of their unit (the close, 100 for percentages, the volume).",
            examples=["rsi(14) < 30", "crosses_above(sma(20), sma(50)) and close > highest(high, 20)[1]"],
            max_length=MAX_CHARACTERS,
        ),
    ],
) -> Response:
    """Evaluate a condition on each symbol's newest bar; `final` is false if that bar is still forming.

    An unknown condition is not satisfied.
    """
    expression = parse(where)
    await room.grow_to(screener.bytes_for(expression), ASK_FOR_LESS)
    found = await screener.matches(expression, interval)
    header = {"where": where.strip(), "interval": interval.name, "count": found.height}
    rows = Rows(chunks=only(found), schema=found.schema, key="matches", header_fields=header, filename="screen")
    return await answer(rows, format, zone)
