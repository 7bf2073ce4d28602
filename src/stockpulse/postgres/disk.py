"""The room on the disk of the database: its free bytes, and writes that failed because it is full."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

_MEGABYTE: Final = 1_000_000
_RESERVE: Final = 200 * _MEGABYTE
_SHARE_OF_SMALL_DISK: Final = 10
_TO_START: Final = 64 * _MEGABYTE
"""More than a server that has crashed writes before it is up: segments of its write-ahead log, of 16 MB each."""


@dataclass(frozen=True)
class Room:
    """The state of the disk. `free` and `missing` are bytes; None for a disk of another machine."""

    path: str | None
    free: int | None
    missing: int | None
    """The bytes that must become free before the server accepts ticks again; 0 if there is room."""
    fault: str | None
    """The reason why the server accepts no ticks; None if there is room."""


class Disk:
    """The disk that the database writes to.

    It has no room when less than a reserve is free, or when a write has failed because the disk is full. The database
    needs the reserve to store the accepted records, and to start again after a crash.
    """

    def __init__(self, folder: Path | None = None, reserve_megabytes: int | None = None) -> None:
        """Pass the `folder` of an embedded database; without it, only failed writes show that the disk is full.

        Without `reserve_megabytes` the reserve is 200 MB, or a tenth of a disk that is smaller than 2 GB.
        """
        self._folder = folder
        self._reserve = None if reserve_megabytes is None else reserve_megabytes * _MEGABYTE
        self._refused: str | None = None

    def failed(self, fault: BaseException) -> None:
        """Note a write that failed, and that will be tried again."""
        if isinstance(fault, asyncpg.DiskFullError):
            self._refused = str(fault)

    def wrote(self) -> None:
        """Note a write that succeeded."""
        self._refused = None

    def room(self) -> Room:
        """Return the state of the disk."""
        if self._folder is None:
            fault = None if self._refused is None else f"the disk of the database is full: {self._refused}"
            return Room(None, None, None if fault else 0, fault)
        free, reserve = self._free_and_reserve(self._folder)
        missing = max(reserve - free, 0)
        path = str(self._folder)
        if missing:
            fault = (
                f"the disk of the database is full: {free:,} bytes are free at {path}, {reserve:,} are needed:"
                f" {missing:,} bytes are missing"
            )
            return Room(path, free, missing, fault)
        if self._refused is not None:
            return Room(path, free, None, f"the disk of the database at {path} is full: {self._refused}")
        return Room(path, free, 0, None)

    def fault(self) -> str | None:
        """Return the reason why the server accepts no ticks; None if there is room."""
        return self.room().fault

    def lacks_room_to_start(self) -> str | None:
        """Return the reason if an embedded server may lack the space to start, for any reserve."""
        if (fault := self.fault()) is not None or self._folder is None:
            return fault
        free, _ = self._free_and_reserve(self._folder)
        return f"only {free:,} bytes are free at {self._folder}" if free < _TO_START else None

    def _free_and_reserve(self, folder: Path) -> tuple[int, int]:
        try:
            found = os.statvfs(folder)
        except OSError:  # the folder or its disk is missing: the database reports that
            return _RESERVE, 0
        size = found.f_blocks * found.f_frsize
        reserve = min(_RESERVE, size // _SHARE_OF_SMALL_DISK) if self._reserve is None else self._reserve
        return found.f_bavail * found.f_frsize, reserve
