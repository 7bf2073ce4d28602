"""A sender of ticks and the properties of its ticks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stockpulse.market.calendar_names import ALWAYS_OPEN, calendar_name
from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import Names, is_pair
from stockpulse.providers.trade_conditions import Rule, all_count


@dataclass(frozen=True)
class Feed:
    """A sender of ticks, for ingest: a provider, or a caller of POST /ticks."""

    provider: str
    calendar: str = "XNYS"
    clock: Clock = Clock.WALL
    delay_micros: int = 0
    rule: Rule = field(default=all_count)
    calendars: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The calendars of symbols that have one of their own."""

    def __post_init__(self) -> None:
        """Store the calendar under its canonical name."""
        object.__setattr__(self, "calendar", calendar_name(self.calendar))

    def calendar_of(self, symbol: str) -> str:
        """Return the calendar for a new symbol: pairs such as BTC/USD trade around the clock, from every provider."""
        return self.calendars.get(symbol) or (ALWAYS_OPEN if is_pair(symbol) else self.calendar)


def sender(name: str, names: Names, calendar: str, rule: Rule) -> Feed:
    """Return the sender of records that name it. A known provider keeps its clock and delay."""
    known = names.providers.get(name)
    clock, delay = (Clock.WALL, 0) if known is None else (known.clock, known.delay_micros)
    return Feed(name, calendar, clock, delay, rule)


@dataclass(frozen=True)
class Receipt:
    """The outcome of a batch: the numbers of stored rows and of duplicates, and rejected rows with index and reason.

    `warnings` lists effects that the accepted rows do not have, although the sender may expect them.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: tuple[tuple[int, str], ...] = ()
    warnings: tuple[str, ...] = ()
    unlisted: int = 0
    """Further rejected rows, which a server has not listed."""

    @property
    def rejected_rows(self) -> int:
        """The number of rejected rows."""
        return len(self.rejected) + self.unlisted
