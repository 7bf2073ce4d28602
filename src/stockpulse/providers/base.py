"""The interface of market-data providers, and the entry by which StockPulse finds a provider.

A provider has what its `Capabilities` declare, and the methods for it: `stream` for live ticks, `history` for bars of
the past, `trades` for trades of the past, `latest` for the latest prices. `ProviderBase` has all of them, as methods
that refuse; a provider overrides those that it has.

Faults of the provider are raised as `stockpulse.providers.faults`. A provider does not repeat a broken stream: it
raises, and StockPulse waits, opens the stream again and fills the gap.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol

import polars as pl

from stockpulse.market.clocks import Clock, utc_now
from stockpulse.market.symbology import check_provider_name
from stockpulse.providers.faults import BadRequest
from stockpulse.providers.trade_conditions import Rule, all_count
from stockpulse.providers.transport.transport import Transport


class Provider(Protocol):
    """A source of ticks and bars.

    A provider yields frames at its own pace. A busy reader does not ask for the next frame until it has room. Frames
    have the schemas `TICKS`, `BARS` and `CORRECTIONS` of `stockpulse.market.schemas`; their columns tell them apart.
    """

    name: str
    """The name that is stored with every tick: lower-case letters, digits and underscores."""
    calendar: str
    """The trading calendar of symbols that are first seen here: "XNYS", "24/7", …"""
    clock: Clock
    can_wait: bool
    """False if ticks are lost while the reader does not ask for the next frame, as on a socket that pushes."""
    delay_seconds: float
    """The delay of the feed by contract: 0 in real time, 900 for a feed that is delayed by 15 minutes."""

    def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield live ticks, bars and corrections of the configured symbols as they arrive, over one connection.

        Return when the stream has ended for good; raise a ProviderFault when it breaks.
        """
        ...

    def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield the provider's own bars of `symbols` with start <= ts < end; no frames if it has no bars.

        The bars of the first symbol come first, ascending, then those of the second, and so on. So all bars before the
        last row of a frame are complete, and an interrupted reader may continue there. Callers pass symbols in
        alphabetical order, since vendors answer in that order. `Capabilities.history` says how many symbols and how
        long a range one call may ask for.
        """
        ...

    def trades(self, symbols: Sequence[str], start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Yield the trades of `symbols` with start <= ts < end, in the same order; no frames if there were none.

        Frames of CORRECTIONS may come between: trades of the range that the provider has taken back since.
        """
        ...

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the latest price of each symbol as TICKS, at most one row each; symbols without a price are absent."""
        ...

    async def check(self) -> str:
        """Make one cheap request; return a sentence on what the key may do. Raises ProviderFault."""
        ...


class ProviderBase:
    """The parts that most providers share: a live feed that cannot wait, and methods that refuse."""

    name: str
    calendar = "XNYS"
    clock = Clock.WALL
    can_wait = False
    delay_seconds = 0.0
    capabilities: "Capabilities | None" = None
    """The data on the user's plan, if it differs from that of the entry."""
    refused_symbols: Mapping[str, str] = MappingProxyType({})
    """The symbols that its stream cannot follow, each with the reason. The others are followed."""

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Refuse."""
        raise BadRequest(f"{self.name} has no stream")
        yield pl.DataFrame()  # makes it an iterator

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Refuse."""
        raise BadRequest(f"{self.name} has no bars of the past")
        yield pl.DataFrame()

    async def trades(self, symbols: Sequence[str], start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Refuse."""
        raise BadRequest(f"{self.name} has no trades of the past")
        yield pl.DataFrame()

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Refuse."""
        raise BadRequest(f"{self.name} has no latest prices")

    async def check(self) -> str:
        """Say that there is nothing to check."""
        return "needs no key"

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True)
class Option:
    """A setting of a provider: a key, an address, a plan."""

    name: str
    variables: tuple[str, ...]
    """Environment variables, the first that is set wins: ("STOCKPULSE_ALPACA_KEY", "APCA_API_KEY_ID")."""
    description: str
    """One sentence for the table of settings; for a key, it says where to get one."""
    default: str | None = None
    """None: the provider cannot be used without it."""
    secret: bool = False


@dataclass(frozen=True)
class ProviderConfig:
    """The settings that a provider is created with."""

    symbols: tuple[str, ...]
    """The symbols of its live feed."""
    rate: float = 0.5
    """Simulated ticks per second of each symbol."""
    seed: int = 0
    """Seed of the simulated market."""
    now: Callable[[], datetime] = utc_now
    """The clock of the process, for a provider that makes its ticks from the time."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The values of the entry's options, by name; defaults are filled in."""
    transport: Transport = field(default_factory=Transport)
    """Makes the provider's connections."""


@dataclass(frozen=True)
class History:
    """The bars of the past of one interval that a provider has."""

    window: timedelta
    """The longest range that one request should ask for."""
    depth: timedelta | None = None
    """How far back bars go; None: no known limit."""
    symbols: int = 1
    """The number of symbols that one request may ask for."""
    rows: int | None = None
    """The number of bars in one reply, over all symbols; the provider reads further pages by itself. None: no limit."""


@dataclass(frozen=True)
class Capabilities:
    """The data that a provider has."""

    ticks: bool = True
    """It streams live ticks."""
    history: Mapping[str, History] = field(default_factory=dict)
    """Its own bars of the past, by interval: "1m", "5m", "1d"."""
    trades: bool = False
    """It has trades of the past."""
    latest: bool = False
    """It has latest prices on request."""
    latest_symbols: int = 1
    """The number of symbols that one request for latest prices may ask for."""
    poll_seconds: float = 0.0
    """The shortest pause between two requests for the latest price of a symbol."""
    stream_symbols: int | None = None
    """The number of symbols that one stream may carry on the cheapest plan; None: no known limit."""
    limits: str = ""
    """The provider's limits, as a sentence for people."""


@dataclass(frozen=True)
class ProviderEntry:
    """A provider in the registry: its factory, and the treatment of its data.

    Raises InvalidInput for a name that cannot be stored.
    """

    name: str
    create: Callable[[ProviderConfig], Provider]
    aliases: tuple[str, ...] = ()
    """Other names that the setting accepts."""
    capabilities: Capabilities = Capabilities()
    options: tuple[Option, ...] = ()
    conditions: Rule = all_count
    """The rule by which its trades count, from their conditions and tape."""
    standby: bool = False
    """Its ticks build bars only while no other provider sends the symbol."""
    transient: tuple[type[BaseException], ...] = ()
    """Exceptions after which its feed is started again. Any other exception stops the process."""
    description: str = ""
    """One sentence for the list of providers."""

    def __post_init__(self) -> None:
        for name in self.names:
            check_provider_name(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)


__all__ = [
    "Capabilities",
    "Clock",
    "History",
    "Option",
    "Provider",
    "ProviderBase",
    "ProviderConfig",
    "ProviderEntry",
]
