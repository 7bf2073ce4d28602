"""The app as users run it: uvicorn in a separate process, on its own data folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx2

START_SECONDS = 60


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AppProcess:
    """A running app; its lines go to `log` in the data folder. `options` are options of uvicorn.

    `most_files` is the number of files that it may open.
    """

    def __init__(self, data_dir: Path, *options: str, most_files: int | None = None, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir / "app.log"
        self._options = options
        self._before = [] if most_files is None else ["sh", "-c", f'ulimit -n {most_files} && exec "$@"', "sh"]
        self._settings = {"STOCKPULSE_DATA_DIR": str(data_dir), "STOCKPULSE_PROVIDER": "none"} | {
            f"STOCKPULSE_{name.upper()}": value for name, value in settings.items()
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def postmaster(self) -> int:
        """The process id of its embedded PostgreSQL."""
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "uvicorn", "stockpulse.app:app", "--port", str(self.port), "--no-access-log"]
        command = [*self._before, *command, *self._options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | self._settings, stdout=log, stderr=log, start_new_session=True
            )
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until it takes requests."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx2.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the app did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def wait_for(self, path: str, good: Callable[[Any], Any], seconds: float = START_SECONDS) -> Any:
        """Ask for this path until `good` makes something true of the answer; return that."""
        deadline = time.monotonic() + seconds
        while not (found := good(answer := httpx2.get(f"{self.url}{path}", timeout=5).json())):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path} still answers {answer}:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return found

    def kill(self) -> None:
        """Send SIGKILL; its PostgreSQL lives on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = 30) -> int:
        """Send SIGTERM and wait for the end; return the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
