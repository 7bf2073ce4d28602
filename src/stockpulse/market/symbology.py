"""The rules for names of symbols and providers, and the ids that stand for names.

Ticks carry ids of symbols and of kinds (provider, exchange, conditions, flags), so that they are short rows of fixed
width. `Names` holds the ids in memory; the database assigns them (`postgres.symbology_store`) and never reuses one.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.clocks import Clock

LONGEST_SYMBOL: Final = 32
_LONGEST_TEXT: Final = 2 * LONGEST_SYMBOL
"""The longest text that is looked at: the spaces of an option count."""
SYMBOL: Final = r"^([A-Z0-9][A-Z0-9./^=_:&\-]{0,31}|[/^][A-Z0-9][A-Z0-9./^=_:&\-]{0,30})$"
"""The pattern of a stored symbol. It never begins as a shell's option (-) or a spreadsheet's formula (=)."""
_DOT_SEGMENT: Final = r"/\.\.?(/|$)"
"""A part of a path that clients remove from a URL (RFC 3986, section 5.2.4): A/../B would become B."""
_LOOSE_SYMBOL: Final = re.compile(SYMBOL, re.ASCII | re.IGNORECASE)
_OCC_OPTION: Final = re.compile(r"([A-Z0-9.]{1,6}) +(\d{6}[CP]\d{8})", re.ASCII | re.IGNORECASE)
"""An option as OCC writes it in 21 characters, its root padded with spaces: `AAPL  261218C00150000`."""
SYMBOL_TAKES: Final = (
    f"must be 1 to {LONGEST_SYMBOL} of A-Z 0-9 . - / ^ = _ : &, beginning with a letter or digit, or / or ^ before one"
)


def read_symbol(text: str) -> str | None:
    """Return the symbol in its stored form, in upper case; None if the text is not a symbol.

    An option of OCC loses its spaces. Letters outside ASCII are refused: the upper case of some would be another
    ticker, as SS is of ß.
    """
    return _stored_form(text) if len(text) <= _LONGEST_TEXT else None


@functools.lru_cache(maxsize=1 << 14)
def _stored_form(text: str) -> str | None:
    if option := _OCC_OPTION.fullmatch(text):
        text = option[1] + option[2]
    if not _LOOSE_SYMBOL.fullmatch(text) or not text.isascii() or re.search(_DOT_SEGMENT, text):
        return None
    return text.upper()


def read_symbols(texts: Iterable[str | None]) -> dict[str, str]:
    """Return the stored form of each text that is a symbol."""
    found = ((text, read_symbol(text)) for text in texts if text is not None)
    return {text: symbol for text, symbol in found if symbol is not None}


def is_pair(symbol: str) -> bool:
    """Return True for a pair of currencies or coins, BTC/USD, whose quote has three characters at least.

    The class of a share (BRK/B) and the slash before a future (/ES) make no pair.
    """
    return re.match(r"[^/]+/[A-Z0-9]{3}", symbol) is not None


PROVIDER: Final = r"[a-z][a-z0-9_]{0,31}"
"""The pattern of a provider's name."""


def check_provider_name(name: str, field: str = "provider") -> str:
    """Return `name` if it is a name for a provider. Raises InvalidInput for `field` otherwise."""
    if not re.fullmatch(PROVIDER, name):
        raise InvalidInput(field, f"got {shown(name)}; takes 1 to 32 of a-z 0-9 _, beginning with a letter")
    return name


@dataclass(frozen=True)
class Symbol:
    """A symbol and the calendar of its days."""

    id: int
    name: str
    calendar: str


@dataclass(frozen=True)
class ProviderName:
    """A provider and its clock."""

    id: int
    name: str
    clock: Clock
    delay_micros: int


@dataclass(frozen=True)
class TickKind:
    """The properties that many ticks share; `flags` as in `schemas`."""

    provider_id: int
    exchange: str
    conditions: str
    flags: int
    tape: str = ""


class Names:
    """The ids of names, and the names of ids."""

    def __init__(self) -> None:
        self.symbols: dict[str, Symbol] = {}
        self.symbol_by_id: dict[int, Symbol] = {}
        self.in_order: list[Symbol] = []  # in the order in which this process learned them
        self.providers: dict[str, ProviderName] = {}
        self.provider_by_id: dict[int, ProviderName] = {}
        self.kinds: dict[TickKind, int] = {}
        self.kind_by_id: dict[int, TickKind] = {}
        self._flags = np.zeros(1, np.uint16)
        self._provider_of_kind = np.zeros(1, np.int64)
        self._venue_of_kind = np.zeros(1, np.int64)
        self._venues: dict[tuple[int, str], int] = {}

    def add_symbols(self, symbols: Iterable[Symbol]) -> None:
        """Add symbols with the ids of the database."""
        for symbol in symbols:
            if symbol.id not in self.symbol_by_id:
                self.symbols[symbol.name] = symbol
                self.symbol_by_id[symbol.id] = symbol
                self.in_order.append(symbol)

    def add_provider(self, provider: ProviderName) -> None:
        """Add a provider with the id of the database."""
        self.providers[provider.name] = provider
        self.provider_by_id[provider.id] = provider

    def add_kinds(self, kinds: Iterable[tuple[int, TickKind]]) -> None:
        """Add kinds of ticks with the ids of the database."""
        new = list(kinds)
        self._reserve_kinds(max((number for number, _ in new), default=0) + 1)
        for number, kind in new:
            self.kinds[kind] = number
            self.kind_by_id[number] = kind
            self._flags[number], self._provider_of_kind[number] = kind.flags, kind.provider_id
            venue = self._venues.setdefault((kind.provider_id, kind.exchange), len(self._venues))
            self._venue_of_kind[number] = venue

    def _reserve_kinds(self, size: int) -> None:
        """Make room for kinds with ids below `size`, and as much again: each new kind then costs the same."""
        if size > len(self._flags):
            room = 2 * size - len(self._flags)
            self._flags = np.pad(self._flags, (0, room))
            self._provider_of_kind = np.pad(self._provider_of_kind, (0, room))
            self._venue_of_kind = np.pad(self._venue_of_kind, (0, room))

    def flags_of(self, kind_id: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """Return the flags of these kinds of ticks."""
        return self._flags[kind_id]

    def providers_of(self, kind_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ids of the providers of these kinds of ticks."""
        return self._provider_of_kind[kind_id]

    def venues_of_provider(self, provider: str) -> list[int]:
        """Return the numbers of the (provider, exchange) pairs of a provider."""
        known = self.providers.get(provider)
        return [number for (owner, _), number in self._venues.items() if known is not None and owner == known.id]

    def venues_of(self, kind_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return a number for the (provider, exchange) of these kinds of ticks; other processes have other numbers."""
        return self._venue_of_kind[kind_id]
