"""The symbols that are known."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from stockpulse.api.context import Ctx

router = APIRouter(tags=["symbols"])


class Symbols(BaseModel):
    """All symbols of which a tick or a bar has come."""

    symbols: list[str] = Field(examples=[["AAPL", "AMZN", "GOOG", "MSFT", "NVDA", "TSLA"]])


@router.get("/symbols", summary="The symbols that are known")
async def symbols(context: Ctx) -> Symbols:
    """In alphabetical order."""
    return Symbols(symbols=sorted(context.names.symbols))
