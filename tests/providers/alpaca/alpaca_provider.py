"""The real provider against the fake server."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime

from stockpulse.providers.alpaca.plan import OPTIONS
from stockpulse.providers.alpaca.provider import ALPACA
from stockpulse.providers.base import ProviderConfig
from stockpulse.providers.transport.transport import Transport

DEFAULTS = {option.name: option.default for option in OPTIONS if option.default is not None}


@asynccontextmanager
async def provider_of(fake, *symbols, now=None, transport=None, **options):
    """The provider with default options, pointed at a fake; its pings are quick."""
    values = {**DEFAULTS, **fake.options, "heartbeat_seconds": "0.5", **options}
    config = ProviderConfig(
        symbols or ("AAPL",),
        now=now or (lambda: datetime.now(UTC)),
        options=values,
        transport=transport or Transport(),
    )
    provider = ALPACA.create(config)
    try:
        yield provider
    finally:
        await provider.close()


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def bar(text, close=231.9, **other):
    return {"t": text, "o": 231.74, "h": 232.05, "l": 231, "c": close, "v": 201987, "n": 2310, "vw": 231.836901} | other


def trade(text, number, price=231.88, size=100, **other):
    return {"t": text, "x": "V", "p": price, "s": size, "c": ["@"], "i": number, "z": "C"} | other
