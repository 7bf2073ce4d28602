"""Named background tasks, each watched.

A task that fails with a fault that passes by itself is started again after a while. Any other fault brings
the whole process down, loudly, rather than leaving half of it running: an exception in a background task
does not stop uvicorn by itself, so SIGTERM is raised, and the stop is the usual graceful one.
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 30.0
_CALM_SECONDS: Final = 60.0
"""After running for so long a task counts as healed, and its next delay is short again."""

log = structlog.get_logger(__name__)


class State(Enum):
    """What a task does just now."""

    RUNNING = "running"
    RESTARTING = "restarting"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class TaskHealth:
    """A task's state, as /health shows it."""

    state: State = State.RUNNING
    restarts: int = 0
    last_error: str | None = None


class Supervisor:
    """Runs the background tasks of the process."""

    def __init__(
        self,
        transient: tuple[type[BaseException], ...],
        bring_down: Callable[[], None] = lambda: signal.raise_signal(signal.SIGTERM),
    ) -> None:
        self._transient = transient
        self._bring_down = bring_down
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.health: dict[str, TaskHealth] = {}

    @property
    def failed(self) -> bool:
        """Whether a task died of a fault that cannot heal."""
        return any(health.state is State.FAILED for health in self.health.values())

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start a task under this name. `run` is called again after a transient fault."""
        self.health[name] = TaskHealth()
        self._tasks[name] = asyncio.create_task(self._watch(name, run), name=name)

    async def _watch(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._run(name, run)
        except asyncio.CancelledError:
            self.health[name].state = State.STOPPED
            raise

    async def _run(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        health = self.health[name]
        delay = _FIRST_DELAY
        while True:
            health.state, started = State.RUNNING, time.monotonic()
            try:
                await run()
            except asyncio.CancelledError:
                raise
            except self._transient as fault:
                health.state, health.last_error = State.RESTARTING, repr(fault)
                delay = _FIRST_DELAY if time.monotonic() - started > _CALM_SECONDS else delay
                log.warning("task failed, starting it again", task=name, error=repr(fault), in_seconds=delay)
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
        """Cancel these tasks and wait for them, in this order."""
        for name in names:
            task = self._tasks.pop(name, None)
            if task is None or task.done():
                continue
            task.cancel()
            _, pending = await asyncio.wait([task], timeout=seconds)
            if pending:
                log.error("task does not stop", task=name)

    def forget(self, names: Sequence[str]) -> None:
        """These tasks, which have ended, are of no interest any more."""
        for name in names:
            self.health.pop(name, None)

    async def wait(self, name: str, seconds: float) -> bool:
        """Wait until a task is done by itself; whether it was in time."""
        task = self._tasks.get(name)
        if task is None:
            return True
        _, pending = await asyncio.wait([task], timeout=seconds)
        return not pending
