"""Bars: pages of one or several symbols over a range."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from stockpulse.aio import offload
from stockpulse.api.alpaca.answers import answer
from stockpulse.api.alpaca.models import Bar
from stockpulse.api.alpaca.params import (
    ADJUSTED,
    Asked,
    Page,
    PathPage,
    PathSymbols,
    QueryPage,
    QuerySymbols,
    Timeframe,
)
from stockpulse.api.alpaca.shapes import Row, bar_rows, by_symbol
from stockpulse.api.budget import AnswerRoom, Reservation
from stockpulse.api.context import Bars, Clocks
from stockpulse.api.formats import room_for_rows
from stockpulse.market.intervals import M1, Interval
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.storage.bar_cursor import Cursor
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.served_bars import SERVED_BARS

router = APIRouter(tags=["bars"], dependencies=ADJUSTED)


class BarsOfSymbols(BaseModel):
    """A page of bars of several symbols."""

    bars: dict[str, list[Bar]]
    next_page_token: str | None


class BarsOfSymbol(BaseModel):
    """A page of bars of one symbol."""

    symbol: str
    bars: list[Bar] | None
    next_page_token: str | None


@router.get("/v2/stocks/bars", summary="Bars of several symbols", response_model=BarsOfSymbols)
async def stock_bars(
    asked: QuerySymbols, page: QueryPage, interval: Timeframe, reader: Bars, clocks: Clocks, room: AnswerRoom
) -> Response:
    """Return bars by symbol, then by time. A page may end within a symbol; its token leads to the next one."""
    found, token = await _read(asked, page, interval, reader, clocks, room)
    return await answer({"bars": found, "next_page_token": token}, page.limit)


@router.get("/v2/stocks/{symbol:path}/bars", summary="Bars of a symbol", response_model=BarsOfSymbol)
async def stock_bars_of(
    symbol: PathSymbols, page: PathPage, interval: Timeframe, reader: Bars, clocks: Clocks, room: AnswerRoom
) -> Response:
    """Return bars by time; `bars` is null if there are none."""
    found, token = await _read(symbol, page, interval, reader, clocks, room)
    name = symbol.names[0]
    return await answer({"bars": found.get(name), "symbol": name, "next_page_token": token}, page.limit)


async def _read(
    asked: Asked, page: Page, interval: Interval, reader: BarReader, clocks: ProviderClocks, room: Reservation
) -> tuple[dict[str, list[Row]], str | None]:
    cursor = None if page.token is None else Cursor.decode(page.token)
    if not asked.known:
        return {}, None
    await room_for_rows(room, page.limit + reader.rows_for_latest(interval, page.limit), len(SERVED_BARS))
    found = await reader.page(
        asked.known,
        interval,
        page.start,
        page.end,
        page.limit,
        cursor,
        descending=page.descending,
        closed_until=lambda symbol: clocks.closed_until(symbol.id),
    )
    # A minute appears when it is complete; a longer bar while it forms.
    bars = found.bars.filter("final") if interval == M1 else found.bars
    rows = await offload.run_for_reader(len(bars), lambda: by_symbol(bars["symbol"], bar_rows(bars)))
    return rows, None if found.next is None else found.next.encode()
