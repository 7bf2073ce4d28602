"""Which trades count: for prices, for volume, for both, for neither, by their conditions.

A rule belongs to a provider, since each has codes of its own. A rule takes the conditions of one trade, as
the provider writes them, and returns the flags `COUNTS_FOR_PRICE` and `COUNTS_FOR_VOLUME`. Few different
conditions make up many trades, so a rule runs once for each and need not be fast.
"""

from collections.abc import Callable
from typing import Final

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME

Rule = Callable[[str], int]

ALL: Final = COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME


def all_count(_conditions: str) -> int:
    """Every trade counts for everything: the rule of a provider that has no codes."""
    return ALL


def algoseek(conditions: str) -> int:
    """AlgoSeek's flags, in hexadecimal.

    Left out altogether are the auction prints, which repeat trades or come at prices of their own; left out of
    prices are intermarket sweeps and trade-through exempt trades, unless in extended hours. With these two rules
    the vendor's minute bars come out to 99.7 - 99.9 %.
    """
    try:
        flags = int(conditions, 16)
    except ValueError:
        return ALL
    auction = 0x40 | 0x80 | 0x1000000 | 0x4000000  # opening and closing print, official close and open
    sweep = 0x20 | 0x20000000  # intermarket sweep, trade-through exempt
    extended_hours = 0x2000
    if flags & auction:
        return 0
    if flags & sweep and not flags & extended_hours:
        return COUNTS_FOR_VOLUME
    return ALL


def alpaca(conditions: str) -> int:
    """Alpaca's letters, joined by commas, as its market-data FAQ gives them for minute bars.

    Volume leaves out M and Q; prices leave out these and B, C, G, H, I, N, P, R, U, V, Z, 4, 7 and 9 (G, by the
    FAQ, out of high and low only). T, extended hours, matters to daily bars alone, which are of the regular session.
    """
    codes = {code.strip() for code in conditions.split(",")}
    flags = 0
    if not codes & set("BCGHIMNPQRUVZ479"):
        flags |= COUNTS_FOR_PRICE
    if not codes & set("MQ"):
        flags |= COUNTS_FOR_VOLUME
    return flags


RULES: Final[dict[str, Rule]] = {"all": all_count, "algoseek": algoseek, "alpaca": alpaca}


def rule_named(name: str) -> Rule:
    """The rule of this name; InvalidInput names those that there are."""
    if name not in RULES:
        raise InvalidInput("conditions", f"got {name!r}; takes one of {', '.join(RULES)}")
    return RULES[name]
