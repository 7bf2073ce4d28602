"""Trades: pages of one or several symbols over a range."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from stockpulse.aio import offload
from stockpulse.api.alpaca.answers import answer
from stockpulse.api.alpaca.models import Trade
from stockpulse.api.alpaca.params import HISTORICAL, Asked, Page, PathPage, PathSymbols, QueryPage, QuerySymbols
from stockpulse.api.alpaca.shapes import Row, by_symbol, trade_rows
from stockpulse.api.budget import AnswerRoom, Reservation
from stockpulse.api.context import Ticks
from stockpulse.api.formats import room_for_rows
from stockpulse.storage.tick_cursor import TickCursor
from stockpulse.storage.tick_reader import SERVED_TICKS, TickReader

router = APIRouter(tags=["trades"], dependencies=HISTORICAL)

_COPIES = 3
"""The copies of a trade while a page is made: as read, sorted, as rows."""


class TradesOfSymbols(BaseModel):
    """A page of trades of several symbols."""

    trades: dict[str, list[Trade]]
    next_page_token: str | None


class TradesOfSymbol(BaseModel):
    """A page of trades of one symbol."""

    symbol: str
    trades: list[Trade] | None
    next_page_token: str | None


@router.get("/v2/stocks/trades", summary="Trades of several symbols", response_model=TradesOfSymbols)
async def stock_trades(asked: QuerySymbols, page: QueryPage, reader: Ticks, room: AnswerRoom) -> Response:
    """Return trades by symbol, then by time.

    They are the trades from which the bars of a symbol are built: those of its leading provider.
    """
    found, token = await _read(asked, page, reader, room)
    return await answer({"trades": found, "next_page_token": token}, page.limit)


@router.get("/v2/stocks/{symbol:path}/trades", summary="Trades of a symbol", response_model=TradesOfSymbol)
async def stock_trades_of(symbol: PathSymbols, page: PathPage, reader: Ticks, room: AnswerRoom) -> Response:
    """Return trades by time; `trades` is null if there are none."""
    found, token = await _read(symbol, page, reader, room)
    name = symbol.names[0]
    return await answer({"trades": found.get(name), "symbol": name, "next_page_token": token}, page.limit)


async def _read(
    asked: Asked, page: Page, reader: TickReader, room: Reservation
) -> tuple[dict[str, list[Row]], str | None]:
    cursor = None if page.token is None else TickCursor.decode(page.token)
    await room_for_rows(room, _COPIES * page.limit, len(SERVED_TICKS))
    found = await reader.page(asked.known, page.start, page.end, page.limit, cursor, descending=page.descending)
    ticks = found.ticks
    rows = await offload.run_for_reader(len(ticks), lambda: by_symbol(ticks["symbol"], trade_rows(ticks)))
    return rows, None if found.next is None else found.next.encode()
