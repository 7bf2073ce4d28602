"""The pulse of the database: one small query after another, on a separate connection.

A frozen server keeps its connections open and answers nothing, so a query on it would wait for a minute. The pulse
shows within seconds that the server is silent.
"""

import asyncio
from typing import Final

import asyncpg

from stockpulse.postgres.connect import TRANSIENT, ReconnectingConnection

_BEAT_SECONDS: Final = 0.5
_LATE_BEATS: Final = 4
_SILENT_BEATS: Final = 6
_GIVE_UP_BEATS: Final = 20
_NO_ANSWER: Final[tuple[type[BaseException], ...]] = (*TRANSIENT, asyncpg.PostgresError)
"""A refusal is no answer either. What it means for the process is for those to say who need the database."""


class Pulse:
    """Sends a query to the database every half second."""

    def __init__(self, dsn: str) -> None:
        self._reconnecting = ReconnectingConnection(dsn)
        self._missed = 0
        self._refused = False

    def answers(self) -> bool:
        """Return True if the database has answered the newest query, or may still answer it in time."""
        return not self._refused and self._missed < _LATE_BEATS

    def is_silent(self) -> bool:
        """Return True if the database has not answered for three seconds."""
        return self._missed >= _SILENT_BEATS

    async def run(self) -> None:
        """Send queries until cancelled."""
        try:
            while True:
                asking = asyncio.create_task(self._ask())
                try:
                    await self._wait_for(asking)
                finally:
                    asking.cancel()
                await asyncio.sleep(_BEAT_SECONDS)
        finally:
            self._reconnecting.drop()

    async def _wait_for(self, asking: asyncio.Task[None]) -> None:
        """Count the beats until the answer.

        A busy event loop counts no beats, so it does not look like a silent database.
        """
        for _ in range(_GIVE_UP_BEATS):
            done, _ = await asyncio.wait([asking], timeout=_BEAT_SECONDS)
            if done:
                break
            self._missed += 1
        if not asking.done():
            self._reconnecting.drop()  # its host may have vanished
        elif (fault := asking.exception()) is None:
            self._missed = 0
            self._refused = False
        elif isinstance(fault, _NO_ANSWER):
            self._reconnecting.drop()
            self._missed += 1
            self._refused = True
        else:
            raise fault

    async def _ask(self) -> None:
        connection, _ = await self._reconnecting.get()
        await connection.fetchval("SELECT 1")
