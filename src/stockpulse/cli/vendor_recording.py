"""A past day of a provider as a recording: `alpaca:2024-11-14`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import utc_now
from stockpulse.market.symbology import read_symbol
from stockpulse.node.sources import open_sources
from stockpulse.providers.transport.transport import Transport
from stockpulse.providers.vendor_day import trades_of
from stockpulse.settings import load_settings

_DAY: Final = re.compile(r"([a-z][a-z0-9_]*):(\d{4}-\d\d-\d\d)")


@dataclass(frozen=True)
class VendorDay:
    """A day of a provider."""

    provider: str
    day: date

    def __str__(self) -> str:
        """Return the day as it is written on the command line."""
        return f"{self.provider}:{self.day}"


def read_vendor_day(text: str) -> VendorDay | None:
    """Return the day that a text names; None for the name of a file. Raises InvalidInput for an impossible date."""
    found = _DAY.fullmatch(text)
    if found is None or Path(text).exists():
        return None
    try:
        return VendorDay(found[1], date.fromisoformat(found[2]))
    except ValueError:
        raise InvalidInput("FILES", f"got {shown(text)}; takes a date, {found[1]}:2024-11-14") from None


def read_symbols(text: str | None) -> tuple[str, ...]:
    """Return the symbols of the option, which a day of a provider needs."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not parts:
        raise InvalidInput("--symbols", "a day of a provider needs symbols, separated by commas: AAPL,MSFT")
    symbols = [read_symbol(part) for part in parts]
    for part, symbol in zip(parts, symbols, strict=True):
        if symbol is None:
            raise InvalidInput("--symbols", f"got {shown(part)}, which is not a symbol")
    return tuple(dict.fromkeys(symbol for symbol in symbols if symbol is not None))


async def record(one: VendorDay, symbols: Sequence[str], calendar: str, folder: Path, *, bars: bool) -> Path:
    """Load a day from its provider into a file of this folder; return the path."""
    settings = load_settings()
    async with open_sources(settings.without_feeds(), Transport(now=utc_now), utc_now) as sources:
        source = sources.named(one.provider)
        zone = trading_calendar(calendar).timezone
        start = datetime.combine(one.day, time(), zone).astimezone(UTC)
        end = datetime.combine(one.day + timedelta(days=1), time(), zone).astimezone(UTC)
        ticks = await trades_of(source.provider, source.has, symbols, start, end, bars=bars)
    path = folder / f"{one.provider}-{one.day}.parquet"
    ticks.write_parquet(path)
    return path
