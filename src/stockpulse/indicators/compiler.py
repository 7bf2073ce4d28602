"""Turns the loops of indicators into machine code, and keeps it on disk.

Compiling takes half a second for each, so it is done once, in a process of its own that stands back behind
the server; loading what was compiled takes milliseconds. To load machine code is to run it: the folder must
be one that nobody else can write to.
"""

import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from stockpulse.indicators import steps
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance, LoopFunction
from stockpulse.indicators.source import Loop

_NICE: Final = 10
_WITH_INPUT: Final = "--with-input"

_FUNCTIONS: Final[dict[tuple[Path, str], LoopFunction]] = {}
"""What was loaded in this process, by folder and name."""

_LOADING: Final = threading.Lock()


class Compiler:
    """Gives the function of a loop: from memory, from disk, or newly compiled. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        if not _is_private(folder):
            folder = Path(tempfile.mkdtemp(prefix="stockpulse-loops-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._folder = folder

    def __call__(self, loop: Loop) -> LoopFunction:
        """The compiled function; half a second if it has never been compiled on this machine."""
        place = self._folder, loop.name
        found = _FUNCTIONS.get(place)
        if found is None:
            with _LOADING:
                found = _FUNCTIONS.get(place) or _compiled(loop, self._folder)
                _FUNCTIONS[place] = found
        return found

    def load(self, instances: Iterable[Instance]) -> None:
        """Have the functions of all of these at hand."""
        for one in instances:
            self(one.loop)

    def is_prepared(self, instances: Iterable[Instance]) -> bool:
        """Whether all of this lies compiled on disk, for this processor."""
        return self._mark(instances).exists()

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Compile all of these, and note that it was done."""
        wanted = list(instances)
        self.load(wanted)
        self._mark(wanted).touch()

    async def prepare_aside(self, instances: Iterable[Instance]) -> None:
        """Do that in a process of its own, which ends with us; RuntimeError says why it failed."""
        # In a session of its own, since a Ctrl-C is for us. It ends when its input does, however we end.
        process = await asyncio.create_subprocess_exec(
            *self.command(instances),
            _WITH_INPUT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            said = await process.stderr.read() if process.stderr else b""
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"indicators cannot be compiled: {said.decode(errors='replace')[-2000:]}")

    def command(self, instances: Iterable[Instance]) -> list[str]:
        """The command that does `prepare`."""
        wanted = [(one.indicator.name, one.values) for one in instances]
        return [sys.executable, "-m", "stockpulse.indicators.compiler", str(self._folder), json.dumps(wanted)]

    def _mark(self, instances: Iterable[Instance]) -> Path:
        import llvmlite.binding as llvm  # noqa: PLC0415  (a tenth of a second that the start does without)
        import numba  # noqa: PLC0415

        parts = sorted({one.loop.name for one in instances})
        parts += [sys.version, numba.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
        return self._folder / f"prepared_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def _is_private(folder: Path) -> bool:
    """Whether only this user can write to the folder, which is made if there is none."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return False
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == os.getuid() and not others and os.access(folder, os.W_OK)


def _compiled(loop: Loop, folder: Path) -> LoopFunction:
    """The loop as machine code; its source is a file, since that is what the compiler keeps its results beside."""
    from numba import float64, int64, njit, void  # noqa: PLC0415  (a third of a second that the start does without)

    path = folder / f"{loop.name}.py"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        unfinished.write_text(loop.text, encoding="utf-8")
        unfinished.replace(path)
    module = _imported(loop.name, path)
    vars(module).update(_compiled_steps())
    numbers, whole, table = float64[::1], int64[::1], float64[:, ::1]
    bars = (numbers,) * 6
    signature = void(table, whole, whole, whole, int64, *bars, table, whole, numbers, whole)
    compiled: LoopFunction = njit(signature, cache=True, nogil=True, error_model="numpy")(module.loop)
    return compiled


def _imported(name: str, path: Path) -> types.ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where the compiler looks for it
    specification.loader.exec_module(module)
    return module


_STEPS: dict[str, Any] = {}


def _compiled_steps() -> dict[str, Any]:
    """The steps for use in compiled loops; they are compiled when the first loop that uses one is.

    They are copies that see each other: those in the module stay plain functions. In line, and so with their
    state in registers, they are three times as fast.
    """
    if not _STEPS:
        from numba import njit  # noqa: PLC0415

        world = dict(vars(steps))
        for name, function in vars(steps).items():
            if isinstance(function, types.FunctionType) and function.__module__ == steps.__name__:
                copy = types.FunctionType(function.__code__, world, name)
                _STEPS[name] = njit(copy, error_model="numpy", forceinline=True)
        world.update(_STEPS)
    return _STEPS


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def _main() -> None:
    folder, wanted, *options = sys.argv[1:]
    if _WITH_INPUT in options:
        threading.Thread(target=_end_with_input, daemon=True).start()
    os.nice(_NICE)
    Compiler(Path(folder)).prepare(Instance(CATALOGUE[name], values) for name, values in json.loads(wanted))


if __name__ == "__main__":
    _main()
