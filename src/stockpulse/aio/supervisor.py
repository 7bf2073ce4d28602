"""Named background tasks, watched by one supervisor.

The supervisor restarts a task that fails with a transient fault, after a growing delay. Any other fault stops the
whole process: an exception in a background task does not stop uvicorn, so the supervisor raises SIGTERM, and the
usual graceful shutdown follows.
"""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self

import structlog

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 30.0
_CALM_SECONDS: Final = 60.0
"""A task that ran this long counts as healed: its next delay starts from the shortest again."""

_Faults = tuple[type[BaseException], ...]

log = structlog.get_logger(__name__)


class State(Enum):
    """The state of a task."""

    RUNNING = "running"
    RESTARTING = "restarting"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class TaskHealth:
    """The state of a task, as /health shows it."""

    stage: str
    """The part of the flow that the task does: several tasks, one for each shard, may share a stage."""
    lag: Callable[[], int] | None = None
    """Returns the rows that wait for the task; None if nothing can wait for it."""
    state: State = State.RUNNING
    restarts: int = 0
    last_error: str | None = None


class Supervisor:
    """Runs the background tasks of the process. As a context manager it stops all of them, the newest first."""

    def __init__(
        self,
        transient: _Faults,
        bring_down: Callable[[], None] = lambda: signal.raise_signal(signal.SIGTERM),
    ) -> None:
        """Restart tasks after `transient` faults; call `bring_down` after any other."""
        self._transient = transient
        self._bring_down = bring_down
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.health: dict[str, TaskHealth] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(list(reversed(self._tasks)))

    @property
    def failed(self) -> bool:
        """True if a task ended with a fault that a restart does not heal."""
        return any(health.state is State.FAILED for health in self.health.values())

    def of_stage(self, *stages: str) -> dict[str, TaskHealth]:
        """Return the tasks of these stages by name, in the order in which they were started."""
        return {name: health for name, health in self.health.items() if health.stage in stages}

    def start(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        stage: str | None = None,
        lag: Callable[[], int] | None = None,
        transient: _Faults = (),
    ) -> None:
        """Start a task; `run` is called again after a transient fault, `transient` adds types of such faults.

        Without a `stage`, the name is the stage.
        """
        self.health[name] = TaskHealth(stage or name, lag)
        faults = (*self._transient, *transient)
        self._tasks[name] = asyncio.create_task(self._watch(name, run, faults), name=name)

    @asynccontextmanager
    async def running(self, name: str, run: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Run a task as long as this context lasts."""
        self.start(name, run)
        try:
            yield
        finally:
            await self.stop([name])

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Stop the tasks that are started inside this context when it ends, the newest first."""
        outside = set(self._tasks)
        try:
            yield
        finally:
            await self.stop([name for name in reversed(list(self._tasks)) if name not in outside])

    async def _watch(self, name: str, run: Callable[[], Awaitable[None]], transient: _Faults) -> None:
        try:
            await self._run(self.health[name], name, run, transient)
        except asyncio.CancelledError:
            if name in self.health:
                self.health[name].state = State.STOPPED
            raise

    async def _run(self, health: TaskHealth, name: str, run: Callable[[], Awaitable[None]], transient: _Faults) -> None:
        delay = _FIRST_DELAY
        while True:
            health.state, started = State.RUNNING, time.monotonic()
            try:
                await run()
            except asyncio.CancelledError:
                raise
            except transient as fault:
                health.state, health.last_error = State.RESTARTING, repr(fault)
                delay = _FIRST_DELAY if time.monotonic() - started > _CALM_SECONDS else delay
                log.warning("task failed, restarting it", task=name, error=repr(fault), in_seconds=delay)
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                delay = min(2 * delay, _LONGEST_DELAY)
                health.restarts += 1
            except BaseException as fault:
                health.state, health.last_error = State.FAILED, repr(fault)
                log.critical("task failed, stopping the process", task=name, exc_info=fault)
                self._bring_down()
                return
            else:
                health.state = State.DONE
                return

    async def stop(self, names: Sequence[str], seconds: float = 5.0) -> None:
        """Cancel these tasks one after the other, in this order, and wait up to `seconds` for each."""
        for name in names:
            task = self._tasks.pop(name, None)
            if task is None or task.done():
                continue
            task.cancel()
            _, pending = await asyncio.wait([task], timeout=seconds)
            if pending:
                log.error("task does not stop", task=name)

    def forget(self, names: Sequence[str]) -> None:
        """Drop these tasks, which have ended, from `health`."""
        for name in names:
            self.health.pop(name, None)

    async def wait(self, name: str, seconds: float) -> bool:
        """Wait until a task ends by itself. Return False if it has not ended after `seconds`."""
        task = self._tasks.get(name)
        if task is None:
            return True
        _, pending = await asyncio.wait([task], timeout=seconds)
        return not pending
