"""A damaged or missing file of machine code is compiled again; the app needs no writable cache."""

import os
import platform
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from indicator_data import calculated, instance, random_walk

from small_disk import fill, make_room, small_disk
from stockpulse.files.checked_files import DamagedFile, read_whole, write_whole
from stockpulse.indicators.compiler import _FUNCTIONS, Compiler

pytestmark = pytest.mark.slow

ONE = instance("momentum")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the machine code of one loop."""
    folder = tmp_path / "loops"
    Compiler(folder)(ONE.loop)
    _FUNCTIONS.clear()  # as in another process
    return folder


def code_file(folder: Path) -> Path:
    (file,) = folder.glob("*.code")
    return file


def check_that_it_calculates(compiler: Compiler) -> None:
    _FUNCTIONS.clear()
    bars = random_walk(1, 50)
    expected = bars["close"][10:] - bars["close"][:-10]
    assert np.array_equal(calculated(compiler, ONE, bars)["momentum"][10:], expected)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_its_end(content: bytes) -> bytes:
    return content[:-1]


def emptied(_: bytes) -> bytes:
    return b""


def with_a_flipped_bit(content: bytes) -> bytes:
    place = random.Random(1).randrange(len(content))
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def with_four_other_bytes(content: bytes) -> bytes:
    place = len(content) * 3 // 4
    return content[:place] + b"\xff\xff\xff\xff" + content[place + 4 :]


def with_more(content: bytes) -> bytes:
    return content + b"more"


def of_zeros(content: bytes) -> bytes:
    """The content that some file systems leave after a power cut."""
    return bytes(len(content))


DAMAGES = (cut, without_its_end, emptied, with_a_flipped_bit, with_four_other_bytes, with_more, of_zeros)


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_made_anew(folder, damage: Callable[[bytes], bytes]):
    file = code_file(folder)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    compiler = Compiler(folder)
    assert not compiler.is_prepared([ONE])
    check_that_it_calculates(compiler)
    assert compiler.is_prepared([ONE])
    assert compiler.fault is None
    with pytest.raises(AssertionError):
        assert file.read_bytes() == damage(whole)


def test_the_code_of_another_loop_is_not_loaded(folder):
    file = code_file(folder)
    other = folder.parent / "other"
    Compiler(other)(instance("trange").loop)
    file.write_bytes(code_file(other).read_bytes())
    check_that_it_calculates(Compiler(folder))


def test_a_folder_in_place_of_a_file_is_not_fatal(folder):
    file = code_file(folder)
    file.unlink()
    (file / "inside").mkdir(parents=True)
    compiler = Compiler(folder)
    check_that_it_calculates(compiler)
    assert compiler.fault is not None


def test_a_folder_that_vanishes_is_made_again(folder):
    compiler = Compiler(folder)
    code_file(folder).unlink()
    folder.rmdir()
    check_that_it_calculates(compiler)
    assert compiler.is_prepared([ONE])
    assert compiler.fault is None


@pytest.mark.thorough
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the invalid instruction is one of x86-64")
def test_code_that_would_crash_the_process_is_not_run(folder):
    file = code_file(folder)
    code = read_whole(file)
    crashing = with_invalid_instructions(code)
    write_whole(file, crashing)  # with a digest that matches: nothing protects from that
    assert run_it(folder).returncode == -signal.SIGILL
    write_whole(file, code)
    right = file.read_bytes()
    file.write_bytes(right[: len(right) - len(crashing)] + crashing)  # the same damage, on the disk
    with pytest.raises(DamagedFile):
        read_whole(file)
    done = run_it(folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "calculated")
    assert read_whole(file) is not None


def with_invalid_instructions(code: bytes) -> bytes:
    """Return the code with every instruction of its object file overwritten by `ud2`."""
    start = code.index(b"\x7fELF")
    table, size, count = (
        struct.unpack_from("<Q", code, start + 0x28)[0],
        *struct.unpack_from("<HH", code, start + 0x3A),
    )
    damaged = bytearray(code)
    for number in range(count):
        section = start + table + number * size
        flags, _, offset, length = struct.unpack_from("<QQQQ", code, section + 8)
        if flags & 4 and length:  # it holds instructions
            damaged[start + offset : start + offset + length] = (b"\x0f\x0b" * length)[:length]
    assert damaged != code
    return bytes(damaged)


def run_it(folder: Path) -> subprocess.CompletedProcess[str]:
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from indicator_data import calculated, instance, random_walk
from stockpulse.indicators.compiler import Compiler
calculated(Compiler(Path({str(folder)!r})), instance("momentum"), random_walk(1, 50))
print("calculated")
"""
    import stockpulse

    paths = os.pathsep.join([str(Path(stockpulse.__file__).parents[1]), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)


def test_a_full_disk_needs_no_cache(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        fill(disk)
        compiler = Compiler(disk / "loops")
        check_that_it_calculates(compiler)
        assert "No space left" in compiler.fault
        assert not compiler.is_prepared([ONE])
        make_room(disk)
        check_that_it_calculates(compiler)
        assert compiler.fault is None
        assert compiler.is_prepared([ONE])


@pytest.mark.thorough
async def test_what_another_process_compiled_is_used_even_if_the_disk_is_full(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "loops").mkdir(mode=0o700)
        fill(disk)
        compiler = Compiler(disk / "loops")
        await compiler.prepare_aside([ONE])
        assert "No space left" in compiler.fault
        monkeypatch.setattr(compiler, "keep", lambda *_: pytest.fail("it was compiled once more"))
        check_that_it_calculates(compiler)
        assert not compiler.unkept
        assert list((disk / "loops").iterdir()) == []


def test_a_read_only_disk_needs_no_cache(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "loops").mkdir(mode=0o700)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        compiler = Compiler(disk / "loops")
        check_that_it_calculates(compiler)
        assert compiler.fault is not None
