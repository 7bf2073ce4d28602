"""Indicators: the stored ones of every bar, and any others over any history."""

from typing import Annotated, Any, Final

import orjson
import polars as pl
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from stockpulse.api import context
from stockpulse.api.budget import AnswerRoom, Reservation
from stockpulse.api.context import PathSymbol, QueryInterval
from stockpulse.api.encoders import Format, Rows, json_rows
from stockpulse.api.error_responses import error_responses
from stockpulse.api.formats import (
    FORMAT_RESPONSES,
    AnswerFormat,
    answer,
    answer_frame,
    room_for_rows,
    room_for_stream,
)
from stockpulse.api.ranges import DailyRange, IntradayRange, Range, TimeRange
from stockpulse.api.time_params import Zone
from stockpulse.indicators.aliases import aliases_of, aliases_of_parameter
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import MAX_PERIOD, Indicator
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.indicators.selection import column_names, select
from stockpulse.market.intervals import D1, M5, Interval
from stockpulse.market.symbology import Symbol
from stockpulse.storage.analytics_reader import SERVED_ANALYTICS, AnalyticsReader

router = APIRouter(tags=["analytics"])

_EXAMPLE: Final = {"ts": "2026-02-27T12:05:00Z", "revision": 4194329, "sma": 189.31, "rsi": 55.4, "macd": 0.18}


class Tiers(BaseModel):
    """The newest real-time, 5-minute and daily indicators; null if there are none yet."""

    symbol: str = Field(examples=["AAPL"])
    realtime: dict[str, Any] | None = Field(
        examples=[{"price": 189.72, "moving_average": 189.7, "rsi": 55.9}],
        description="the newest price, the mean of the newest five prices, and the indicators of the 5-minute bar at"
        " `ts`: the forming bar or, if no bar is forming, the last closed bar",
    )
    intraday: dict[str, Any] | None = Field(examples=[_EXAMPLE], description="the newest closed 5-minute bar")
    daily: dict[str, Any] | None = Field(examples=[_EXAMPLE], description="the newest closed day")


class AnalyticsOfBars(BaseModel):
    """The stored indicators of closed bars, oldest first, with default parameters.

    A value is null until there is enough history.
    """

    symbol: str = Field(examples=["AAPL"])
    interval: str = Field(examples=["5m"])
    analytics: list[dict[str, Any]] = Field(examples=[[_EXAMPLE]])


class ParameterInfo(BaseModel):
    """A parameter of an indicator."""

    name: str = Field(examples=["period"])
    default: bool | int | float | None = Field(
        examples=[14], description="null if the default depends on the trading calendar of the symbol"
    )
    minimum: bool | int | float = Field(examples=[2])
    maximum: bool | int | float = Field(examples=[MAX_PERIOD])
    whole: bool = Field(examples=[True], description="true if it takes whole numbers only")
    aliases: list[str] = Field(examples=[["timeperiod"]], description="other names that are accepted")


class IndicatorInfo(BaseModel):
    """An indicator of the catalogue."""

    name: str = Field(examples=["rsi"])
    title: str = Field(examples=["Relative strength index"])
    family: str = Field(examples=["momentum"])
    description: str = Field(examples=["Wilder's share of the gains in all changes."])
    inputs: list[str] = Field(examples=[["close"]])
    outputs: list[str] = Field(examples=[["rsi"]])
    parameters: list[ParameterInfo]
    lookback: int = Field(examples=[14], description="bars before the first full row, with default parameters")
    units: str = Field(examples=["0 to 100"])
    flat: dict[str, str] = Field(
        examples=[{"rsi": "0"}],
        description="the value of each output while all prices are equal: a number, `price`, `null`,"
        " or `volume` if the value depends on the volume",
    )
    aliases: list[str] = Field(examples=[["willr"]], description="other names of the indicator and of its outputs")
    source: str = Field(examples=["TA-Lib RSI"], description="the source of the formula")


class Catalogue(BaseModel):
    """All indicators."""

    count: int = Field(examples=[47])
    indicators: list[IndicatorInfo]


class IndicatorChoice(BaseModel):
    """A calculated indicator."""

    type: str = Field(examples=["rsi"])
    parameters: dict[str, bool | float] = Field(examples=[{"period": 14}])
    columns: list[str] = Field(examples=[["rsi"]], description="the names of its columns in `values`")


