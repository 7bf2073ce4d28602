"""Times and time zones in query parameters."""

import re
from datetime import datetime
from functools import cache, lru_cache
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

import polars as pl
from fastapi import Depends, Query

from stockpulse.api.document import named_schema
from stockpulse.errors import InvalidInput, shown
from stockpulse.market.times import EPOCH, from_micros, micros, read_date, read_time

__all__ = ["Zone", "check_order", "from_micros", "micros", "parse_time", "parse_zone", "read_date", "read_time"]

_TAKES: Final = "RFC 3339, a date or epoch seconds, in the years 1970 to 2200"
UTC_NAMES: Final = {"Z": "UTC", "utc": "UTC"}
"""Further names of UTC that are accepted."""
_NO_PLACES: Final = {"Factory", "localtime"}
"""Files of time zones that stand for no place."""
_YEAR_OR_MONTH: Final = re.compile(r"(19[7-9]\d|2[01]\d\d|2200)(0[1-9]|1[0-2])?", re.ASCII)


def check_order(start: datetime | None, end: datetime | None) -> None:
    """Raise InvalidInput for a range that ends before it starts."""
    if start and end and start > end:
        raise InvalidInput("end", f"got {end.isoformat()}, which is before start")


def parse_time(text: str, field: str) -> datetime:
    """Read the time in the query parameter `field`; a date is midnight UTC. Raises InvalidInput."""
    if _YEAR_OR_MONTH.fullmatch(text.strip()):
        raise InvalidInput(field, f"got {shown(text)}, which could be a year, a month or seconds; takes {_TAKES}")
    moment = read_time(text)
    if moment is None:
        raise InvalidInput(field, f"got {shown(text)}; takes {_TAKES}")
    return moment


@lru_cache(maxsize=64)
def parse_zone(text: str) -> ZoneInfo:
    """Return the time zone with this IANA name. Raises InvalidInput."""
    name = UTC_NAMES.get(text, text)
    if name not in time_zones():
        raise InvalidInput("tz", f"got {shown(text)}; takes an IANA time zone, America/New_York")
    return ZoneInfo(name)


@cache
def time_zones() -> frozenset[str]:
    """Return the names of the time zones that Python has and that Polars, which writes the times, knows too."""
    return frozenset(name for name in available_timezones() - _NO_PLACES if _is_known(name))


def accepted_zones() -> list[str]:
    """Return all values of `tz`."""
    return sorted({*time_zones(), *UTC_NAMES})


def _is_known(name: str) -> bool:
    try:
        pl.Series([EPOCH]).dt.convert_time_zone(name).dt.hour()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):  # a zone that is newer than Polars
        return False
    return True


# --- query parameters ----------------------------------------------------------------------------


async def _zone(
    tz: Annotated[
        str,
        Query(
            description="The time zone of the answer: an IANA name.",
            examples=["America/New_York"],
            json_schema_extra=named_schema("TimeZone"),
        ),
    ] = "UTC",
) -> ZoneInfo:
    return parse_zone(tz)


#: `async def bars(zone: Zone)` takes ?tz=.
Zone = Annotated[ZoneInfo, Depends(_zone)]
