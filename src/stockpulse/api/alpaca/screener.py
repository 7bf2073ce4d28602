"""Alpaca's screeners: the symbols that moved most, and the most active ones, on their newest day."""

import math
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import numpy as np
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from stockpulse.api.alpaca.answers import answer
from stockpulse.api.bars import MOVE_BYTES
from stockpulse.api.budget import AnswerRoom
from stockpulse.api.context import Bars, Now, Symbols
from stockpulse.api.formats import ASK_FOR_LESS
from stockpulse.engine.bar_math import volume_of
from stockpulse.market.intervals import D1
from stockpulse.market.symbology import Names, is_pair
from stockpulse.storage.movers import Move, moves_since_last_day

router = APIRouter(prefix="/v1beta1/screener", tags=["screener"])

_DIGITS: Final = 2
_PRICE_DIGITS: Final = 4


class Market(StrEnum):
    """The kind of symbols: pairs such as BTC/USD are crypto, all others stocks."""

    STOCKS = "stocks"
    CRYPTO = "crypto"


class Activity(StrEnum):
    """The measure of activity."""

    VOLUME = "volume"
    TRADES = "trades"


class Mover(BaseModel):
    """The move of a symbol since the close of its last day."""

    symbol: str = Field(examples=["NVDA"])
    price: float = Field(examples=[876.2])
    change: float = Field(examples=[1.7])
    percent_change: float = Field(examples=[0.19])


class Movers(BaseModel):
    """The symbols that rose and fell most."""

    gainers: list[Mover]
    losers: list[Mover]
    market_type: Market
    last_updated: datetime


class Active(BaseModel):
    """The activity of a symbol on its newest day."""

    symbol: str = Field(examples=["NVDA"])
    volume: float = Field(examples=[5240000])
    trade_count: int = Field(examples=[1800])


class MostActives(BaseModel):
    """The most active symbols."""

    most_actives: list[Active]
    last_updated: datetime


@router.get("/{market_type}/movers", summary="The symbols that moved most", response_model=Movers)
async def movers(
    reader: Bars,
    names: Symbols,
    now: Now,
    room: AnswerRoom,
    market_type: Annotated[Market, Path(description="stocks, or crypto: pairs such as BTC/USD.")],
    top: Annotated[int, Query(ge=1, le=50, description="The number of gainers and of losers.")] = 10,
) -> Response:
    """Return the largest changes from the close of the last day to the newest price."""
    ids = _of_market(names, market_type)
    await room.grow_to(len(ids) * MOVE_BYTES, ASK_FOR_LESS)
    moves = moves_since_last_day(await reader.newest(D1, ids, 2), names)
    moves = sorted(
        (one for one in moves if math.isfinite(one.change_pct)), key=lambda one: (-one.change_pct, one.symbol)
    )
    return await answer(
        {
            "gainers": [_shown(one) for one in moves if one.change_pct > 0][:top],
            "losers": [_shown(one) for one in reversed(moves) if one.change_pct < 0][:top],
            "market_type": market_type,
            "last_updated": now(),
        }
    )


@router.get("/stocks/most-actives", summary="The most active symbols", response_model=MostActives)
async def most_actives(
    reader: Bars,
    names: Symbols,
    now: Now,
    room: AnswerRoom,
    by: Annotated[Activity, Query(description="volume, or the number of trades.")] = Activity.VOLUME,
    top: Annotated[int, Query(ge=1, le=100, description="The number of symbols.")] = 10,
) -> Response:
    """Return the symbols with the largest volume, or the most trades, on their newest day."""
    ids = _of_market(names, Market.STOCKS)
    await room.grow_to(len(ids) * MOVE_BYTES, ASK_FOR_LESS)
    days = await reader.newest(D1, ids, 1)
    volume, trades = np.nan_to_num(volume_of(days)), np.maximum(days["trade_count"], 0)
    order = np.argsort(-(volume if by is Activity.VOLUME else trades), kind="stable")[:top]
    found = [
        {
            "symbol": names.symbol_by_id[int(days["symbol_id"][at])].name,
            "volume": float(volume[at]),
            "trade_count": int(trades[at]),
        }
        for at in order
    ]
    return await answer({"most_actives": found, "last_updated": now()})


def _of_market(names: Names, market: Market) -> list[int]:
    crypto = market is Market.CRYPTO
    return sorted(symbol.id for symbol in names.symbols.values() if is_pair(symbol.name) is crypto)


def _shown(move: Move) -> dict[str, object]:
    return {
        "symbol": move.symbol,
        "price": move.price_close,
        "change": round(move.price_close - move.price_open, _PRICE_DIGITS),
        "percent_change": round(move.change_pct, _DIGITS),
    }
