"""The list of feeds in a setting: `alpaca: AAPL, MSFT; finnhub: BINANCE:BTCUSDT (24/7)`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stockpulse.errors import NotFound, shown
from stockpulse.market.calendar_names import accepted_names, calendar_name
from stockpulse.market.symbology import read_symbol
from stockpulse.providers.registry import ProviderRegistry

_WITH_CALENDAR: Final = re.compile(r"(.*?)(?:\(([^()]*)\))?", re.DOTALL)


@dataclass(frozen=True)
class FollowedSymbols:
    """The symbols of one live feed."""

    provider: str
    symbols: tuple[str, ...]
    calendars: Mapping[str, str] = field(default_factory=dict)
    """The calendars of symbols that have one in the setting."""

    def __str__(self) -> str:
        """Return the feed as the setting writes it."""
        symbols = [f"{one} ({self.calendars[one]})" if one in self.calendars else one for one in self.symbols]
        return f"{self.provider}: {', '.join(symbols)}"


def read_feeds(text: str, providers: ProviderRegistry) -> tuple[FollowedSymbols, ...]:
    """Return the feeds of a setting, one for each provider. Raises ValueError for a text that is no such list."""
    symbols: dict[str, list[str]] = {}
    calendars: dict[str, dict[str, str]] = {}
    for group in filter(None, map(str.strip, text.split(";"))):
        head, colon, listed = group.partition(":")
        if not colon or not listed.strip(" ,"):
            raise ValueError(f"takes feeds `provider: SYMBOL, SYMBOL` separated by semicolons; {shown(group)} is none")
        name, of_group = _with_calendar(head)
        provider = read_provider(name, providers)
        for part in filter(None, map(str.strip, listed.split(","))):
            written, own = _with_calendar(part)
            symbol, calendar = read_symbol(written), own or of_group
            if symbol is None:
                raise ValueError(f"takes symbols separated by commas; {shown(written)} is not a symbol")
            symbols.setdefault(provider, []).append(symbol)
            if calendar and calendars.setdefault(provider, {}).setdefault(symbol, calendar) != calendar:
                raise ValueError(f"{provider}: {symbol} has two calendars")
    return tuple(
        FollowedSymbols(provider, tuple(dict.fromkeys(listed)), calendars.get(provider, {}))
        for provider, listed in symbols.items()
    )


def read_provider(text: str, providers: ProviderRegistry) -> str:
    """Return the name of the provider with this name or alias. Raises ValueError, naming all providers."""
    try:
        return providers.named(text.strip().lower()).name
    except NotFound:
        raise ValueError(f"takes one of {', '.join(providers.names)}; {shown(text.strip())} is none") from None


def _with_calendar(text: str) -> tuple[str, str | None]:
    """Split `BTC/USD (24/7)` into the name and the canonical name of the calendar; None if it names none."""
    match = _WITH_CALENDAR.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"takes at most one calendar in parentheses, behind the name; got {shown(text.strip())}")
    name, calendar = match[1].strip(), match[2]
    return name, None if calendar is None else _calendar(calendar.strip())


def _calendar(text: str) -> str:
    name = calendar_name(text)
    if name not in accepted_names():
        raise ValueError(f"{shown(text)} is not a trading calendar; XNYS and 24/7 are two")
    return name
