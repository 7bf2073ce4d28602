"""The known symbols."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from stockpulse.api import context

router = APIRouter(tags=["symbols"])


class Symbols(BaseModel):
    """All symbols that a tick or a bar has come for."""

    symbols: list[str] = Field(examples=[["AAPL", "AMZN", "GOOG", "MSFT", "NVDA", "TSLA"]])


@router.get("/symbols", summary="List the known symbols")
async def symbols(names: context.Symbols) -> Symbols:
    """Return the known symbols in alphabetical order."""
    return Symbols(symbols=sorted(names.symbols))
