"""Trade-condition rules: the parts of minute bars and daily bars that a trade updates, by its conditions.

A rule belongs to a provider, since each provider has its own codes. It takes the conditions of one trade as the
provider writes them, and the trade's tape ("" if it is not said), and returns flags of `market.schemas`. A trade
without conditions counts for everything. Conditions that a rule cannot read are `UNREADABLE`: the trade counts for
volume alone, and is counted in `stockpulse_unreadable_conditions_total`.

Few different conditions make up many trades, so a rule runs once for each of them and need not be fast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import (
    COUNTS_FOR_PRICE,
    COUNTS_FOR_VOLUME,
    DAY_APART,
    DAY_FIRST_PRICE,
    DAY_OPENING,
    DAY_PRICE,
    DAY_VOLUME,
    UNREADABLE,
)

Rule: TypeAlias = Callable[[str, str], int]
"""Takes conditions and tape, returns flags."""

ALL: Final = COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME


def all_count(_conditions: str, _tape: str = "") -> int:
    """Count every trade for everything: the rule of a provider that has no codes."""
    return ALL


PRICE_ONLY: Final = "price-only"
"""The condition that our own code gives to a price without a trade: a quote, or a price update without a size."""


def prices_and_trades(conditions: str, _tape: str = "") -> int:
    """Count a price without a trade for prices, not for volume and number of trades; count all else for everything."""
    return COUNTS_FOR_PRICE if conditions == PRICE_ONLY else ALL


# AlgoSeek -------------------------------------------------------------------------------------------

_REGULAR: Final = 0x1
_SWEEP: Final = 0x20 | 0x20000000  # intermarket sweep, trade-through exempt
_OPENING_PRINT: Final = 0x40
_CLOSING_PRINT: Final = 0x80
_EXTENDED_HOURS: Final = 0x2000
_CROSS: Final = 0x200000  # an auction of Nasdaq, also for symbols that are listed elsewhere
_OFFICIAL_CLOSE: Final = 0x1000000
_OFFICIAL_OPEN: Final = 0x4000000


def algoseek(conditions: str, _tape: str = "") -> int:
    """Read AlgoSeek's flags, in hexadecimal.

    Minute bars leave out auction prints, which repeat trades or have different prices; their prices leave out
    intermarket sweeps and trade-through exempt trades, unless in extended hours. With these two rules the vendor's
    minute bars come out to 99.7 - 99.9 %.

    An opening or closing print is part of the day of its date, also after the end of the session: the last closing
    print is the day's close, an opening print in the first minute its open, unless it is of a cross. So the vendor's
    daily opens and closes come out. The messages that state an official price repeat these prints and count for
    nothing, unless they are trades themselves.
    """
    if not conditions:
        return ALL
    try:
        flags = int(conditions, 16)
    except ValueError:
        return UNREADABLE | COUNTS_FOR_VOLUME
    opening = DAY_OPENING if flags & (_OPENING_PRINT | _OFFICIAL_OPEN) and not flags & _CROSS else 0
    if flags & (_OPENING_PRINT | _CLOSING_PRINT):
        return DAY_APART | DAY_PRICE | DAY_VOLUME | opening
    if flags & (_OFFICIAL_OPEN | _OFFICIAL_CLOSE):
        return DAY_APART | DAY_PRICE | opening if flags & _REGULAR else 0
    if flags & _SWEEP and not flags & _EXTENDED_HOURS:
        return COUNTS_FOR_VOLUME
    return ALL


# Alpaca ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Updates:
    """The effect of a condition on prices and on volume. The strictest of several conditions counts, for each."""

    price: int
    """2: open, high, low and close; 1: open and close only if the bar has no price yet; 0: none."""
    volume: bool

    def __and__(self, other: "_Updates") -> "_Updates":
        return _Updates(min(self.price, other.price), self.volume and other.volume)


_EVERYTHING: Final = _Updates(2, volume=True)
_FIRST: Final = _Updates(1, volume=True)
_VOLUME: Final = _Updates(0, volume=True)
_PRICE: Final = _Updates(2, volume=False)
_NOTHING: Final = _Updates(0, volume=False)

_CTA: Final = "AB"
_UTP: Final = "C"
_LISTED: Final = "ABC"
_ANY: Final = "ABCO"

_Row: TypeAlias = tuple[tuple[str, ...], str, _Updates, _Updates]

# Alpaca's market data FAQ, "How are bars aggregated?": conditions, tapes, what they update in minute and daily bars.
# Nothing in it updates open and close without high and low, or the other way round.
_ALPACA: Final[tuple[_Row, ...]] = (
    ((" ", "E"), _CTA, _EVERYTHING, _EVERYTHING),
    (("@",), "CO", _EVERYTHING, _EVERYTHING),
    (("A", "D", "Y", "B"), _UTP, _EVERYTHING, _EVERYTHING),  # B: bunched
    (("B",), _CTA, _VOLUME, _VOLUME),  # average price
    (("F", "K", "L", "O", "X", "5", "6"), _LISTED, _EVERYTHING, _EVERYTHING),
    (("C", "I", "N", "R", "U"), _ANY, _VOLUME, _VOLUME),
    (("H", "V", "7"), _LISTED, _VOLUME, _VOLUME),
    (("W",), "CO", _VOLUME, _VOLUME),
    (("T",), _ANY, _EVERYTHING, _VOLUME),  # extended hours
    (("G",), _UTP, _VOLUME, _FIRST),
    (("P",), _ANY, _VOLUME, _FIRST),
    (("Z", "4"), _LISTED, _VOLUME, _FIRST),
    (("M", "Q"), _LISTED, _NOTHING, _NOTHING),  # official close, official open
    (("9",), _LISTED, _NOTHING, _PRICE),  # corrected close
)


def alpaca(conditions: str, tape: str = "") -> int:
    """Read Alpaca's letters, joined by commas, by the table of its market data FAQ ("How are bars aggregated?").

    A daily bar takes every trade of the New York day: the conditions, not the clock, keep extended hours out of its
    prices. Without a tape, "@" means tape C and a space tape A or B.
    """
    if not conditions:
        return ALL
    codes = {code.strip() or " " for code in conditions.split(",")}
    tape = tape or ("C" if "@" in codes else "A" if codes & {" ", "E"} else "")
    found = [row for code in sorted(codes) for row in _rows_of(code, tape)]
    minute, day = _EVERYTHING, _EVERYTHING
    for _, _, of_minute, of_day in found:
        minute, day = minute & of_minute, day & of_day
    unreadable = any(not _rows_of(code, tape) for code in codes)
    if unreadable:
        minute, day = minute & _VOLUME, day & _VOLUME
    return _flags(minute, day) | (UNREADABLE if unreadable else 0)


def _rows_of(code: str, tape: str) -> list[_Row]:
    """Return the rows of a code for a tape; if the table has none for this tape, its rows for all tapes."""
    rows = [row for row in _ALPACA if code in row[0]]
    return [row for row in rows if tape and tape in row[1]] or rows


def _flags(minute: _Updates, day: _Updates) -> int:
    flags = DAY_APART
    flags |= COUNTS_FOR_PRICE if minute.price else 0
    flags |= COUNTS_FOR_VOLUME if minute.volume else 0
    flags |= (0, DAY_FIRST_PRICE, DAY_PRICE)[day.price]
    flags |= DAY_VOLUME if day.volume else 0
    return flags


RULES: Final[dict[str, Rule]] = {"all": all_count, "algoseek": algoseek, "alpaca": alpaca}


def rule_named(name: str) -> Rule:
    """Return the rule with this name. Raises InvalidInput."""
    if name not in RULES:
        raise InvalidInput("conditions", f"got {name!r}; takes one of {', '.join(RULES)}")
    return RULES[name]
