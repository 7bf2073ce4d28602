"""The interface of market-data providers, and the entry by which StockPulse finds a provider."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import polars as pl

from stockpulse.market.clocks import Clock, utc_now
from stockpulse.market.symbology import check_provider_name
from stockpulse.providers.trade_conditions import Rule, all_count


class Provider(Protocol):
    """A source of ticks and bars.

    A provider yields frames at its own pace. A busy reader does not ask for the next frame until it has room. Frames
    have the schemas `TICKS` and `BARS` of `stockpulse.market.schemas`.
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
        """Yield ticks in batches as they arrive, until the stream ends."""
        ...

    def history(self, symbol: str, interval: str, start: datetime, end: datetime) -> AsyncIterator[pl.DataFrame]:
        """Yield the provider's own bars of `symbol` with start <= ts < end, ascending; no frames if it has no bars."""
        ...


@dataclass(frozen=True)
class ProviderConfig:
    """The settings that a provider is created with."""

    symbols: tuple[str, ...]
    rate: float
    """Simulated ticks per second of each symbol."""
    seed: int
    """Seed of the simulated market."""
    now: Callable[[], datetime] = utc_now
    """The clock of the process, for a provider that makes its ticks from the time."""


@dataclass(frozen=True)
class Capabilities:
    """The data that a provider has."""

    ticks: bool = True
    """It streams live ticks."""
    history: bool = True
    """It has its own bars of the past."""


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
    conditions: Rule = all_count
    """The rule by which its trades count, from their conditions and tape."""
    standby: bool = False
    """Its ticks build bars only while no other provider sends the symbol."""
    transient: tuple[type[BaseException], ...] = ()
    """Exceptions after which its feed is started again. Any other exception stops the process."""

    def __post_init__(self) -> None:
        for name in self.names:
            check_provider_name(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)


__all__ = ["Capabilities", "Clock", "Provider", "ProviderConfig", "ProviderEntry"]
