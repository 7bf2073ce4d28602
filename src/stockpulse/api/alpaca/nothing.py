"""Empty answers for the kinds of data that StockPulse does not have: quotes, auctions, corporate actions."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from stockpulse.api.alpaca.answers import answer
from stockpulse.api.alpaca.models import Quote
from stockpulse.api.alpaca.params import COMMON, HISTORICAL, PathPage, PathSymbols, QueryPage, QuerySymbols
from stockpulse.errors import NotFound

router = APIRouter(tags=["quotes, auctions, corporate actions"])


class NoQuotes(BaseModel):
    """No quotes."""

    quotes: dict[str, list[Quote]]
    next_page_token: None


class NoLatestQuotes(BaseModel):
    """No quotes."""

    quotes: dict[str, Quote]


class NoQuotesOfSymbol(BaseModel):
    """No quotes."""

    symbol: str
    quotes: None
    next_page_token: None


class NoAuctions(BaseModel):
    """No auctions."""

    auctions: dict[str, list[str]]
    next_page_token: None


class NoAuctionsOfSymbol(BaseModel):
    """No auctions."""

    symbol: str
    auctions: None
    next_page_token: None


class NoCorporateActions(BaseModel):
    """No corporate actions."""

    corporate_actions: dict[str, list[str]]
    next_page_token: None


@router.get("/v2/stocks/quotes", summary="No quotes", response_model=NoQuotes, dependencies=HISTORICAL)
async def stock_quotes(asked: QuerySymbols, page: QueryPage) -> Response:  # noqa: ARG001  # they are checked
    """Return an empty page: StockPulse has no quotes."""
    return await answer({"quotes": {}, "next_page_token": None})


@router.get(
    "/v2/stocks/{symbol:path}/quotes", summary="No quotes", response_model=NoQuotesOfSymbol, dependencies=HISTORICAL
)
async def stock_quotes_of(symbol: PathSymbols, page: PathPage) -> Response:  # noqa: ARG001
    """Return an empty page: StockPulse has no quotes."""
    return await answer({"quotes": None, "symbol": symbol.names[0], "next_page_token": None})


@router.get("/v2/stocks/quotes/latest", summary="No quotes", response_model=NoLatestQuotes, dependencies=COMMON)
async def latest_quotes(asked: QuerySymbols) -> Response:  # noqa: ARG001
    """Return no quote: StockPulse has none."""
    return await answer({"quotes": {}})


@router.get("/v2/stocks/{symbol:path}/quotes/latest", summary="No quote", dependencies=COMMON)
async def latest_quote(symbol: PathSymbols) -> Response:
    """Answer 404: StockPulse has no quotes."""
    raise NotFound(f"no quote found for {symbol.names[0]}")


@router.get("/v2/stocks/auctions", summary="No auctions", response_model=NoAuctions, dependencies=HISTORICAL)
async def stock_auctions(asked: QuerySymbols, page: QueryPage) -> Response:  # noqa: ARG001
    """Return an empty page: StockPulse has no auctions apart from their trades."""
    return await answer({"auctions": {}, "next_page_token": None})


@router.get(
    "/v2/stocks/{symbol:path}/auctions",
    summary="No auctions",
    response_model=NoAuctionsOfSymbol,
    dependencies=HISTORICAL,
)
async def stock_auctions_of(symbol: PathSymbols, page: PathPage) -> Response:  # noqa: ARG001
    """Return an empty page: StockPulse has no auctions apart from their trades."""
    return await answer({"auctions": None, "symbol": symbol.names[0], "next_page_token": None})


@router.get("/v1/corporate-actions", summary="No corporate actions", response_model=NoCorporateActions)
async def corporate_actions(
    limit: Annotated[int, Query(ge=1, le=1000, description="The maximum number of actions.")] = 100,  # noqa: ARG001
) -> Response:
    """Return no group of actions: StockPulse stores none. The other parameters of Alpaca have no effect."""
    return await answer({"corporate_actions": {}, "next_page_token": None})
