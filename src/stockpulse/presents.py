"""How far the event time of each provider has come: what closes bars, and what "now" means for a symbol."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from stockpulse.clock import Clock
from stockpulse.engine.shard import END_OF_TIME, Shard
from stockpulse.names import Names, ProviderName
from stockpulse.times import from_micros, micros


class Presents:
    """The clocks of the providers: the wall clock for live ones, the recording's own for the others."""

    def __init__(self, names: Names, shard: Shard, now: Callable[[], datetime]) -> None:
        self._names = names
        self._shard = shard
        self._now = now
        self._recording: set[int] = set()  # providers in the middle of a recording

    def end(self, provider: str) -> None:
        """A recording is over: all its bars may close."""
        known = self._names.providers.get(provider)
        if known is not None:
            self._recording.discard(known.id)

    def resume(self, provider_ids: Iterable[int]) -> None:
        """These send, or send again."""
        self._recording.update(int(number) for number in provider_ids)

    def closing(self, received_at: int | None) -> dict[int, int]:
        """For each provider, up to when its bars may close, in UTC microseconds.

        While records wait to be worked in, the wall clock stands at `received_at`, when the last one worked in was
        received; None: nothing waits.
        """
        wall = micros(self._now()) if received_at is None else received_at
        return {number: self._closing(provider, wall) for number, provider in self._names.provider_by_id.items()}

    def _closing(self, provider: ProviderName, wall: int) -> int:
        if provider.clock is Clock.WALL:
            return wall - provider.delay_micros
        # A recording that a restart cut short counts as over too, until more of it comes.
        return self._shard.newest(provider.id) if provider.id in self._recording else END_OF_TIME

    def of_providers(self) -> dict[int, datetime]:
        """The present of each provider, by its number."""
        return {
            number: self._now() if provider.clock is Clock.WALL else from_micros(self._shard.newest(number))
            for number, provider in self._names.provider_by_id.items()
        }

    def of_symbol(self, symbol_id: int) -> datetime:
        """The present of a symbol: that of the provider whose clock it follows."""
        return self.of_providers().get(self._shard.provider_of(symbol_id), self._now())

    def closed_until(self, symbol_id: int) -> datetime:
        """Up to when the bars of a symbol may be final; a recording that is over closes all of them."""
        provider_id = self._shard.provider_of(symbol_id)
        provider = self._names.provider_by_id.get(provider_id)
        over = provider is not None and provider.clock is Clock.EVENT and provider_id not in self._recording
        return datetime.max.replace(tzinfo=UTC) if over else self.of_symbol(symbol_id)

    def provider_of(self, symbol_id: int) -> int:
        """The number of the provider whose clock a symbol follows; 0 if nothing has come for it."""
        return self._shard.provider_of(symbol_id)

    def watermark(self) -> datetime:
        """The greatest event time of all that was worked in."""
        return from_micros(max((self._shard.newest(number) for number in self._names.provider_by_id), default=0))
