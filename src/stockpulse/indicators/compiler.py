"""Compiles the loops of indicators to machine code, and keeps it on disk.

Compiling takes half a second per loop. It is done once, in a separate process with a lower priority than the server.
Loading compiled loops takes milliseconds. Loading machine code means running it, so the folder must be one that no
other user can write to, and each file is checked before it is loaded. Without a folder everything works too: the loops
are then compiled at each start.
"""

import asyncio
import functools
import hashlib
import json
import linecache
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import structlog

from stockpulse.files.checked_files import DamagedFile, read_whole, remove_left_over, remove_unused, write_whole
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance, LoopFunction
from stockpulse.indicators.history import HISTORY
from stockpulse.indicators.private_folder import why_not_private
from stockpulse.indicators.source import Loop
from stockpulse.indicators.steps import FUNCTIONS, GLOBALS

_NICE: Final = 10
_AS_HELPER: Final = "--as-helper"
_LEFT_OVER_SECONDS: Final = 3600

_FUNCTIONS: Final[dict[tuple[Path | None, str], LoopFunction]] = {}
"""The functions that this process has loaded, by folder and name."""

_LOADING: Final = threading.Lock()

log = structlog.get_logger(__name__)


class Compiler:
    """Returns the function of a loop: from memory, from disk, or newly compiled. Threads may share it."""

    def __init__(self, folder: Path | None, *, hands_over: bool = False) -> None:
        """With `hands_over`, code that cannot be written to disk is collected in `unkept`."""
        self._folder = folder
        self._hands_over = hands_over
        self.unkept: dict[str, bytes] = {}
        """Machine code that is not on disk and not loaded yet, by the name of its file."""
        self.fault: str | None = None
        """The reason why compiled loops are not kept for the next start; None if they are."""
        self._unfit = None if folder is None else why_not_private(folder)
        if self._unfit is not None:
            self._note(self._unfit)
            self._folder = self._folder_for_this_run()
        if self._folder is not None:
            remove_left_over(self._folder, time.time() - _LEFT_OVER_SECONDS)
            for pattern in ("*.code", "loop_*.py", "*.nbi", "*.nbc"):  # the last three: of older versions
                remove_unused(self._folder, pattern, time.time())

    def _folder_for_this_run(self) -> Path | None:
        try:
            folder = Path(tempfile.mkdtemp(prefix="stockpulse-loops-"))
        except OSError:
            return None
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def __call__(self, loop: Loop) -> LoopFunction:
        """Return the compiled function. Takes half a second if this machine has never compiled it."""
        place = self._folder, loop.name
        found = _FUNCTIONS.get(place)
        if found is None:
            with _LOADING:
                found = _FUNCTIONS.get(place) or _compiled(loop, _Code(self, file_name(loop)))
                _FUNCTIONS[place] = found
        return found

    def load(self, instances: Iterable[Instance]) -> None:
        """Load the functions of these indicators. Compiles those that are not on disk."""
        for one in instances:
            self(one.loop)

    def is_prepared(self, instances: Iterable[Instance]) -> bool:
        """Return True if all of these lie on disk undamaged, compiled for this processor."""
        return all(self.read(file_name(one.loop)) is not None for one in instances)

    async def prepare_aside(self, instances: Iterable[Instance]) -> None:
        """Compile these in a separate process, which ends with this one; RuntimeError has the reason of a failure."""
        # It gets its own session, because a Ctrl-C is meant for us. It ends with its input, also if this process is
        # killed.
        process = await asyncio.create_subprocess_exec(
            *self.command(instances),
            _AS_HELPER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - they are pipes
        assert process.stderr is not None  # noqa: S101
        try:
            unkept, said = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"indicators cannot be compiled: {said.decode(errors='replace')[-2000:]}")
        if unkept:
            self._take_over(unkept)

    def _take_over(self, said: bytes) -> None:
        """Take the code that the other process could not write to disk."""
        reason, self.unkept = pickle.loads(said)  # noqa: S301 - from a process that we have started
        self._note(reason)

    def command(self, instances: Iterable[Instance]) -> list[str]:
        """Return the command that compiles these and keeps them on disk."""
        wanted = [(one.indicator.name, one.values) for one in instances]
        return [sys.executable, "-m", "stockpulse.indicators.compiler", str(self._folder or ""), json.dumps(wanted)]

    # Code on disk -------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """Return the machine code with this name; None if its file is missing or damaged."""
        if name in self.unkept:
            return self.unkept[name]
        if self._folder is None:
            return None
        try:
            return read_whole(self._folder / name)
        except DamagedFile as damaged:
            log.warning("a file of compiled indicators is damaged; compiling it again", reason=str(damaged))
            return None

    def keep(self, name: str, code: bytes) -> None:
        """Write machine code to disk. If that fails, report it once, and continue without the file."""
        try:
            if self._folder is not None:
                write_whole(self._folder / name, code)
                self.fault = self._unfit
                return
        except OSError as fault:
            self._note(str(fault))
        if self._hands_over:
            self.unkept[name] = code

    def _note(self, reason: str) -> None:
        if self.fault is None and not self._hands_over:
            log.warning("compiled indicators cannot be kept; they are compiled again at each start", reason=reason)
        self.fault = reason


