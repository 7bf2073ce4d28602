"""A sender of ticks and the properties of what it sends."""

from dataclasses import dataclass, field

from stockpulse.market.calendar_names import ALWAYS_OPEN, calendar_name
from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import is_pair
from stockpulse.providers.trade_conditions import Rule, all_count


@dataclass(frozen=True)
class Feed:
    """A sender of ticks as ingest sees it: a provider, or a caller of POST /ticks."""

    provider: str
    calendar: str = "XNYS"
    clock: Clock = Clock.WALL
    delay_micros: int = 0
    rule: Rule = field(default=all_count)

    def __post_init__(self) -> None:
        """Store the calendar under one name, whatever its spelling."""
        object.__setattr__(self, "calendar", calendar_name(self.calendar))

    def calendar_of(self, symbol: str) -> str:
        """Return the calendar for a new symbol: pairs such as BTC/USD trade around the clock, whoever sends them."""
        return ALWAYS_OPEN if is_pair(symbol) else self.calendar


@dataclass(frozen=True)
class Receipt:
    """The outcome of a batch: rows stored, rows that were known already, and rejected rows with place and reason.

    `warnings` says what the sender may not expect of the accepted rows.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: tuple[tuple[int, str], ...] = ()
    warnings: tuple[str, ...] = ()
