"""The clock of the machine is set while the simulated market runs: bars follow each other without a hole.

Time runs fast here: a minute takes some seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from stockpulse import app as composition
from stockpulse.aio.steady_clock import SteadyClock
from stockpulse.node.node import Timing

pytestmark = pytest.mark.slow

SPEED = 20
START = datetime(2026, 3, 4, 15, 0, 30, tzinfo=UTC)
SYMBOLS = ("AAA", "BBB")


class FastMachine:
    """The clock of a machine, and its uptime, on a day when time flies."""

    def __init__(self) -> None:
        self._began = time.monotonic_ns()
        self.set_by = timedelta()

    def uptime_micros(self) -> int:
        return (time.monotonic_ns() - self._began) * SPEED // 1000

    def wall(self) -> datetime:
        return START + timedelta(microseconds=self.uptime_micros()) + self.set_by


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 120
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


@pytest.mark.thorough
async def test_steps_of_the_clock_leave_no_hole_and_no_silence(serve, postgres_dsn, monkeypatch):
    machine = FastMachine()
    clock = SteadyClock(machine.wall, machine.uptime_micros)
    running = composition.running
    monkeypatch.setattr(composition, "running", lambda *given: running(*given, timing=Timing(clock)))
    settings = {"provider": "simulated", "symbols": SYMBOLS, "simulated_rate": 5}
    async with serve(postgres_dsn, **settings) as client:
        connection = await asyncpg.connect(postgres_dsn)

        async def bars() -> list[datetime]:
            """The times of the final 1-minute bars that ticks have made."""
            query = "SELECT ts FROM bars_1m JOIN symbols s ON s.id = symbol_id WHERE s.symbol = $1 AND NOT by_minutes"
            rows = await connection.fetch(query + " AND ts >= $2 ORDER BY ts", SYMBOLS[0], START)
            return [row["ts"] for row in rows]

        async def more_bars(count: int) -> None:
            """Wait for that many more bars: the feed is not silent."""
            known = len(await bars())

            async def there() -> bool:
                return len(await bars()) >= known + count

            await until(there)

        await more_bars(2)
        assert (await client.get("/health")).json()["clock"]["last_step_seconds"] is None
        for set_by, seconds in ((timedelta(minutes=5), 300), (timedelta(), -300), (timedelta(hours=-1), -3600)):
            machine.set_by = set_by
            await more_bars(3)
            health = (await client.get("/health")).json()
            assert abs(health["clock"]["last_step_seconds"] - seconds) < 30
        assert health["status"] == "degraded"  # it is ahead by an hour
        assert -3600 <= health["clock"]["behind_seconds"] < -3000
        found = await bars()
        assert len(found) >= 11
        minutes = [found[0] + timedelta(minutes=number) for number in range(len(found))]
        assert found == minutes
        ticks = await connection.fetchrow(
            "SELECT count(*) AS all_of_them, count(DISTINCT (symbol_id, ts)) AS times FROM realtime_prices"
        )
        assert ticks["all_of_them"] == ticks["times"] > 0
        await connection.close()
