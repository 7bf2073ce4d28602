"""Compiles the loops of indicators to machine code, and keeps it on disk.

Compiling takes half a second per loop. It is done once, in a process of its own with a lower priority than the
server's. Loading compiled loops takes milliseconds. Loading machine code means running it, so the folder must be one
that no other user can write to.
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

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance, LoopFunction
from stockpulse.indicators.history import HISTORY
from stockpulse.indicators.source import Loop
from stockpulse.indicators.steps import FUNCTIONS, GLOBALS

_NICE: Final = 10
_WITH_INPUT: Final = "--with-input"

_FUNCTIONS: Final[dict[tuple[Path, str], LoopFunction]] = {}
"""The functions that this process has loaded, by folder and name."""

_LOADING: Final = threading.Lock()


class Compiler:
    """Returns the function of a loop: from memory, from disk, or newly compiled. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        if not _is_private(folder):
            folder = Path(tempfile.mkdtemp(prefix="stockpulse-loops-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._folder = folder

    def __call__(self, loop: Loop) -> LoopFunction:
        """Return the compiled function. Takes half a second if this machine has never compiled it."""
        place = self._folder, loop.name
        found = _FUNCTIONS.get(place)
        if found is None:
            with _LOADING:
                found = _FUNCTIONS.get(place) or _compiled(loop, self._folder)
                _FUNCTIONS[place] = found
        return found

    def load(self, instances: Iterable[Instance]) -> None:
        """Load the functions of these indicators."""
        for one in instances:
            self(one.loop)

    def is_prepared(self, instances: Iterable[Instance]) -> bool:
        """Return True if all of these lie on disk, compiled for this processor."""
        return self._mark(instances).exists()

    def prepare(self, instances: Iterable[Instance]) -> None:
        """Compile these, and leave a mark that says so."""
        wanted = list(instances)
        self.load(wanted)
        self._mark(wanted).touch()

    async def prepare_aside(self, instances: Iterable[Instance]) -> None:
        """Run `prepare` in a process of its own, which ends with this one; RuntimeError says why it failed."""
        # It gets a session of its own, because a Ctrl-C is meant for us. It ends when its input does, however we end.
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
        """Return the command that runs `prepare`."""
        wanted = [(one.indicator.name, one.values) for one in instances]
        return [sys.executable, "-m", "stockpulse.indicators.compiler", str(self._folder), json.dumps(wanted)]

    def _mark(self, instances: Iterable[Instance]) -> Path:
        import llvmlite.binding as llvm  # noqa: PLC0415  (takes 0.1 s, which the start need not spend)
        import numba  # noqa: PLC0415

        parts = sorted({one.loop.name for one in instances})
        parts += [sys.version, numba.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
        return self._folder / f"prepared_{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def _is_private(folder: Path) -> bool:
    """Return True if only this user can write to the folder. Makes it if it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return False
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == os.getuid() and not others and os.access(folder, os.W_OK)


def _compiled(loop: Loop, folder: Path) -> LoopFunction:
    """Return the loop as machine code. Its source is a file, because numba keeps its cache beside one."""
    from numba import float64, int64, njit, void  # noqa: PLC0415  (takes 0.3 s, which the start need not spend)

    path = folder / f"{loop.name}.py"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        unfinished.write_text(loop.text, encoding="utf-8")
        unfinished.replace(path)
    module = _imported(loop.name, path)
    vars(module).update(_compiled_steps())
    floats, ints, table = float64[::1], int64[::1], float64[:, ::1]
    bars = (floats,) * len(INPUTS)
    signature = void(table, ints, ints, ints, int64, *bars, table, ints, floats, ints)
    compiled: LoopFunction = njit(signature, cache=True, nogil=True, error_model="numpy")(module.loop)
    return compiled


def _imported(name: str, path: Path) -> types.ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # numba looks for it there
    specification.loader.exec_module(module)
    return module


_STEPS: dict[str, Any] = {}


def _compiled_steps() -> dict[str, Any]:
    """Return the steps as functions for compiled loops. Each is compiled with the first loop that uses it.

    They are copies that call each other; the functions in the modules stay plain Python. Inlined, with their state in
    registers, they are three times as fast.
    """
    if not _STEPS:
        from numba import njit  # noqa: PLC0415

        world = dict(GLOBALS)
        for name, function in FUNCTIONS.items():
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
    Compiler(Path(folder)).prepare(Instance((CATALOGUE | HISTORY)[name], values) for name, values in json.loads(wanted))


if __name__ == "__main__":
    _main()