@functools.cache
def _machine() -> str:
    """Return a digest of everything that machine code depends on, besides its source."""
    import llvmlite  # noqa: PLC0415  (takes 0.1 s, which the start need not spend)
    import llvmlite.binding as llvm  # noqa: PLC0415
    import numba  # noqa: PLC0415

    parts = [sys.version, numba.__version__, llvmlite.__version__, llvm.get_process_triple()]
    parts += [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def file_name(loop: Loop) -> str:
    """Return the name of the file with the machine code of a loop for this processor."""
    return f"{loop.name}.{_machine()}.code"


class _Code:
    """The machine code of one loop as numba's dispatcher loads and saves it.

    It replaces `numba.core.caching.FunctionCache`, which loads its files unchecked and needs a folder.
    """

    cache_path = None  # `stats` of a dispatcher shows it

    def __init__(self, compiler: Compiler, name: str) -> None:
        self._compiler = compiler
        self._name = name

    def load_overload(self, _signature: object, target: Any) -> Any:
        """Return the compiled function, or None."""
        from numba.core.compiler import CompileResult  # noqa: PLC0415

        rebuild: Any = CompileResult._rebuild  # noqa: SLF001
        target.refresh()
        code = self._compiler.read(self._name)
        self._compiler.unkept.pop(self._name, None)
        if code is None:
            return None
        try:
            return rebuild(target, *pickle.loads(code))  # noqa: S301 - its digest is right
        except Exception as fault:  # noqa: BLE001 - whatever another build of numba left there, a new one replaces it
            log.warning("compiled indicators cannot be loaded; compiling them again", error=repr(fault))
            return None

    def save_overload(self, _signature: object, result: Any) -> None:
        """Keep a newly compiled function."""
        from numba.core import serialize  # noqa: PLC0415

        dumps: Any = serialize.dumps
        self._compiler.keep(self._name, dumps(result._reduce()))  # noqa: SLF001


def _compiled(loop: Loop, code: _Code) -> LoopFunction:
    """Return the loop as machine code."""
    from numba import float64, int64, njit, void  # noqa: PLC0415  (takes 0.3 s, which the start need not spend)

    module = _module(loop)
    vars(module).update(_compiled_steps())
    floats, ints, table = float64[::1], int64[::1], float64[:, ::1]
    bars = (floats,) * len(INPUTS)
    signature = void(table, ints, ints, ints, int64, *bars, table, ints, floats, ints)
    # A loop allocates nothing. Without numba's runtime it does not count references either: that would take longer than
    # one bar of most indicators.
    options: Any = {"nogil": True, "error_model": "numpy", "_nrt": False}
    function: Any = njit(**options)(module.loop)
    function._cache = code  # noqa: SLF001 - numba has no other way to hand in a cache
    function.compile(signature)
    function.disable_compile()
    compiled: LoopFunction = function
    return compiled


def _module(loop: Loop) -> types.ModuleType:
    """Return the loop as a module. Its source stays in memory, where nothing can damage it."""
    place = f"<{loop.name}>"
    linecache.cache[place] = len(loop.text), None, loop.text.splitlines(keepends=True), place  # for tracebacks
    module = types.ModuleType(loop.name)
    sys.modules[loop.name] = module  # numba looks for it there
    exec(compile(loop.text, place, "exec"), vars(module))  # noqa: S102 - generated from our own definitions
    return module


_STEPS: dict[str, Any] = {}


def _compiled_steps() -> dict[str, Any]:
    """Return the steps as functions for compiled loops. Each is compiled with the first loop that uses it.

    They are copies that call each other; the functions in the modules stay plain Python. Inlined, with their state in
    registers, they are three times as fast.
    """
    if not _STEPS:
        from numba import njit, uint64  # noqa: PLC0415

        world = dict(GLOBALS)
        for name, function in FUNCTIONS.items():
            copy = types.FunctionType(function.__code__, world, name)
            _STEPS[name] = njit(copy, error_model="numpy", forceinline=True)
        _STEPS["index"] = uint64  # an unsigned index is used as it is
        world.update(_STEPS)
    return _STEPS


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def _main() -> None:
    folder, wanted, *options = sys.argv[1:]
    helps = _AS_HELPER in options
    if helps:
        threading.Thread(target=_end_with_input, daemon=True).start()
    os.nice(_NICE)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as code:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # messages of any library do not mix with the code
        _compile(Path(folder) if folder else None, helps, json.loads(wanted), code)


def _compile(
    folder: Path | None, helps: bool, wanted: list[tuple[str, Mapping[str, object]]], output: BinaryIO
) -> None:
    """Compile indicators, given by name and parameters; write to `output` what cannot be kept on disk."""
    compiler = Compiler(folder, hands_over=helps)
    compiler.load(Instance((CATALOGUE | HISTORY)[name], values) for name, values in wanted)
    if compiler.unkept:
        output.write(pickle.dumps((compiler.fault or "there is no folder for them", compiler.unkept)))


if __name__ == "__main__":
    _main()
