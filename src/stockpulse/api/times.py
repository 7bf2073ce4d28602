"""Times as people write them in a URL: RFC 3339, a date or seconds since 1970."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import polars as pl
from fastapi import Depends, Query
from pydantic import WithJsonSchema

from stockpulse.api.errors import shown
from stockpulse.errors import InvalidInput
from stockpulse.times import EPOCH, from_micros, micros

__all__ = ["End", "Start", "Zone", "check_order", "from_micros", "micros", "parse_time", "parse_zone", "read_time"]

EARLIEST: Final = 0  # microseconds since 1970
LATEST: Final = int(datetime(2201, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 - 1

#: A bare number says its unit by its size: below the first it counts seconds (to the year 5138), below the
#: next ones milliseconds and microseconds, else nanoseconds (all from 1973 on).
SECONDS_BELOW: Final = 10**11
MILLIS_BELOW: Final = 10**14
MICROS_BELOW: Final = 10**17

_NUMBER: Final = re.compile(r"\d{1,19}(\.\d{0,18})?", re.ASCII)
_RFC_3339: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"([Tt ](?P<clock>\d\d:\d\d(:\d\d)?)([.,](?P<fraction>\d{1,9}))?"
    r" ?(?P<zone>[Zz]|(?P<sign>[-+ ])(?P<hours>[01]\d|2[0-3]):?(?P<minutes>[0-5]\d))?)?",
    re.ASCII,
)


def check_order(start: datetime | None, end: datetime | None) -> None:
    """Refuse a range that ends before it starts."""
    if start and end and start > end:
        raise InvalidInput("end", f"got {end.isoformat()}, which is before start")


def read_time(text: str) -> datetime | None:
    """The time that `text` says, in UTC and cut to microseconds; None when it says none in 1970-2200."""
    text = text.strip()
    count = _from_number(text) if _NUMBER.fullmatch(text) else _from_rfc_3339(text)
    return from_micros(count) if count is not None and EARLIEST <= count <= LATEST else None


def parse_time(text: str, field: str) -> datetime:
    """The same, for the parameter `field` of a request: what cannot be read is an InvalidInput."""
    moment = read_time(text)
    if moment is None:
        takes = "RFC 3339, a date or epoch seconds, in the years 1970 to 2200"
        raise InvalidInput(field, f"got {shown(text)}; takes {takes}")
    return moment


@lru_cache(maxsize=64)
def parse_zone(text: str) -> ZoneInfo:
    """The time zone `text`, an IANA name."""
    try:
        zone = ZoneInfo("UTC" if text in ("Z", "utc") else text)
        # Python also opens files such as "posixrules"; Polars, which writes the times, knows only zones.
        pl.Series([EPOCH]).dt.convert_time_zone(zone.key)
    except (LookupError, ValueError, OSError, pl.exceptions.PolarsError):
        raise InvalidInput("tz", f"got {shown(text)}; takes an IANA time zone, America/New_York") from None
    return zone


def _from_number(text: str) -> int:
    number = Decimal(text)
    if number < SECONDS_BELOW:
        return int(number * 1_000_000)
    if number < MILLIS_BELOW:
        return int(number * 1_000)
    return int(number) if number < MICROS_BELOW else int(number / 1_000)


def _from_rfc_3339(text: str) -> int | None:
    found = _RFC_3339.fullmatch(text)
    if found is None:
        return None
    try:
        whole = datetime.fromisoformat(f"{found['date']}T{found['clock'] or '00:00'}").replace(tzinfo=UTC)
    except ValueError:  # 30 February, 25 o'clock
        return None
    fraction = int((found["fraction"] or "").ljust(6, "0")[:6])
    return micros(whole) + fraction - _offset(found)


def _offset(found: re.Match[str]) -> int:
    """How many microseconds it is ahead of UTC; a time without a zone is UTC."""
    if found["hours"] is None:
        return 0
    ahead = (int(found["hours"]) * 60 + int(found["minutes"])) * 60_000_000
    return -ahead if found["sign"] == "-" else ahead  # a URL's unescaped "+" arrives as a space


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
    start: Annotated[str | None, _SCHEMA, Query(description=f"The first moment: {_TAKES}.")] = None,
) -> datetime | None:
    return None if start is None else parse_time(start, "start")


async def _end(
    end: Annotated[str | None, _SCHEMA, Query(description=f"The moment to stop before: {_TAKES}.")] = None,
) -> datetime | None:
    return None if end is None else parse_time(end, "end")


async def _zone(
    tz: Annotated[
        str, Query(description="The time zone to answer in: an IANA name.", examples=["America/New_York"])
    ] = "UTC",
) -> ZoneInfo:
    return parse_zone(tz)


#: `async def bars(start: Start, end: End, zone: Zone)` takes ?start=, ?end= and ?tz=.
Start = Annotated[datetime | None, Depends(_start)]
End = Annotated[datetime | None, Depends(_end)]
Zone = Annotated[ZoneInfo, Depends(_zone)]