class IndicatorValues(BaseModel):
    """Indicators of the bars of a symbol, oldest first; a value is null until there is enough history."""

    symbol: str = Field(examples=["AAPL"])
    interval: str = Field(examples=["1d"])
    indicators: list[IndicatorChoice]
    values: list[dict[str, Any]] = Field(
        examples=[[{"ts": "2026-02-27T05:00:00Z", "close": 189.98, "final": True, "rsi": 55.4}]]
    )


Limit = Annotated[
    int | None,
    Query(
        ge=1,
        le=10_000,
        description="The maximum number of rows; the newest are returned. Default: 100 without `start`, else no limit.",
    ),
]


@router.get(
    "/analytics/intraday/{symbol:path}",
    summary="Indicators of 5-minute bars",
    response_model=AnalyticsOfBars,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def intraday_analytics(
    stored: context.Analytics,
    room: AnswerRoom,
    symbol: PathSymbol,
    times: IntradayRange,
    format: AnswerFormat,
    zone: Zone,
    limit: Limit = None,
) -> Response:
    """Return all stored indicators, with default parameters, of closed 5-minute bars that begin in [start, end)."""
    return await _stored(stored, room, symbol, M5, times, limit, format, zone)


@router.get(
    "/analytics/daily/{symbol:path}",
    summary="Indicators of daily bars",
    response_model=AnalyticsOfBars,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
)
async def daily_analytics(
    stored: context.Analytics,
    room: AnswerRoom,
    symbol: PathSymbol,
    times: DailyRange,
    format: AnswerFormat,
    zone: Zone,
    limit: Limit = None,
) -> Response:
    """Return all stored indicators, with default parameters, of closed daily bars that begin in [start, end)."""
    return await _stored(stored, room, symbol, D1, times, limit, format, zone)


async def _stored(
    stored: AnalyticsReader,
    room: Reservation,
    symbol: Symbol,
    interval: Interval,
    times: TimeRange,
    limit: int | None,
    format: Format,
    zone: Any,
) -> Response:
    header = {"symbol": symbol.name, "interval": interval.name}
    filename = f"{symbol.name}_analytics_{interval.name}"
    if times.start is None or limit is not None:
        await room_for_rows(room, limit or 100, len(SERVED_ANALYTICS))
        newest = await stored.latest(symbol, interval, limit or 100, times.start, times.end)
        return await answer_frame(newest, "analytics", header, format, zone, filename=filename)
    await room_for_stream(room, format)
    pages = stored.between(symbol, interval, times.start, times.end)
    rows = Rows(chunks=pages, schema=SERVED_ANALYTICS, key="analytics", header_fields=header, filename=filename)
    return await answer(rows, format, zone)


@router.get(
    "/analytics/{symbol:path}",
    summary="The newest real-time, 5-minute and daily indicators",
    response_model=Tiers,
    responses=error_responses(404, 422, 503),
)
async def analytics(stored: context.Analytics, symbol: PathSymbol, zone: Zone) -> Response:
    """Return the newest indicators: real-time (of a bar that may be forming), of 5-minute bars and of daily bars."""
    tiers = {
        "realtime": await stored.realtime(symbol),
        "intraday": await stored.latest(symbol, M5, 1),
        "daily": await stored.latest(symbol, D1, 1),
    }
    shown = {
        name: orjson.Fragment(json_rows(frame, zone)[1:-1]) if frame.height else None for name, frame in tiers.items()
    }
    return Response(orjson.dumps({"symbol": symbol.name} | shown), media_type="application/json")


@router.get("/indicators/", include_in_schema=False)  # else it would mean: the indicators of an empty symbol
@router.get("/indicators", summary="The catalogue of indicators")
async def catalogue() -> Catalogue:
    """Return all indicators, with their parameters, units and the sources of their formulas."""
    return Catalogue(count=len(CATALOGUE), indicators=[_described(one) for one in CATALOGUE.values()])


def _described(one: Indicator) -> IndicatorInfo:
    return IndicatorInfo(
        name=one.name,
        title=one.title,
        family=one.family,
        description=(one.function.__doc__ or "").strip(),
        inputs=list(one.inputs),
        outputs=list(one.outputs),
        parameters=[
            ParameterInfo(
                name=p.name,
                default=p.default,
                minimum=p.minimum,
                maximum=p.maximum,
                whole=p.is_integer,
                aliases=aliases_of_parameter(one, p.name),
            )
            for p in one.parameters
        ],
        lookback=max(Instance(one).loop.lookback),
        units=one.units,
        flat=dict(zip(one.outputs, one.flat, strict=True)),
        aliases=aliases_of(one),
        source=one.source,
    )


_PARAMETERS: Final = sorted({parameter.name for one in CATALOGUE.values() for parameter in one.parameters})
_FLAGS: Final = {parameter.name for one in CATALOGUE.values() for parameter in one.parameters if parameter.is_flag}


def _schema_of(name: str) -> dict[str, Any]:
    """Return the values that some indicator takes for the parameter with this name."""
    found = [one for indicator in CATALOGUE.values() for one in indicator.parameters if one.name == name]
    if found[0].is_flag:
        return {"type": "boolean"}
    return {
        "type": "integer" if all(one.is_integer for one in found) else "number",
        "minimum": min(one.minimum for one in found),
        "maximum": max(one.maximum for one in found),
    }


_OURS: Final = frozenset({"type", "interval", "start", "end", "limit", "format", "tz"})


@router.get(
    "/indicators/{symbol:path}",
    summary="Any indicators over any history",
    response_model=IndicatorValues,
    responses=FORMAT_RESPONSES | error_responses(404, 413, 422, 503),
    openapi_extra={
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": "Applies to the requested indicators that have this parameter: see /indicators.",
                "schema": _schema_of(name),
            }
            for name in _PARAMETERS
        ]
    },
)
async def indicators(
    stored: context.Analytics,
    clocks: context.Clocks,
    room: AnswerRoom,
    request: Request,
    symbol: PathSymbol,
    interval: QueryInterval,
    times: Range,
    format: AnswerFormat,
    zone: Zone,
    type: Annotated[
        str,
        Query(
            description="One or several: `rsi`, `rsi,macd`, `rsi(7),rsi(21)`. Query parameters, such as `period=14`,"
            " apply to all requested indicators that have them. The names of TA-Lib are accepted too:"
            " `bbands`, `timeperiod=14`; see /indicators.",
            examples=["rsi,macd"],
            max_length=1000,
        ),
    ],
    limit: Annotated[
        int | None, Query(ge=1, le=100_000, description="The maximum number of rows; the newest are returned.")
    ] = None,
) -> Response:
    """Return indicators of the bars that begin in [start, end), oldest first.

    The calculation includes all bars before `start`, so the first row is as exact as the last. The last bar may still
    be forming; then its `final` is false.
    """
    given = {name: value for name, value in request.query_params.items() if name not in _OURS}
    instances = select(type, given)
    columns = column_names(instances)
    until = clocks.closed_until(symbol.id)
    await room_for_stream(room, format, kept_cells=(limit or 0) * len(columns))
    pages = stored.calculated(Bundle(instances), columns, symbol, interval, times.start, times.end, until)
    schema = pl.Schema({"ts": SERVED_ANALYTICS["ts"], "close": pl.Float64(), "final": pl.Boolean()})
    rows = Rows(
        chunks=pages if limit is None else _newest(pages, limit),
        schema=pl.Schema(schema | dict.fromkeys(columns, pl.Float64())),
        key="values",
        header_fields={
            "symbol": symbol.name,
            "interval": interval.name,
            "indicators": [
                {"type": one.indicator.name, "parameters": one.values, "columns": _own(instances, columns, i)}
                for i, one in enumerate(instances)
            ],
        },
        filename=f"{symbol.name}_indicators_{interval.name}",
    )
    return await answer(rows, format, zone)


def _own(instances: list[Instance], columns: list[str], place: int) -> list[str]:
    """Return the columns of one of the instances."""
    begin = sum(len(one.indicator.outputs) for one in instances[:place])
    return columns[begin : begin + len(instances[place].indicator.outputs)]


async def _newest(pages: Any, limit: int) -> Any:
    """Yield the last rows of all pages."""
    kept: list[pl.DataFrame] = []
    async for page in pages:
        kept = [pl.concat([*kept, page]).tail(limit)]
    for page in kept:
        yield page
