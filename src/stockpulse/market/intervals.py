"""Intervals: the length of a bar, and the names that are accepted for it."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from stockpulse.errors import InvalidInput
from stockpulse.market.times import MINUTE_MICROS


@dataclass(frozen=True, slots=True)
class Interval:
    """The length of a bar. Equal lengths are equal intervals: 60m is 1h.

    `name` is the name in answers. `micros` is the length in microseconds, or None if it depends on the calendar: 1d, 1w
    and 1mo.
    """

    name: str
    micros: int | None

    @property
    def is_intraday(self) -> bool:
        """True if the length is fixed, so that a day holds several bars."""
        return self.micros is not None

    @property
    def is_of_seconds(self) -> bool:
        """True if the bars are shorter than a minute: they are built from ticks, on query."""
        return self.micros is not None and self.micros < MINUTE_MICROS

    @property
    def base(self) -> "Interval":
        """The nearest stored interval that these bars are made of; a stored one is its own base."""
        if self.micros is None:
            return D1
        return M5 if self.micros % (5 * MINUTE_MICROS) == 0 else M1

    @property
    def minutes(self) -> int:
        """The length in minutes, by which bars are stored; 1440 for 1d. Raises ValueError for 1w and 1mo."""
        if self.micros is not None:
            return self.micros // MINUTE_MICROS
        if self.name != "1d":
            raise ValueError(f"{self} is not stored")
        return _DAY_MINUTES

    def __str__(self) -> str:
        return self.name


_DAY_MINUTES: Final = 1440
_SECOND_MICROS: Final = 1_000_000


@cache  # so that an interval is the same object wherever it comes from
def _minutes(count: int) -> Interval:
    name = f"{count // 60}h" if count % 60 == 0 else f"{count}m"
    return Interval(name, count * MINUTE_MICROS)


@cache
def _seconds(count: int) -> Interval:
    return Interval(f"{count}s", count * _SECOND_MICROS)


M1: Final = _minutes(1)
M5: Final = _minutes(5)
D1: Final = Interval("1d", None)
W1: Final = Interval("1w", None)
MO1: Final = Interval("1mo", None)

#: The intervals whose bars are kept in memory and stored; each query derives bars of other intervals from these.
BASE_INTERVALS: Final = (M1, M5, D1)
MINUTES_OF: Final = {interval.name: interval.minutes for interval in BASE_INTERVALS}
INTERVAL_OF: Final = {interval.minutes: interval for interval in BASE_INTERVALS}

_LONGEST_MINUTES: Final = 240
_LONGER_HOURS: Final = (6, 8, 12)
_SECONDS: Final = (1, 5, 10, 15, 30)
_MINUTES: Final = {"minute": 1, "hour": 60}
_CALENDAR_UNITS: Final = {"day": D1, "week": W1, "month": MO1}
_SPELLINGS: Final = {
    "second": ("s", "sec", "secs", "second", "seconds"),
    "minute": ("", "m", "t", "min", "mins", "minute", "minutes"),  # pandas says T; TradingView only "5"
    "hour": ("h", "hr", "hrs", "hour", "hours", "hourly"),
    "day": ("d", "day", "days", "daily"),
    "week": ("w", "wk", "wks", "week", "weeks", "weekly"),
    "month": ("mo", "mon", "mth", "month", "months", "monthly"),
}
_UNITS: Final = {symbol_names: unit for unit, spellings in _SPELLINGS.items() for symbol_names in spellings}
_SHAPE: Final = re.compile(r"\s*([0-9]{0,4})\s*([A-Za-z]*)\s*")


def _pattern(*, stored: bool = False, seconds: bool = False) -> str:
    """Return a regular expression of the names that `parse_interval` takes.

    It leaves out spaces, leading zeros and minutes that are written as seconds.
    """
    counts = {
        "second": f"({'|'.join(map(str, _SECONDS))})" if seconds else "",
        "minute": "[15]" if stored else "([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-3][0-9]|240|360|480|720)",
        "hour": "" if stored else "([1-4]|6|8|12)",
        "day": "1",
        "week": "" if stored else "1",
        "month": "" if stored else "1",
    }
    found = []
    for unit, count in counts.items():
        if count:
            letters = [_any_case(text) for text in _SPELLINGS[unit] if text not in ("", "m")]
            letters += {"minute": ["m"], "month": ["M"]}.get(unit, [])
            found.append(f"{count}?({'|'.join(letters)})")
    return f"^({'|'.join([*found, counts['minute']])})$"


def _any_case(text: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" for letter in text)


def parse_interval(text: str, field: str = "interval", *, seconds: bool = False) -> Interval:
    """Read any common name of an interval: 5m, 5min, 5Min, 5T, 5, 60m, 1Hour, 1D, daily, 1wk, 1mo, 1M, monthly ...

    Case matters in one place: "1M" is a month and "1m" a minute. A bare number is minutes and a bare unit is
    one of it. With `seconds` also 1s, 5s, 10s, 15s and 30s. Raises InvalidInput for `field` otherwise.
    """
    matched = _SHAPE.fullmatch(text)
    if matched and any(matched.groups()):
        unit = _unit(matched[2])
        interval = _interval(count=int(matched[1] or 1), unit=unit)
        if interval and (seconds or unit != "second"):
            return interval
    of_seconds = "".join(f"{count}s, " for count in _SECONDS) if seconds else ""
    raise InvalidInput(
        field,
        f"got {text[:40]!r}; takes {of_seconds}1m … {_LONGEST_MINUTES}m, 1h … 4h, 6h, 8h, 12h, 1d, 1w, 1mo "
        "(also 5min, 5Min, 1day, …)",
    )


def _unit(letters: str) -> str | None:
    return "month" if letters == "M" else _UNITS.get(letters.lower())


def _interval(count: int, unit: str | None) -> Interval | None:
    """Return the interval of `count` units, None if it is not supported."""
    if unit == "second" and count % 60:
        return _seconds(count) if count in _SECONDS else None
    if unit == "second":
        count, unit = count // 60, "minute"
    if unit in _MINUTES:
        minutes = count * _MINUTES[unit]
        known = 1 <= minutes <= _LONGEST_MINUTES or minutes in (60 * hours for hours in _LONGER_HOURS)
        return _minutes(minutes) if known else None
    return _CALENDAR_UNITS.get(unit or "") if count == 1 else None


INTERVAL_PATTERN: Final = _pattern()
"""The names of intervals from a minute on, as a regular expression for the description of the API."""
INTERVAL_OR_SECONDS_PATTERN: Final = _pattern(seconds=True)
"""The same with intervals of seconds."""
STORED_INTERVAL_PATTERN: Final = _pattern(stored=True)
"""The same for 1m, 5m and 1d."""
