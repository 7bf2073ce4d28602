"""The calendars in use: built from the library, kept in files of the cache folder, corrected by us and the user."""

import functools
import threading
import time
from pathlib import Path
from typing import Final

from stockpulse.files.checked_files import remove_unused
from stockpulse.market.calendar import Calendar, always_open
from stockpulse.market.calendar_corrections import Corrections, Days, shipped_corrections
from stockpulse.market.calendar_files import read_calendar, write_calendar
from stockpulse.market.calendar_library import calendar_from_library
from stockpulse.market.calendar_names import ALWAYS_OPEN, calendar_name

_BUILDING: Final = threading.Lock()
_user_corrections: Final[dict[str, Days]] = {}
_loaded: Final[set[str]] = set()
_folder: Path | None = None


def trading_calendar(name: str) -> Calendar:
    """Return the calendar of an exchange (XNYS, XLON, NYSE, ...), or "24/7": always open, with the days of UTC.

    Raises InvalidInput for an unknown name. The first call for an exchange takes up to some seconds if the cache folder
    has no file of it; other threads that need a calendar wait.
    """
    with _BUILDING:  # the filters of warnings, which building changes, belong to all threads
        calendar = _built(calendar_name(name))
        _loaded.add(name)
        return calendar


def is_loaded(name: str) -> bool:
    """Return True if `trading_calendar` returns the calendar of this name at once."""
    return name in _loaded


def keep_calendars_in(folder: Path) -> None:
    """Keep the tables of calendars in files of a folder from now on, so that the next process need not build them."""
    global _folder  # noqa: PLW0603 (calendars are the same for all parts of a process, and so is their folder)
    _folder = folder
    remove_unused(folder, "*.calendar", time.time())


def use_corrections(corrections: Corrections) -> None:
    """Correct days of calendars from now on, beside the shipped corrections. Call this before any calendar is used.

    Raises InvalidInput for a calendar that does not exist.
    """
    for name in corrections:
        trading_calendar(name)
    with _BUILDING:
        _user_corrections.clear()
        _user_corrections.update(corrections)
        _built.cache_clear()
        _loaded.clear()


@functools.cache
def _built(name: str) -> Calendar:
    if name == ALWAYS_OPEN:
        return always_open(name)
    original = _uncorrected(name)
    corrections = (shipped_corrections(), _user_corrections)
    # The name may be another one (XNAS) of the original (XNYS): what holds for the original holds for it.
    days = [item for known in corrections for one in (original.name, name) for item in known.get(one, {}).items()]
    return original.corrected(name, days)


@functools.cache
def _uncorrected(name: str) -> Calendar:
    if _folder is None or not name.isidentifier():  # a name from outside shall not lead out of the folder
        return calendar_from_library(name)
    if (known := read_calendar(_folder, name)) is not None:
        return known
    calendar = calendar_from_library(name)
    write_calendar(_folder, name, calendar)
    return calendar
