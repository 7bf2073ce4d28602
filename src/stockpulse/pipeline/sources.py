"""The providers in use: those of the live feeds, the fallbacks, and any other that a request names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from stockpulse.ingest.feed import Feed
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.providers.base import Capabilities, Provider, ProviderConfig, ProviderEntry
from stockpulse.providers.feed_list import FollowedSymbols
from stockpulse.providers.options import read_options
from stockpulse.providers.registry import ProviderRegistry, installed_providers


@dataclass(frozen=True, eq=False)
class Source:
    """A provider in use; there is one for each provider."""

    entry: ProviderEntry
    provider: Provider
    symbols: tuple[str, ...]
    """The symbols of its live feed."""
    feed: Feed
    """The provider as ingest sees it."""

    @property
    def name(self) -> str:
        """The name of the provider."""
        return self.provider.name

    @property
    def has(self) -> Capabilities:
        """The data that the provider has, on the user's plan."""
        of_plan: Capabilities | None = getattr(self.provider, "capabilities", None)
        return of_plan or self.entry.capabilities


def create_with_defaults(entry: ProviderEntry, symbols: tuple[str, ...]) -> Provider:
    """Create a provider from the defaults of its options."""
    return entry.create(ProviderConfig(symbols, options=read_options(entry, ())))


class Sources:
    """Creates each provider once, when it is first needed."""

    def __init__(
        self,
        create: Callable[[ProviderEntry, tuple[str, ...]], Provider] = create_with_defaults,
        followed: Sequence[FollowedSymbols] = (),
        fallbacks: Sequence[str] = (),
        providers: ProviderRegistry | None = None,
    ) -> None:
        """`create` makes the provider of an entry for the symbols of its feed; it raises InvalidInput for its options.

        `fallbacks` are names of providers, in the order in which they are asked. Without `providers`, those that are
        installed are known.
        """
        self._providers = providers or installed_providers()
        self._create = create
        self._followed = {one.provider: one for one in followed}
        self._fallbacks = tuple(fallbacks)
        self._created: dict[str, Source] = {}

    def named(self, name: str) -> Source:
        """Return the provider with this name or alias.

        Raises NotFound for an unknown name, and InvalidInput for an option that is missing or not valid.
        """
        entry = self._providers.named(name)
        if entry.name not in self._created:
            followed = self._followed.get(entry.name, FollowedSymbols(entry.name, ()))
            provider = self._create(entry, followed.symbols)
            feed = feed_of(provider, followed.calendars)
            self._created[entry.name] = Source(entry, provider, followed.symbols, feed)
        return self._created[entry.name]

    @property
    def entries(self) -> tuple[ProviderEntry, ...]:
        """All known providers, in use or not."""
        return self._providers.entries

    def uses_of(self, name: str) -> tuple[str, ...]:
        """Return the uses of a provider in the settings: feed, fallback."""
        used = {"feed": name in self._followed, "fallback": name in self._fallbacks}
        return tuple(use for use, is_used in used.items() if is_used)

    @property
    def feeds(self) -> tuple[Source, ...]:
        """The providers with a live feed, in the order of the setting."""
        return tuple(self.named(name) for name in self._followed)

    def feeds_of(self, symbol: str) -> list[str]:
        """Return the names of the providers whose live feeds have a symbol."""
        return [one.provider for one in self._followed.values() if symbol in one.symbols]

    def order_for(self, symbol: str) -> tuple[Source, ...]:
        """Return the providers to ask for prices and history of a symbol: those of its feeds, then the fallbacks."""
        return tuple(self.named(name) for name in dict.fromkeys([*self.feeds_of(symbol), *self._fallbacks]))

    async def close(self) -> None:
        """Release the connections of all providers."""
        for source in self._created.values():
            if hasattr(source.provider, "close"):  # a provider without connections need not have it
                await cast("_Closable", source.provider).close()


class _Closable(Protocol):
    async def close(self) -> None: ...
