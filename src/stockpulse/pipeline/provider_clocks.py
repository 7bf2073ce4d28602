"""Market time: the event time that each provider has reached. It closes bars, and is "now" for a symbol."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from stockpulse.engine.bar_engine import END_OF_TIME, BarEngine
from stockpulse.journal.routing import Routing
from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import Names, ProviderName
from stockpulse.market.times import from_micros, micros


class ClockSource(Protocol):
    """The clocks of the providers in one shard."""

    def is_over(self, provider: ProviderName) -> bool:
        """Return True for a recording at its end."""
        ...

    def provider_of(self, symbol_id: int) -> int:
        """Return the id of the provider whose clock a symbol follows; 0 if it has no tick yet."""
        ...

    def newest(self, provider_id: int) -> int:
        """Return the greatest event time of this provider's symbols, UTC microseconds; 0 without a tick."""
        ...


class ShardClocks:
    """The clocks of an owned shard: the wall clock for live providers, event time for recordings."""

    def __init__(self, names: Names, shard: BarEngine, now: Callable[[], datetime]) -> None:
        self._names = names
        self._shard = shard
        self._now = now
        self._recording: set[int] = set()  # ids of providers in the middle of a recording

    def end(self, provider: str) -> None:
        """Note that a recording is over: all its bars may close."""
        known = self._names.providers.get(provider)
        if known is not None:
            self._recording.discard(known.id)

    def over(self, provider: str) -> dict[int, int]:
        """Return the clocks that close all bars of a recording that is over, and no others."""
        known = self._names.providers.get(provider)
        return {} if known is None or known.clock is Clock.WALL else {known.id: END_OF_TIME}

    def resume(self, provider_ids: Iterable[int]) -> None:
        """Note that these providers send, or send again."""
        self._recording.update(int(number) for number in provider_ids)

    def closing(self, received_at: int | None) -> dict[int, int]:
        """Return for each provider the time up to which its bars may close, in UTC microseconds.

        While records wait, the wall clock stands at `received_at`, when the last processed record was received;
        pass None if none waits.
        """
        wall = micros(self._now()) if received_at is None else received_at
        return {number: self._closing(provider, wall) for number, provider in self._names.provider_by_id.items()}

    def _closing(self, provider: ProviderName, wall: int) -> int:
        if provider.clock is Clock.WALL:
            return wall - provider.delay_micros
        return END_OF_TIME if self.is_over(provider) else self._shard.newest(provider.id)

    def is_over(self, provider: ProviderName) -> bool:
        """Return True for a recording at its end, and for one that a restart cut short, until more of it comes."""
        return provider.clock is Clock.EVENT and provider.id not in self._recording

    def provider_of(self, symbol_id: int) -> int:
        """Return the id of the provider whose clock a symbol follows; 0 if it has no tick yet."""
        return self._shard.provider_of(symbol_id)

    def newest(self, provider_id: int) -> int:
        """Return the greatest event time of this provider's symbols, UTC microseconds; 0 without a tick."""
        return self._shard.newest(provider_id)


class ProviderClocks:
    """Market time over all shards that this process works on or follows."""

    def __init__(self, names: Names, routing: Routing, now: Callable[[], datetime]) -> None:
        self._names = names
        self._routing = routing
        self._now = now
        self.sources: dict[int, ClockSource] = {}
        """The clocks of each shard, by its number."""

    def of_providers(self) -> dict[int, datetime]:
        """Return the market time of each provider, by its id."""
        return {number: self._market_time(provider) for number, provider in self._names.provider_by_id.items()}

    def _market_time(self, provider: ProviderName | None) -> datetime:
        if provider is None or provider.clock is Clock.WALL:
            return self._now()
        return from_micros(max((shard.newest(provider.id) for shard in self.sources.values()), default=0))

    def of_symbol(self, symbol_id: int) -> datetime:
        """Return the market time of a symbol: that of the provider whose clock it follows."""
        return self._market_time(self._followed(symbol_id))

    def closed_until(self, symbol_id: int) -> datetime:
        """Return the time up to which bars of a symbol may be final; a recording that is over closes all of them."""
        provider = self._followed(symbol_id)
        over = provider is not None and self.sources[self._routing.of_symbol(symbol_id)].is_over(provider)
        return datetime.max.replace(tzinfo=UTC) if over else self._market_time(provider)

    def _followed(self, symbol_id: int) -> ProviderName | None:
        return self._names.provider_by_id.get(self.provider_of(symbol_id))

    def provider_of(self, symbol_id: int) -> int:
        """Return the id of the provider whose clock a symbol follows; 0 if it has no tick here yet."""
        shard = self.sources.get(self._routing.of_symbol(symbol_id))
        return 0 if shard is None else shard.provider_of(symbol_id)

    def watermark(self) -> datetime:
        """Return the greatest event time of all processed records."""
        providers = list(self._names.provider_by_id)
        newest = (shard.newest(number) for shard in self.sources.values() for number in providers)
        return from_micros(max(newest, default=0))
