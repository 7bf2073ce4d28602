"""Files with the tables of calendars, so that a start does not need the library, which takes seconds.

A file belongs to one version of the library. It is written whole or not at all. One that is damaged, or whose time zone
has other rules now, counts as missing: its calendar is built and written again.
"""

import hashlib
import io
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import structlog

from stockpulse.market.calendar import Calendar, calendar_of
from stockpulse.market.calendar_library import midnights_of

_LAYOUT: Final = 1
"""Grows when the table of a calendar changes."""
_DIGEST_BYTES: Final = 32

log = structlog.get_logger(__name__)


def read_calendar(folder: Path, name: str) -> Calendar | None:
    """Return the calendar of an exchange from its file; None if the file is missing, damaged or out of date."""
    try:
        blob = _path(folder, name).read_bytes()
    except OSError:
        return None
    digest, table = blob[:_DIGEST_BYTES], blob[_DIGEST_BYTES:]
    if hashlib.sha256(table).digest() != digest:
        log.warning("the file of a calendar is damaged; StockPulse makes it again", calendar=name)
        return None
    with np.load(io.BytesIO(table), allow_pickle=False) as saved:
        zone = ZoneInfo(str(saved["zone"]))
        midnights = saved["midnights"]
        if not np.array_equal(midnights, midnights_of(zone)):
            return None
        return calendar_of(str(saved["name"]), zone, midnights, saved["opens"], saved["closes"], saved["traded"])


def write_calendar(folder: Path, name: str, calendar: Calendar) -> None:
    """Write the file of a calendar.

    Without room or permission no file is written: the next process builds the calendar again.
    """
    table = io.BytesIO()
    columns = {column: getattr(calendar, column) for column in ("midnights", "opens", "closes", "traded")}
    np.savez_compressed(table, name=calendar.name, zone=calendar.timezone.key, **columns)
    path = _path(folder, name)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(hashlib.sha256(table.getvalue()).digest() + table.getvalue())
        unfinished.replace(path)
    except OSError as fault:
        log.warning("the file of a calendar cannot be written", calendar=name, fault=str(fault))
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}-{version('exchange_calendars')}-{_LAYOUT}.calendar"
