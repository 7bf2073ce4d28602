"""Times in whole microseconds since 1970 UTC, and the formats of times from outside."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_MICROS: Final = 1_000_000
MINUTE_MICROS: Final = 60 * SECOND_MICROS
DAY_MICROS: Final = 86_400 * SECOND_MICROS
_MICROSECOND: Final = timedelta(microseconds=1)

#: The accepted times, in microseconds: the years 1970 to 2200.
EARLIEST: Final = 0
LATEST: Final = int(datetime(2201, 1, 1, tzinfo=UTC).timestamp()) * SECOND_MICROS - 1

#: The size of a bare number says its unit: below the first limit it counts seconds (to the year 5138), below the
#: next ones milliseconds and microseconds, otherwise nanoseconds (all from 1973 on).
SECONDS_BELOW: Final = 10**11
MILLIS_BELOW: Final = 10**14
MICROS_BELOW: Final = 10**17

#: Between these a whole number is a date of ISO 8601's basic format, 20261125, and not a second of 1970.
FIRST_DATE: Final = 1970_01_01
LAST_DATE: Final = 2200_12_31

_NUMBER: Final = re.compile(r"\d{1,19}(\.\d{0,18})?", re.ASCII)
_DATE: Final = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)", re.ASCII)
_RFC_3339: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"([Tt ](?P<clock>\d\d:\d\d)(:(?P<seconds>[0-5]\d|60)([.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?P<zone>[Zz]|(?P<sign>[-+ ])(?P<hours>[01]\d|2[0-3])(:?(?P<minutes>[0-5]\d))?)?)?",
    re.ASCII,
)
_LEAP_SECOND: Final = 60
"""It follows 23:59:59 UTC, and counts as 00:00:00 of the next day: so POSIX defines seconds since the epoch."""


def micros(instant: datetime) -> int:
    """Return the microseconds since 1970 of an aware datetime."""
    return (instant - EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """Return the UTC datetime `value` microseconds after 1970."""
    return EPOCH + timedelta(microseconds=value)


def read_time(text: str) -> datetime | None:
    """Return the time in `text`, in UTC and cut to microseconds; None if it is not a time of 1970 to 2200.

    Takes RFC 3339, also without seconds, clock or zone (then UTC), and numbers: see `SECONDS_BELOW`, `FIRST_DATE`.
    """
    text = text.strip()
    count = _from_number(text) if _NUMBER.fullmatch(text) else _from_rfc_3339(text)
    return from_micros(count) if count is not None and EARLIEST <= count <= LATEST else None


def read_date(text: str) -> date | None:
    """Return the date if `text` is a date without a time, as 2026-11-25 or 20261125; otherwise None.

    Eight digits that are no date of 1970 to 2200 are seconds, as in `read_time`: 19700100 is a time of August 1970.
    """
    found = _DATE.fullmatch(text.strip())
    if found is None or read_time(text) is None:
        return None
    year, month, day = (int(part) for part in found.groups())
    is_date = "-" in text or FIRST_DATE <= year * 10_000 + month * 100 + day <= LAST_DATE
    return date(year, month, day) if is_date else None


def _from_number(text: str) -> int | None:
    number = Decimal(text)
    if FIRST_DATE <= number <= LAST_DATE and number == int(number):
        return _from_rfc_3339(f"{int(number) // 10_000}-{int(number) // 100 % 100:02}-{int(number) % 100:02}")
    if number < SECONDS_BELOW:
        return int(number * SECOND_MICROS)
    if number < MILLIS_BELOW:
        return int(number * 1_000)
    return int(number) if number < MICROS_BELOW else int(number / 1_000)


def _from_rfc_3339(text: str) -> int | None:
    found = _RFC_3339.fullmatch(text)
    if found is None:
        return None
    try:
        minute = datetime.fromisoformat(f"{found['date']}T{found['clock'] or '00:00'}").replace(tzinfo=UTC)
    except ValueError:  # 30 February, 25 o'clock
        return None
    seconds = int(found["seconds"] or 0)
    whole = micros(minute) + seconds * SECOND_MICROS - _offset(found)
    if seconds == _LEAP_SECOND and whole % DAY_MICROS:
        return None
    return whole + int((found["fraction"] or "").ljust(6, "0")[:6])


def _offset(found: re.Match[str]) -> int:
    """Return the offset of the zone from UTC in microseconds; 0 without a zone."""
    if found["hours"] is None:
        return 0
    ahead = (int(found["hours"]) * 60 + int(found["minutes"] or 0)) * MINUTE_MICROS
    return -ahead if found["sign"] == "-" else ahead  # a URL's unescaped "+" arrives as a space
