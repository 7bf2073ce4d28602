"""Machine code is compiled once, and kept in a folder that no other user can change."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from indicator_data import calculated, instance, random_walk

from stockpulse.indicators.compiler import _FUNCTIONS, Compiler
from stockpulse.indicators.evaluation import Instance

pytestmark = pytest.mark.slow

CHEAP = (instance("momentum"), instance("trange"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "loops"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of temporary folders for one run."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def machine_code(folder: Path) -> dict[str, int]:
    """The files of compiled loops, and when each was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.code")}


def check_that_it_calculates(compiler: Compiler, one: Instance = CHEAP[0]) -> None:
    bars = random_walk(1, 50)
    expected = bars["close"][10:] - bars["close"][:-10]
    assert np.array_equal(calculated(compiler, one, bars)["momentum"][10:], expected)


def test_a_loop_is_compiled_once_in_a_process(folder):
    compiler = Compiler(folder)
    assert compiler(CHEAP[0].loop) is compiler(instance("momentum", period=3).loop)
    assert len(machine_code(folder)) == 1


def test_a_loop_is_found_again_on_disk(folder):
    check_that_it_calculates(Compiler(folder))
    assert len(machine_code(folder)) == 1
    check_that_it_is_found(folder)


def test_only_the_user_can_read_a_new_folder(folder):
    Compiler(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.thorough
def test_prepared_is_what_was_prepared(folder):
    compiler = Compiler(folder)
    assert not compiler.is_prepared(CHEAP)
    compiler.load(CHEAP[:1])
    assert not compiler.is_prepared(CHEAP)
    compiler.load(iter(CHEAP))
    assert compiler.is_prepared(CHEAP)
    assert Compiler(folder).is_prepared(reversed(CHEAP))
    assert compiler.is_prepared([instance("trange"), instance("momentum", period=77)])
    assert not compiler.is_prepared([*CHEAP, instance("roc")])
    assert len(machine_code(folder)) == 2


@pytest.mark.thorough
def test_command_prepares_in_a_process_of_its_own(folder):
    compiler = Compiler(folder)
    done = run(compiler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert compiler.is_prepared(CHEAP)
    before = machine_code(folder)
    assert len(before) == 2
    check_that_it_calculates(compiler)
    compiler.load(CHEAP)
    assert machine_code(folder) == before


@pytest.mark.thorough
def test_two_processes_may_prepare_the_same_folder_at_once(folder):
    command = Compiler(folder).command(CHEAP)
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert Compiler(folder).is_prepared(CHEAP)
    assert {file.suffix for file in folder.iterdir()} == {".code"}  # nothing unfinished is left
    check_that_it_calculates(Compiler(folder))


@pytest.mark.thorough
def test_what_two_processes_prepared_at_once_needs_no_compiler(folder, tmp_path, monkeypatch):
    # One has found nothing, and puts its code in place after the other has done so.
    wrote, go_on = tmp_path / "wrote", tmp_path / "go_on"
    command = Compiler(folder).command(CHEAP[:1])
    script = WAITS_AND_WRITES.format(wrote=str(wrote), go_on=str(go_on), arguments=command[3:])
    late = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment())
    wait_until(lambda: wrote.exists() or late.poll() is not None)
    check_that_it_calculates(Compiler(folder))
    go_on.touch()
    assert late.communicate(timeout=60)[1] == ""
    assert late.returncode == 0
    check_that_it_is_found(folder)


WAITS_AND_WRITES = """
import os, sys, time
from pathlib import Path
from stockpulse.indicators import compiler

def replace(self, target, replace=Path.replace):
    Path({wrote!r}).touch()
    while not Path({go_on!r}).exists():
        time.sleep(0.01)
    return replace(self, target)

Path.replace = replace
sys.argv[1:] = {arguments!r}
compiler._main()
"""


def check_that_it_is_found(folder: Path) -> None:
    """A new compiler on the folder does not compile."""
    _FUNCTIONS.clear()  # as in another process
    before, compiler = machine_code(folder), Compiler(folder)
    check_that_it_calculates(compiler)
    (function,) = _FUNCTIONS.values()
    assert sum(function.stats.cache_hits.values()) == 1
    assert machine_code(folder) == before


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o720, 0o702])
def test_a_folder_that_others_can_write_to_is_not_used(folder, temporary, mode):
    folder.mkdir()
    folder.chmod(mode)
    compiler = Compiler(folder)
    check_that_it_calculates(compiler)
    assert list(folder.iterdir()) == []
    assert compiler._folder.parent == temporary
    assert stat.S_IMODE(compiler._folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert compiler.fault == f"others can write to {folder}"


def test_a_folder_that_others_can_only_read_is_used(folder):
    folder.mkdir()
    folder.chmod(0o755)
    Compiler(folder).load(CHEAP[:1])
    assert len(list(folder.iterdir())) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root can write to every folder")
def test_a_folder_that_cannot_be_written_to_is_not_used(folder):
    folder.mkdir(mode=0o500)
    check_that_it_calculates(Compiler(folder))
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_said_not_to_be_writable_is_not_used(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (folder, os.W_OK))
    check_that_it_calculates(Compiler(folder))
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_not_used(tmp_path):
    (tmp_path / "file").write_text("")
    check_that_it_calculates(Compiler(tmp_path / "file" / "loops"))


def test_a_folder_of_somebody_else_is_not_used(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    compiler = Compiler(folder)
    assert compiler._folder != folder
    check_that_it_calculates(compiler)
    assert list(folder.iterdir()) == []


def run(compiler: Compiler) -> subprocess.CompletedProcess[str]:
    command = compiler.command(CHEAP)
    assert command[0] == sys.executable
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment())


def environment() -> dict[str, str]:
    """That of this process, with the package that it tests."""
    import stockpulse

    return os.environ | {"PYTHONPATH": str(Path(stockpulse.__file__).parents[1])}
