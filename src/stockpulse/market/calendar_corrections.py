"""Corrections of single days of trading calendars: ours for faults of the library, and corrections of the user.

    {"XKRX": {"2024-11-14": "10:00-16:30", "2024-12-31": "closed"}}

Hours are those of the exchange's clock. A user's correction of a day replaces ours.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, Final

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendar_names import ALWAYS_OPEN, calendar_name

FIELD: Final = "calendar corrections"
_FIRST: Final = date(1990, 1, 1)
_LAST: Final = date(2050, 12, 31)
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5][05])\s*-\s*([01]\d|2[0-3]):([0-5][05])", re.ASCII)


@dataclass(frozen=True)
class Hours:
    """The open and the close of a session, on the exchange's clock."""

    open: time
    close: time


Days = Mapping[date, Hours | None]
"""The corrected days of a calendar; None: closed."""
Corrections = Mapping[str, Days]
"""The corrected days by the name of the calendar."""


def read_corrections(text: str) -> Corrections:
    """Read corrections from JSON, or from a `.json` or `.toml` file. Raises InvalidInput with the fault."""
    return _corrections(_table(text.strip()))


def shipped_corrections() -> Corrections:
    """Return the corrections of days that the library has wrong."""
    return _corrections(tomllib.loads((Path(__file__).parent / "calendar_corrections.toml").read_text()))


def _table(text: str) -> Any:
    try:
        if text.startswith("{"):
            return json.loads(text)
        path = Path(text)
        return tomllib.loads(path.read_text()) if path.suffix.lower() == ".toml" else json.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(FIELD, f"{shown(text)} is neither JSON nor a file that can be read: {error}") from None
    except ValueError as error:
        raise InvalidInput(FIELD, f"{shown(text)} cannot be read: {error}") from None


def _corrections(table: Any) -> Corrections:
    if not isinstance(table, dict) or not all(isinstance(days, dict) for days in table.values()):
        raise InvalidInput(FIELD, 'takes calendars with their days, {"XKRX": {"2024-11-14": "10:00-16:30"}}')
    corrections: dict[str, dict[date, Hours | None]] = {}
    for name, days in table.items():
        if calendar_name(name) == ALWAYS_OPEN:
            raise InvalidInput(FIELD, f"{name} is always open")
        corrected = corrections.setdefault(calendar_name(name), {})
        corrected |= {_day(name, day): _hours(name, day, hours) for day, hours in days.items()}
    return corrections


def _day(name: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if not _FIRST <= day <= _LAST:
        raise InvalidInput(FIELD, f"{name}: {shown(text)} is not a day of 1990 to 2050, as 2024-11-14 is")
    return day


def _hours(name: str, day: str, text: Any) -> Hours | None:
    if text == "closed":
        return None
    found = _HOURS.fullmatch(text) if isinstance(text, str) else None
    if found is None or found.group(1, 2) >= found.group(3, 4):
        raise InvalidInput(FIELD, f'{name} {day}: got {shown(text)}; takes "closed" or "10:00-16:30", whole 5 minutes')
    hours, minutes, to_hours, to_minutes = map(int, found.groups())
    return Hours(time(hours, minutes), time(to_hours, to_minutes))
