"""The newest trades and bars, and snapshots of both."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from stockpulse.api.alpaca.answers import answer
from stockpulse.api.alpaca.models import Bar, Snapshot, SnapshotOfSymbol, Trade
from stockpulse.api.alpaca.params import COMMON, Asked, PathSymbols, QuerySymbols
from stockpulse.api.alpaca.shapes import Row, bar_rows, by_symbol, trade_rows
from stockpulse.api.budget import AnswerRoom, Reservation
from stockpulse.api.context import Bars, Ticks
from stockpulse.api.formats import room_for_rows
from stockpulse.errors import NotFound
from stockpulse.market.intervals import D1, M1, Interval
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.served_bars import SERVED_BARS
from stockpulse.storage.tick_reader import SERVED_TICKS, TickReader

router = APIRouter(tags=["latest"], dependencies=COMMON)


class LatestTrades(BaseModel):
    """The newest trade of each symbol that has one."""

    trades: dict[str, Trade]


class LatestTrade(BaseModel):
    """The newest trade of a symbol."""

    symbol: str
    trade: Trade


class LatestBars(BaseModel):
    """The newest 1-minute bar of each symbol that has one."""

    bars: dict[str, Bar]


class LatestBar(BaseModel):
    """The newest 1-minute bar of a symbol."""

    symbol: str
    bar: Bar


@router.get("/v2/stocks/trades/latest", summary="The newest trades", response_model=LatestTrades)
async def latest_trades(asked: QuerySymbols, reader: Ticks, room: AnswerRoom) -> Response:
    """Return the newest trade of each symbol; a trade whose conditions keep it out of prices is never the newest."""
    return await answer({"trades": await _trades(asked, reader, room)})


@router.get("/v2/stocks/{symbol:path}/trades/latest", summary="The newest trade", response_model=LatestTrade)
async def latest_trade(symbol: PathSymbols, reader: Ticks, room: AnswerRoom) -> Response:
    """Return the newest trade of a symbol."""
    found = await _trades(symbol, reader, room)
    return await answer({"symbol": symbol.names[0], "trade": _only(symbol, found, "trade")})


@router.get("/v2/stocks/bars/latest", summary="The newest 1-minute bars", response_model=LatestBars)
async def latest_bars(asked: QuerySymbols, reader: Bars, room: AnswerRoom) -> Response:
    """Return the newest complete 1-minute bar of each symbol."""
    return await answer({"bars": await _minutes(asked, reader, room)})


@router.get("/v2/stocks/{symbol:path}/bars/latest", summary="The newest 1-minute bar", response_model=LatestBar)
async def latest_bar(symbol: PathSymbols, reader: Bars, room: AnswerRoom) -> Response:
    """Return the newest complete 1-minute bar of a symbol."""
    found = await _minutes(symbol, reader, room)
    return await answer({"symbol": symbol.names[0], "bar": _only(symbol, found, "bar")})


@router.get("/v2/stocks/snapshots", summary="The newest data of symbols", response_model=dict[str, Snapshot | None])
async def snapshots(asked: QuerySymbols, bars: Bars, ticks: Ticks, room: AnswerRoom) -> Response:
    """Return the newest trade, minute, day and the day before of each symbol; null for a symbol without data."""
    return await answer(await _snapshots(asked, bars, ticks, room))


@router.get("/v2/stocks/{symbol:path}/snapshot", summary="The newest data of a symbol", response_model=SnapshotOfSymbol)
async def snapshot(symbol: PathSymbols, bars: Bars, ticks: Ticks, room: AnswerRoom) -> Response:
    """Return the newest trade, minute, day and the day before."""
    found = await _snapshots(symbol, bars, ticks, room)
    return await answer({"symbol": symbol.names[0], **_only(symbol, found, "snapshot")})


def _only(asked: Asked, found: Mapping[str, Any], kind: str) -> Any:
    """Return the row of the requested symbol. Raises NotFound if it has no row."""
    row = found.get(asked.names[0])
    if row is None:
        raise NotFound(f"no {kind} found for {asked.names[0]}")
    return row


async def _trades(asked: Asked, reader: TickReader, room: Reservation) -> dict[str, Row]:
    await room_for_rows(room, len(asked.known), len(SERVED_TICKS))
    newest = [await reader.newest_price(symbol) for symbol in asked.known]
    return {ticks["symbol"][0]: trade_rows(ticks)[0] for ticks in newest if len(ticks)}


async def _minutes(asked: Asked, reader: BarReader, room: Reservation) -> dict[str, Row]:
    """Return the newest minute of each symbol that is complete."""
    found = await _newest(asked, M1, reader, room, only_final=True)
    return {name: rows[-1] for name, rows in found.items()}


async def _newest(
    asked: Asked, interval: Interval, reader: BarReader, room: Reservation, *, only_final: bool = False
) -> dict[str, list[Row]]:
    """Return the two newest bars of each symbol, or those of them that are final."""
    if not asked.known:
        return {}
    await room_for_rows(room, 4 * len(asked.known), len(SERVED_BARS))
    bars = reader.served(await reader.newest(interval, [symbol.id for symbol in asked.known], 2), interval)
    bars = bars.filter("final") if only_final else bars
    return by_symbol(bars["symbol"], bar_rows(bars))


async def _snapshots(
    asked: Asked, bars: BarReader, ticks: TickReader, room: Reservation
) -> dict[str, dict[str, Row | None] | None]:
    days = await _newest(asked, D1, bars, room)
    minutes = await _minutes(asked, bars, room)
    trades = await _trades(asked, ticks, room)
    found: dict[str, dict[str, Row | None] | None] = {}
    for name in asked.names:
        of_days = days.get(name, [])
        one = {
            "latestTrade": trades.get(name),
            "latestQuote": None,
            "minuteBar": minutes.get(name),
            "dailyBar": of_days[-1] if of_days else None,
            "prevDailyBar": of_days[-2] if len(of_days) > 1 else None,
        }
        found[name] = one if any(one.values()) else None
    return found
