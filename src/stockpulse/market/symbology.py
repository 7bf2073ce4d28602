"""Numbers for names: symbols, providers, and kinds of ticks (provider, exchange, conditions, eligibility).

Ticks carry numbers, so that they are short rows of fixed width. This is the dictionary in memory; numbers
are given by the database (`database.names`), once and for good, and are never reused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.clocks import Clock

SYMBOL: Final = r"^[A-Z0-9][A-Z0-9.\-/^=]{0,15}$"
"""What a symbol looks like, in upper case."""


PROVIDER: Final = r"[a-z][a-z0-9_]{0,31}"
"""The pattern of a provider's name."""


def check_provider_name(name: str, field: str = "provider") -> str:
    """Return `name` if it is a name for a provider. Raises InvalidInput for `field` otherwise."""
    if not re.fullmatch(PROVIDER, name):
        raise InvalidInput(field, f"got {shown(name)}; takes 1 to 32 of a-z 0-9 _, beginning with a letter")
    return name


@dataclass(frozen=True)
class Symbol:
    """A symbol and the calendar that its days follow."""

    id: int
    name: str
    calendar: str


@dataclass(frozen=True)
class ProviderName:
    """A provider, and what tells how far its event time has come: see `providers.base.Clock`."""

    id: int
    name: str
    clock: Clock
    delay_micros: int


@dataclass(frozen=True)
class TickKind:
    """What many ticks have in common; `flags` as in `frames`."""

    provider_id: int
    exchange: str
    conditions: str
    flags: int


class Names:
    """The dictionary: from names to numbers and back."""

    def __init__(self) -> None:
        self.symbols: dict[str, Symbol] = {}
        self.symbol_by_id: dict[int, Symbol] = {}
        self.in_order: list[Symbol] = []  # as they came to be known here
        self.providers: dict[str, ProviderName] = {}
        self.provider_by_id: dict[int, ProviderName] = {}
        self.kinds: dict[TickKind, int] = {}
        self.kind_by_id: dict[int, TickKind] = {}
        self._flags = np.zeros(1, np.uint8)
        self._provider_of_kind = np.zeros(1, np.int64)
        self._venue_of_kind = np.zeros(1, np.int64)
        self._venues: dict[tuple[int, str], int] = {}

    def add_symbols(self, symbols: Iterable[Symbol]) -> None:
        """Take in symbols that the database has numbered."""
        for symbol in symbols:
            if symbol.id not in self.symbol_by_id:
                self.symbols[symbol.name] = symbol
                self.symbol_by_id[symbol.id] = symbol
                self.in_order.append(symbol)

    def add_provider(self, provider: ProviderName) -> None:
        """Take in a provider that the database has numbered."""
        self.providers[provider.name] = provider
        self.provider_by_id[provider.id] = provider

    def add_kinds(self, kinds: Iterable[tuple[int, TickKind]]) -> None:
        """Take in kinds of ticks that the database has numbered."""
        for number, kind in kinds:
            self.kinds[kind] = number
            self.kind_by_id[number] = kind
        size = max(self.kind_by_id, default=0) + 1
        flags, providers, venues = np.zeros(size, np.uint8), np.zeros(size, np.int64), np.zeros(size, np.int64)
        for number, kind in self.kind_by_id.items():
            flags[number], providers[number] = kind.flags, kind.provider_id
            venues[number] = self._venues.setdefault((kind.provider_id, kind.exchange), len(self._venues))
        self._flags, self._provider_of_kind, self._venue_of_kind = flags, providers, venues

    def flags_of(self, kind_id: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """What ticks of these kinds count for."""
        return self._flags[kind_id]

    def providers_of(self, kind_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Who sent ticks of these kinds."""
        return self._provider_of_kind[kind_id]

    def venues_of(self, kind_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Who sent ticks of these kinds, and of which exchange: a number of this process for each such pair."""
        return self._venue_of_kind[kind_id]
