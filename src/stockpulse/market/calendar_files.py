"""Files with the tables of calendars, so that a start does not need the library, which takes seconds.

A file belongs to one version of the library. It is written whole or not at all. One that is damaged, or whose time zone
has other rules now, counts as missing: its calendar is built and written again.
"""

import contextlib
import hashlib
import io
import zoneinfo
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import structlog

from stockpulse.files.checked_files import DamagedFile, read_whole, write_whole
from stockpulse.market.calendar import Calendar, calendar_of

_LAYOUT: Final = 3
"""Grows when the table of a calendar, or the form of its file, changes."""

log = structlog.get_logger(__name__)


def read_calendar(folder: Path, name: str) -> Calendar | None:
    """Return the calendar of an exchange from its file; None if the file is missing, damaged or out of date."""
    try:
        table = read_whole(_path(folder, name))
    except DamagedFile as damaged:
        log.warning("the file of a calendar is damaged; StockPulse makes it again", reason=str(damaged))
        return None
    if table is None:
        return None
    with np.load(io.BytesIO(table), allow_pickle=False) as saved:
        zone = ZoneInfo(str(saved["zone"]))
        if str(saved["rules"]) != rules_of(zone.key):
            return None
        tables = (saved[column] for column in ("midnights", "opens", "closes", "traded"))
        return calendar_of(str(saved["name"]), zone, *tables)


def write_calendar(folder: Path, name: str, calendar: Calendar) -> None:
    """Write the file of a calendar.

    Without room or permission no file is written: the next process builds the calendar again.
    """
    table = io.BytesIO()
    columns = {column: getattr(calendar, column) for column in ("midnights", "opens", "closes", "traded")}
    zone = calendar.timezone.key
    np.savez_compressed(table, name=calendar.name, zone=zone, rules=rules_of(zone), **columns)
    try:
        write_whole(_path(folder, name), table.getvalue())
    except OSError as fault:
        log.warning("the file of a calendar cannot be written", calendar=name, fault=str(fault))


def rules_of(zone: str) -> str:
    """Return a digest of the rules of a time zone: of its file, which `zoneinfo` finds in the same places."""
    for folder in zoneinfo.TZPATH:
        with contextlib.suppress(OSError):
            return hashlib.sha256(Path(folder, zone).read_bytes()).hexdigest()
    return hashlib.sha256(files("tzdata").joinpath("zoneinfo", zone).read_bytes()).hexdigest()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}-{version('exchange_calendars')}-{_LAYOUT}.calendar"
