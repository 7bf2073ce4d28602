"""A small separate disk that a test can fill: a tmpfs, which only root may mount."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILLER = "filler"


@contextmanager
def small_disk(folder: Path, size: str, *, inodes: int = 100_000) -> Iterator[Path]:
    """Mount a tmpfs of this size (`100m`) on the folder; skip the test where that is not allowed."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root on Linux may mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},nr_inodes={inodes},mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> None:
    """Fill the disk of this folder, except for `leave` bytes."""
    with (folder / _FILLER).open("ab", buffering=0) as file:
        while (wanted := min(free(folder) - leave, 1 << 20)) > 0:
            try:
                file.write(bytes(wanted))
            except OSError:
                return


def make_room(folder: Path) -> None:
    """Remove what `fill` has written."""
    (folder / _FILLER).unlink()


def free(folder: Path) -> int:
    """Return the free bytes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
