"""Who sends, and what is agreed with them."""

from dataclasses import dataclass, field

from stockpulse.market.calendar import ALWAYS_OPEN
from stockpulse.market.clocks import Clock
from stockpulse.providers.trade_conditions import Rule, all_count


@dataclass(frozen=True)
class Feed:
    """A provider as ingest sees it: a stream of its own, or a caller of POST /ticks."""

    provider: str
    calendar: str = "XNYS"
    clock: Clock = Clock.WALL
    delay_micros: int = 0
    rule: Rule = field(default=all_count)

    def calendar_of(self, symbol: str) -> str:
        """The calendar of a symbol that is new: pairs such as BTC/USD trade around the clock, whoever sends them."""
        return ALWAYS_OPEN if "/" in symbol else self.calendar


@dataclass(frozen=True)
class Receipt:
    """What became of a batch: rows stored, rows known already, and the rejected ones with their place and reason."""

    accepted: int = 0
    duplicates: int = 0
    rejected: tuple[tuple[int, str], ...] = ()
