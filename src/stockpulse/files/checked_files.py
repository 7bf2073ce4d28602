"""Files of caches: each is written whole or not at all, and checked before it is used.

Machine code that is damaged does not fail, it crashes the process or gives wrong numbers. So each file begins with a
digest of its name and content.
"""

import contextlib
import hashlib
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stockpulse.errors import StockPulseError

_DIGEST_BYTES: Final = 32
_DAY_SECONDS: Final = 86_400
_UNUSED_SECONDS: Final = 90 * _DAY_SECONDS
_UNFINISHED: Final = ".unfinished"


class DamagedFile(StockPulseError):
    """A file has changed since it was written."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            file.write(_digest(path, content) + content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)


def read_whole(path: Path) -> bytes | None:
    """Return the content of a file that `write_whole` wrote; None if there is no such file.

    Raises DamagedFile if the file is not as it was written, or cannot be read.
    """
    try:
        found = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise DamagedFile(str(fault)) from None
    digest, content = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    if digest != _digest(path, content):
        raise DamagedFile(f"{path}: its content does not match its digest")
    _note_use(path)
    return content


def remove_unused(folder: Path, pattern: str, now: float) -> None:
    """Remove files of caches that no process has read for 90 days: older versions made them.

    `read_whole` notes the time of use. A process that needs a removed file makes it again.
    """
    with contextlib.suppress(OSError):
        for file in folder.glob(pattern):
            with contextlib.suppress(OSError):  # another process may have removed it
                if file.stat().st_mtime < now - _UNUSED_SECONDS:
                    file.unlink()


def _note_use(path: Path) -> None:
    """Set the time of a file to now, at most once a day."""
    with contextlib.suppress(OSError):
        if path.stat().st_mtime < datetime.now(UTC).timestamp() - _DAY_SECONDS:
            os.utime(path)


def remove_left_over(folder: Path, oldest: float) -> None:
    """Remove unfinished files of processes that were killed while they wrote, if they are older (epoch seconds)."""
    with contextlib.suppress(OSError):
        for file in folder.glob(f"*{_UNFINISHED}"):
            if file.stat().st_mtime < oldest:
                file.unlink()


def _digest(path: Path, content: bytes) -> bytes:
    """Return the digest of a file. With its name in it, the content of another file does not pass."""
    return hashlib.sha256(path.name.encode() + b"\0" + content).digest()


def sync_folder(folder: Path) -> None:
    """Make the new names in a folder survive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
