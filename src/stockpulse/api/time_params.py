"""Times and time zones in query parameters."""

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import polars as pl
from fastapi import Depends, Query
from pydantic import WithJsonSchema

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.times import EPOCH, from_micros, micros, read_time

__all__ = ["End", "Start", "Zone", "check_order", "from_micros", "micros", "parse_time", "parse_zone", "read_time"]


def check_order(start: datetime | None, end: datetime | None) -> None:
    """Raise InvalidInput for a range that ends before it starts."""
    if start and end and start > end:
        raise InvalidInput("end", f"got {end.isoformat()}, which is before start")


def parse_time(text: str, field: str) -> datetime:
    """Read the time in the query parameter `field`. Raises InvalidInput."""
    moment = read_time(text)
    if moment is None:
        takes = "RFC 3339, a date or epoch seconds, in the years 1970 to 2200"
        raise InvalidInput(field, f"got {shown(text)}; takes {takes}")
    return moment


@lru_cache(maxsize=64)
def parse_zone(text: str) -> ZoneInfo:
    """Return the time zone with this IANA name. Raises InvalidInput."""
    try:
        zone = ZoneInfo("UTC" if text in ("Z", "utc") else text)
        # Python also opens files such as "posixrules"; Polars, which writes the times, knows zones only.
        pl.Series([EPOCH]).dt.convert_time_zone(zone.key)
    except (LookupError, ValueError, OSError, pl.exceptions.PolarsError):
        raise InvalidInput("tz", f"got {shown(text)}; takes an IANA time zone, America/New_York") from None
    return zone


# --- query parameters ----------------------------------------------------------------------------

_TAKES: Final = "RFC 3339, a date (midnight UTC) or epoch seconds"
_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "date"},
            {"type": "number", "minimum": 0},
        ],
        "examples": ["2026-02-27T09:30:00-05:00", "2026-02-27", 1772202600],
    }
)


async def _start(
    start: Annotated[str | None, _SCHEMA, Query(description=f"The start of the range: {_TAKES}.")] = None,
) -> datetime | None:
    return None if start is None else parse_time(start, "start")


async def _end(
    end: Annotated[str | None, _SCHEMA, Query(description=f"The end of the range, excluded: {_TAKES}.")] = None,
) -> datetime | None:
    return None if end is None else parse_time(end, "end")


async def _zone(
    tz: Annotated[
        str, Query(description="The time zone of the answer: an IANA name.", examples=["America/New_York"])
    ] = "UTC",
) -> ZoneInfo:
    return parse_zone(tz)


#: `async def bars(start: Start, end: End, zone: Zone)` takes ?start=, ?end= and ?tz=.
Start = Annotated[datetime | None, Depends(_start)]
End = Annotated[datetime | None, Depends(_end)]
Zone = Annotated[ZoneInfo, Depends(_zone)]
