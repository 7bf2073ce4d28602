"""The engine of a shard, which one coroutine at a time may work on."""

import asyncio
from types import TracebackType

from stockpulse.engine.engine import Engine


class LockedEngine:
    """`async with locked as engine:` holds the engine; several steps inside are one for everybody else."""

    def __init__(self, engine: Engine) -> None:
        self.unlocked = engine
        """For what is safe at any moment: reading counts and offsets."""
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Engine:
        await self._lock.acquire()
        return self.unlocked

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._lock.release()
