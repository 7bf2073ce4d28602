"""The codes of exchanges and of conditions, as Alpaca publishes them."""

from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response

from stockpulse.api.alpaca.answers import answer

router = APIRouter(prefix="/v2/stocks/meta", tags=["codes"])

EXCHANGES: Final = {
    "A": "NYSE American (AMEX)",
    "B": "NASDAQ OMX BX",
    "C": "National Stock Exchange",
    "D": "FINRA ADF",
    "E": "Market Independent",
    "H": "MIAX",
    "I": "International Securities Exchange",
    "J": "Cboe EDGA",
    "K": "Cboe EDGX",
    "L": "Long Term Stock Exchange",
    "M": "Chicago Stock Exchange",
    "N": "New York Stock Exchange",
    "P": "NYSE Arca",
    "Q": "NASDAQ OMX",
    "S": "NASDAQ Small Cap",
    "T": "NASDAQ Int",
    "U": "Members Exchange",
    "V": "IEX",
    "W": "CBOE",
    "X": "NASDAQ OMX PSX",
    "Y": "Cboe BYX",
    "Z": "Cboe BZX",
}

_BOTH: Final = {
    "C": "Cash Sale",
    "F": "Intermarket Sweep",
    "H": "Price Variation Trade",
    "I": "Odd Lot Trade",
    "K": "Rule 127 or Rule 155",
    "L": "Sold Last",
    "M": "Market Center Official Close",
    "N": "Next Day",
    "O": "Opening Prints",
    "P": "Prior Reference Price",
    "Q": "Market Center Official Open",
    "R": "Seller",
    "T": "Extended Hours Trade",
    "U": "Extended Trading Hours (Sold Out of Sequence)",
    "V": "Contingent Trade",
    "X": "Cross Trade",
    "Z": "Sold (Out of Sequence)",
    "4": "Derivatively Priced",
    "5": "Re-Opening Prints",
    "6": "Closing Prints",
    "7": "Qualified Contingent Trade",
    "9": "Corrected Consolidated Close",
}
_CTA: Final = {" ": "Regular Sale", "B": "Average Price Trade", "E": "Automatic Execution"} | _BOTH
_UTP: Final = {
    "@": "Regular Sale",
    "A": "Acquisition",
    "B": "Bunched Trade",
    "D": "Distribution",
    "G": "Bunched Sold Trade",
    "W": "Average Price Trade",
    "Y": "Yellow Flag Regular Trade",
} | _BOTH


class ConditionsOf(StrEnum):
    """The kind of records."""

    TRADE = "trade"
    QUOTE = "quote"


class Tape(StrEnum):
    """A consolidated tape: A and B are of the CTA plan, C is of the UTP plan."""

    A = "A"
    B = "B"
    C = "C"


@router.get("/exchanges", summary="The codes of exchanges", response_model=dict[str, str])
async def exchanges() -> Response:
    """Return the name of each exchange by its code."""
    return await answer(EXCHANGES)


@router.get("/conditions/{type}", summary="The codes of conditions", response_model=dict[str, str])
async def conditions(
    type: Annotated[ConditionsOf, Path(description="trade, or quote: StockPulse has no quotes, so these are empty.")],
    tape: Annotated[Tape, Query(description="The tape.")],
) -> Response:
    """Return the name of each trade condition of a tape by its code."""
    if type is ConditionsOf.QUOTE:
        return await answer({})
    return await answer(_UTP if tape is Tape.C else _CTA)
