"""The files around the embedded server: the folder's lock, the server's log, and private folders."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stockpulse.errors import CannotStart, DataFolderInUse
from stockpulse.files.checked_files import sync_folder
from stockpulse.postgres.embedded.server_settings import PORT

if TYPE_CHECKING:
    from typing import IO

    from stockpulse.postgres.embedded.unprivileged import Account

LOG_BYTES = 10_000_000
LOG_BYTES_SHOWN = 2000
PRIVATE = 0o700
SOCKET_PATH_BYTES = 103  # the limit of macOS; Linux takes 107


class ServerLog:
    """The file that the output of the server and of initdb goes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def open(self) -> IO[bytes]:
        """Open the file for a program's output, and remember where that begins."""
        mode = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.fdopen(os.open(self.path, mode, 0o600), "ab")
        self._start = file.tell()
        return file

    def rotate(self) -> None:
        """Rotate the file if it is large; one old file is kept."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size > LOG_BYTES:
                self.path.replace(self.path.with_suffix(".log.1"))

    def tail(self) -> str:
        """Return the last lines of the latest program."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._start, size - LOG_BYTES_SHOWN))
            return file.read().decode(errors="replace").strip()
        return ""


class FolderLock:
    """A lock on the data folder. The kernel releases it at every end of the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 20).decode(errors="replace").strip() or "?"
            os.close(self._file)
            if not isinstance(error, BlockingIOError):
                raise
            raise DataFolderInUse(f"another StockPulse (pid {holder}) runs on {path.parent}") from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock. The file stays: removing it could remove the lock of the next process."""
        os.close(self._file)


def socket_folder(data_dir: Path) -> Path:
    """Return the folder of the socket: in the data folder, unless that path is too long or has odd characters."""
    private = os.environ.get("XDG_RUNTIME_DIR", "")
    parents = [private] if os.access(private, os.W_OK) else []
    parents += [tempfile.gettempdir(), "/tmp"]  # noqa: S108 - the folder in it is checked to be ours
    name = f"stockpulse-{short_hash(data_dir)}"
    for folder in (data_dir / "run", *(Path(parent).resolve() / name for parent in parents)):
        socket = os.fsencode(folder / f".s.PGSQL.{PORT}")
        if len(socket) <= SOCKET_PATH_BYTES and re.fullmatch(rb"[\w./@+-]+", socket):
            return folder
    raise CannotStart(f"{data_dir} is too long a path for a socket: point STOCKPULSE_DATA_DIR to a shorter one")


def short_hash(path: Path) -> str:
    """Return a short name for a path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def make_data_folder(folder: Path) -> None:
    """Create the data folder, for this account only; an existing folder is not changed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=PRIVATE)
    if not folder.is_dir():
        raise NotADirectoryError("it is not a folder")


def make_private(folder: Path, account: Account | None, *, ours: bool) -> None:
    """Create a folder that no other account can read; refuse an existing folder that others can read."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=PRIVATE)
    status = folder.lstat()
    owners = {os.geteuid(), account.uid if account else os.geteuid()}
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise CannotStart(f"{folder} is not a folder of ours (owner id {status.st_uid}): remove it")
    if stat.S_IMODE(status.st_mode) != PRIVATE:
        if not ours:
            raise CannotStart(f"{folder} is open to others: remove it")
        folder.chmod(PRIVATE)
    if account:
        os.chown(folder, *account, follow_symlinks=False)


def write_readable(path: Path, text: str) -> None:
    """Write a file that the server's account may read."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def move_for_good(old: Path, new: Path) -> None:
    """Rename a file or folder so that the new name survives a power cut."""
    old.rename(new)
    sync_folder(new.parent)
