"""The providers of this process, created from the settings and from their own options."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.pipeline.sources import Sources
from stockpulse.providers.base import Provider, ProviderConfig, ProviderEntry
from stockpulse.providers.options import read_options
from stockpulse.providers.registry import installed_providers
from stockpulse.providers.transport.transport import Transport
from stockpulse.settings import Settings, given_variables


def check_options(settings: Settings) -> None:
    """Raise CannotStart if a provider of the settings lacks a key or another required option."""
    variables, providers = given_variables(), installed_providers()
    try:
        for name in (*(one.provider for one in settings.followed), *settings.fallbacks):
            read_options(providers.named(name), variables)
    except InvalidInput as missing:
        raise CannotStart(str(missing)) from None


def sources_of(settings: Settings, transport: Transport, now: Callable[[], datetime]) -> Sources:
    """Return the providers of the settings, none created yet. They share `transport`."""
    variables = given_variables()

    def create(entry: ProviderEntry, symbols: tuple[str, ...]) -> Provider:
        options = read_options(entry, variables)
        return entry.create(
            ProviderConfig(symbols, settings.simulated_rate, settings.simulated_seed, now, options, transport)
        )

    return Sources(create, settings.followed, settings.fallbacks)


@asynccontextmanager
async def open_sources(settings: Settings, transport: Transport, now: Callable[[], datetime]) -> AsyncIterator[Sources]:
    """Yield the providers of the settings; close their connections at the end."""
    sources = sources_of(settings, transport, now)
    try:
        yield sources
    finally:
        await sources.close()
