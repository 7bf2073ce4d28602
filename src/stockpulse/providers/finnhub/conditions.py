"""The condition codes of Finnhub's trades.

The vendor does not publish them. Observed are 1 on regular trades, 12 on trades below 100 shares, and 24 on trades
outside the regular hours; a trade may have several, or none. They are treated like the conditions of the tape that
mean the same.
"""

from typing import Final

from stockpulse.market.schemas import COUNTS_FOR_VOLUME, DAY_VOLUME
from stockpulse.providers.trade_conditions import PRICE_ONLY, alpaca, prices_and_trades

_ON_THE_TAPE: Final = {"1": "@", "12": "I", "24": "T"}
_TAPE: Final = "C"


def finnhub(conditions: str, _tape: str = "") -> int:
    """Read Finnhub's codes, joined by commas: odd lots and extended hours count as by Alpaca's table.

    A price without a trade counts for the prices that a trade of its codes would count for.
    """
    codes = [code for code in conditions.split(",") if code]
    trade = [_ON_THE_TAPE.get(code, f"finnhub {code}") for code in codes if code != PRICE_ONLY]
    if PRICE_ONLY not in codes:
        return alpaca(",".join(trade), _TAPE)
    if not trade:
        return prices_and_trades(PRICE_ONLY)
    return alpaca(",".join(trade), _TAPE) & ~(COUNTS_FOR_VOLUME | DAY_VOLUME)
