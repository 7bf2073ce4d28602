"""The engine of a shard, which one coroutine at a time may work on."""

import asyncio
from types import TracebackType

from stockpulse.engine.engine import Engine


class LockedEngine:
    """`async with locked as engine:` holds the engine; several steps inside are atomic for other tasks."""

    def __init__(self, engine: Engine) -> None:
        self.unlocked = engine
        """The engine without the lock, for reading counts and offsets, which is always safe."""
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Engine:
        await self._lock.acquire()
        return self.unlocked

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._lock.release()
