"""Processes that may not be our children: a server outlives a killed app, and the next app adopts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

POLL_SECONDS = 0.02


class Process:
    """A running program, our child or not: an adopted postmaster is not."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._birth = _birth(pid)

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """Return the process with this pid, or None if it is dead."""
        return cls(pid) if _birth(pid) else None

    def is_alive(self) -> bool:
        """Return True while the process runs; another process that got the same pid later does not count."""
        if self._child is not None:
            return self._child.poll() is None
        return self._birth is not None and _birth(self.pid) == self._birth

    def exit_code(self) -> int | None:
        """Return the exit status; None for an adopted process, whose status is unknown."""
        return self._child.poll() if self._child is not None else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self, within: float) -> bool:
        """Wait up to `seconds` for its end."""
        end = time.monotonic() + within
        while self.is_alive():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True


def _birth(pid: int) -> str | None:
    """Return a value that differs for a later process with the same pid; None if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        # Not Linux, or no such process.
        return "alive" if sys.platform != "linux" and is_taken(pid) else None
    state, start_time = fields[0], fields[19]
    return None if state in "ZX" else start_time


def is_taken(pid: int) -> bool:
    """Return True if a process has this pid, even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def command_lines() -> dict[int, str]:
    """Return the command line, or the title, of every process by its pid."""
    if sys.platform == "linux":
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                found[int(folder.name)] = os.fsdecode(b" ".join(words))
        return found
    table = subprocess.run(["/bin/ps", "-axww", "-o", "pid=,command="], capture_output=True, check=True)
    lines = (os.fsdecode(line).split(maxsplit=1) for line in table.stdout.splitlines())
    return {int(pid): command for pid, command in lines}


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process."""
    return command_lines().get(pid, "")


def read_pid_file(path: Path) -> tuple[int | None, str]:
    """Return pid and state from the postmaster's pid file."""
    try:
        lines = path.read_text().splitlines()
        return int(lines[0]), "".join(lines[7:8]).strip()
    except (OSError, ValueError, IndexError):
        return None, ""
