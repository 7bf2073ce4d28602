"""Instants as the system counts them, whole microseconds since 1970, UTC; and as others write them."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

#: Of what others write, the times from the first to the last are taken: 1970 to 2200, in microseconds.
EARLIEST: Final = 0
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


def micros(instant: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (instant - EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """The UTC datetime so many microseconds after 1970."""
    return EPOCH + timedelta(microseconds=value)


def read_time(text: str) -> datetime | None:
    """The time that `text` says, in UTC and cut to microseconds; None when it says none in 1970-2200."""
    text = text.strip()
    count = _from_number(text) if _NUMBER.fullmatch(text) else _from_rfc_3339(text)
    return from_micros(count) if count is not None and EARLIEST <= count <= LATEST else None


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
