"""A real Chromium without a window, for tests of what browsers do."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

PLACES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)


def chromium() -> str:
    """Return the browser of this machine; skip the test on a machine without a browser."""
    found = next(filter(None, map(shutil.which, PLACES)), None)
    if found is None:
        pytest.skip("needs Chromium")
    return found


def page_of(url: str) -> tuple[str, str]:
    """Return the document at an address after its scripts have run, and the messages of the console."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        command = [chromium(), *FLAGS, f"--user-data-dir={folder}", "--virtual-time-budget=20000", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@contextlib.contextmanager
def visiting(url: str) -> Iterator[None]:
    """Have a page open."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        command = [chromium(), *FLAGS, f"--user-data-dir={folder}", "--remote-debugging-port=0", url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                yield
            finally:
                browser.terminate()
