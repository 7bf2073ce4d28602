"""The registry of providers: ours, and the providers of installed packages.

A package adds a provider through an entry point of the group `stockpulse.providers` whose object is a
`ProviderEntry`:

    [project.entry-points."stockpulse.providers"]
    acme = "acme_feed:PROVIDER"
"""

import functools
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from stockpulse.errors import CannotStart, NotFound
from stockpulse.providers.alpaca.provider import ALPACA
from stockpulse.providers.alpha_vantage.provider import ALPHA_VANTAGE
from stockpulse.providers.base import ProviderEntry
from stockpulse.providers.finnhub.provider import FINNHUB
from stockpulse.providers.simulated import SIMULATED
from stockpulse.providers.trade_conditions import RULES, Rule, all_count
from stockpulse.providers.twelve_data.provider import TWELVE_DATA
from stockpulse.providers.yahoo.provider import YAHOO

GROUP: Final = "stockpulse.providers"
"""The group of the entry points."""
NO_PROVIDER: Final = "none"
"""The setting for a process without a provider."""

OURS: Final = (
    SIMULATED,
    ALPACA,
    ALPHA_VANTAGE,
    FINNHUB,
    TWELVE_DATA,
    YAHOO,
)


class ProviderRegistry:
    """Finds providers by name. Raises CannotStart if two have the same name."""

    def __init__(self, sources: Iterable[tuple[str, ProviderEntry]]) -> None:
        """`sources` gives each entry with a description of where it comes from, for messages."""
        self._by_name: dict[str, ProviderEntry] = {}
        origins = {NO_PROVIDER: "StockPulse"}
        for origin, entry in sources:
            for name in entry.names:
                if name in origins:
                    raise CannotStart(f"{origin}: the provider name {name!r} is taken by {origins[name]}; remove one")
                origins[name] = origin
                self._by_name[name] = entry

    @property
    def names(self) -> tuple[str, ...]:
        """All names and aliases."""
        return tuple(self._by_name)

    @property
    def entries(self) -> tuple[ProviderEntry, ...]:
        """All providers, each once."""
        return tuple(entry for name, entry in self._by_name.items() if name == entry.name)

    @property
    def standby(self) -> frozenset[str]:
        """The names of providers that build bars only while no other provider sends the symbol."""
        return frozenset(entry.name for entry in self._by_name.values() if entry.standby)

    def named(self, name: str) -> ProviderEntry:
        """Return the provider with this name or alias. Raises NotFound."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NotFound(f"no provider is called {name!r}; there are {', '.join(self.names)}") from None

    def condition_rule(self, provider: str) -> Rule:
        """Return the rule for the trade conditions of any sender, whether it is registered or not."""
        entry = self._by_name.get(provider)
        return entry.conditions if entry is not None else RULES.get(provider, all_count)


@functools.cache
def installed_providers() -> ProviderRegistry:
    """Return the registry of this process. Raises CannotStart for a package whose provider cannot be used."""
    return ProviderRegistry([*(("StockPulse", entry) for entry in OURS), *_plugins()])


def _plugins() -> Iterator[tuple[str, ProviderEntry]]:
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        origin = _origin(point)
        try:
            entry = point.load()
        except Exception as fault:  # noqa: BLE001 - whatever a foreign package raises
            raise CannotStart(
                f"{origin} cannot be loaded: {type(fault).__name__}: {fault}; mend or remove it"
            ) from None
        if not isinstance(entry, ProviderEntry):
            raise CannotStart(f"{origin} is not a ProviderEntry but {type(entry).__name__}; mend or remove it")
        yield origin, entry


def _origin(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
    return f"entry point {point.name!r} ({point.value}) of package {package}"
