"""Files of caches that no process has read for 90 days are removed; a file in use never is."""

import os
import subprocess
import sys
import time
from pathlib import Path

from stockpulse.files.checked_files import read_whole, remove_unused, write_whole

DAYS = 86_400
SCRIPT = """
import sys, time
from pathlib import Path
from stockpulse.files.checked_files import remove_unused
for _ in range(200):
    remove_unused(Path(sys.argv[1]), "*.code", time.time())
"""


def aged(path: Path, days: float) -> Path:
    write_whole(path, b"code")
    then = time.time() - days * DAYS
    os.utime(path, (then, then))
    return path


def test_only_unused_files_of_the_pattern_are_removed(tmp_path: Path) -> None:
    old, young, other = aged(tmp_path / "a.code", 91), aged(tmp_path / "b.code", 89), aged(tmp_path / "a.txt", 91)
    remove_unused(tmp_path, "*.code", time.time())
    assert [path.exists() for path in (old, young, other)] == [False, True, True]
    remove_unused(tmp_path / "missing", "*.code", time.time())


def test_a_file_that_is_read_is_in_use(tmp_path: Path) -> None:
    path = aged(tmp_path / "a.code", 91)
    assert read_whole(path) == b"code"
    remove_unused(tmp_path, "*.code", time.time())
    assert read_whole(path) == b"code"


def test_several_processes_may_remove_at_once(tmp_path: Path) -> None:
    used = aged(tmp_path / "used.code", 1)
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)]) for _ in range(3)]
    while any(process.poll() is None for process in processes):
        for number in range(50):
            aged(tmp_path / f"{number}.code", 91)
    assert {process.wait() for process in processes} == {0}
    assert read_whole(used) == b"code"
