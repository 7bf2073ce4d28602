"""The channels of a feed, and the symbols that a client has subscribed to in each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.hub.messages import ALL
from stockpulse.market.symbology import read_symbol

STOCK_CHANNELS: Final = (
    "trades",
    "quotes",
    "bars",
    "updatedBars",
    "dailyBars",
    "statuses",
    "lulds",
    "imbalances",
)
TEST_CHANNELS: Final = ("trades", "quotes", "bars")

_WITH_TRADES: Final = ("corrections", "cancelErrors")
"""Channels that come with trades, and cannot be asked for."""
_MOST_SYMBOLS: Final = 20_000
"""The largest number of symbols, over all channels."""


@dataclass(frozen=True)
class Subscriptions:
    """The symbols of each channel; `*` stands for all symbols."""

    channels: tuple[str, ...]
    """The channels of the feed."""
    symbols: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __getitem__(self, channel: str) -> frozenset[str]:
        return self.symbols.get(channel, frozenset())

    def changed(self, message: Mapping[str, object], *, add: bool) -> Self:
        """Return the subscriptions after a message. Raises StreamError."""
        found = dict(self.symbols)
        for channel, wanted in message.items():
            # The library for Go sends every channel that it knows, with null for those that are not used.
            if channel == "action" or channel in _WITH_TRADES or not wanted:
                continue
            if channel not in self.channels:
                raise StreamError(410)
            names = _symbols(wanted)
            found[channel] = self[channel] | names if add else self[channel] - names
        if sum(map(len, found.values())) > _MOST_SYMBOLS:
            raise StreamError(405)
        return self if found == self.symbols else type(self)(self.channels, found)

    def message(self) -> dict[str, object]:
        """Return all subscriptions, as every change is answered."""
        found: dict[str, object] = {"T": "subscription"}
        found |= {channel: sorted(self[channel]) for channel in self.channels}
        if self.channels is not TEST_CHANNELS:
            found |= dict.fromkeys(_WITH_TRADES, found["trades"])
        return found

    def wants(self, channel: str, symbol: str) -> bool:
        """Return True if this symbol of a channel is subscribed to."""
        names = self[channel]
        return symbol in names or ALL in names

    def all_symbols(self) -> frozenset[str]:
        """Return the symbols of all channels."""
        return frozenset().union(*self.symbols.values())


def _symbols(wanted: object) -> frozenset[str]:
    if not isinstance(wanted, list):
        raise StreamError(400)
    return frozenset(_symbol(text) for text in wanted)


def _symbol(text: object) -> str:
    if text == ALL:
        return ALL
    symbol = read_symbol(text) if isinstance(text, str) else None
    if symbol is None:
        raise StreamError(400)
    return symbol
