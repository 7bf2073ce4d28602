"""A server in a separate process that all workers of a test run share. The first worker to need it starts it.

The process that runs the server, its keeper, outlives the worker that started it. It ends when no worker holds the
lock on its `users` file any more, also if the workers were killed.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil


@contextlib.contextmanager
def shared(folder: Path, script: str, *arguments: str) -> Iterator[str]:
    """Yield the address of the server that `script` keeps for this run, and start it if it does not run yet.

    `folder` belongs to this server and this run. `script` must call `keep` with its last two arguments.
    """
    users, address = folder / "users.lock", folder / "address"
    with users.open("w") as held:
        with locked(folder / "start.lock"):
            fcntl.flock(held, fcntl.LOCK_SH)  # waits while a keeper that all workers have left stops its server
            if not (address.exists() and _lives(address)):
                command = [sys.executable, script, *arguments, str(users), str(address)]
                _start_keeper(command, address, folder / "keeper.log")
            found = address.read_text().splitlines()[1]
        yield found


def keep(server: AbstractContextManager[str], users: Path, address: Path) -> None:
    """Run `server` until no worker holds a shared lock on `users`; `address` has the keeper and the address."""
    with users.open("w") as lock, server as found:
        unfinished = address.with_suffix(".new")
        unfinished.write_text(f"{os.getpid()}\n{found}")
        unfinished.replace(address)
        fcntl.flock(lock, fcntl.LOCK_EX)
        address.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of a file."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lives(address: Path) -> bool:
    """Return True if the keeper that wrote this file still runs."""
    return psutil.pid_exists(int(address.read_text().splitlines()[0]))


def _start_keeper(command: list[str], address: Path, log: Path) -> None:
    """Start a keeper and wait until its server answers."""
    address.unlink(missing_ok=True)
    with log.open("w") as output:
        keeper = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    while not address.exists():
        assert keeper.poll() is None, f"the server did not start:\n{log.read_text()}"
        time.sleep(0.02)
    keeper.returncode = 0  # keeps Popen from warning that it still runs: it may outlive this process
